"""The daemon: claims runs for its free slots, keeps their leases, drains, stops.

::

    services ── signals      first: drain; second: end what runs
             ├─ listener     the queue's poke, or the poll, wakes the two below
             ├─ leases       extends all leases in one call; ends what it says was cancelled or lost
             └─ claiming     free slots -> takeover, claim -> one task per run (``execute``)

Nothing of a run depends on this process staying alive; what a drained agent leaves is as after a kill -9, only that
nothing is left, or that it was handed over.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import anyio
import anyio.abc

from flow_agent import events
from flow_agent.errors import QueueUnavailable, first_of_ours
from flow_agent.execute import Tools, execute
from flow_agent.health import Contact, Health, watched
from flow_agent.hold import Hold, Pace, answered, leased
from flow_agent.model import AgentInfo, Claim, Reason, Verdict
from flow_agent.takeover import Takeover, Won
from flow_agent.unserved import watch_unserved

FASTEST_EXTEND = 0.2
"""Seconds between two extensions that pokes asked for: a burst of submits must not become one of writes."""
CLAIM_FIRST = 0.02
"""Seconds for which a listener that was woken only listens: looking for what is due would hold up the claim."""
_chance = random.SystemRandom()
OVERDUE = 0.02
"""Seconds until the next look when a run is due already and the claim that promotes it is on its way."""


class _DrainedEarly(Exception):
    """Told to stop before the queue had answered once."""


class Agent:
    """One life of an agent."""

    def __init__(
        self, info: AgentInfo, tools: Tools, pace: Pace, *, until_empty: bool = False, health: Health | None = None
    ) -> None:
        self._info, self._pace, self._until_empty = info, pace, until_empty
        self.health = health or Health(tools.now)
        self.health.on_back = self._extend_at_once
        self._tools = replace(tools, queue=watched(tools.queue, self.health))
        self._takeover = Takeover(info, self._tools, pace.heartbeat)
        self._holds: dict[int, Hold] = {}
        """By identity: an agent that lost a run and claims it again holds it twice for a while."""
        self.health.runs, self.health.slots = self._holds.__len__, info.limit
        self._retried: set[str] = set()
        self._executed = 0
        self._draining = self._forced = False
        self._changed = anyio.Event()
        self._extend_now = anyio.Event()
        self._drained = anyio.Event()
        self._contact = Contact(tools.leases.claimed, pace.heartbeat)

    async def serve(self, *, signals: bool = True, ready: Callable[[], None] = lambda: None) -> bool:
        """Work until drained; whether all attempts could end by themselves. ``ready`` is called once it works.

        Raises QueueError: the queue is broken for good. Attempts go on under their keepers then.
        """
        try:
            await self._serve(signals, ready)
        except BaseExceptionGroup as group:  # task groups wrap what ends them; the command line wants the cause
            if (broken := first_of_ours(group)) is not None:
                raise broken from None
            raise
        await self._say(lambda: self._tools.queue.retire(self._info))
        events.agent_stopped(runs=self._executed, forced=self._forced)
        return not self._forced

    async def _serve(self, signals: bool, ready: Callable[[], None]) -> None:
        async with anyio.create_task_group() as services:
            if signals:
                await services.start(self._signals, name="signals")
            with contextlib.suppress(_DrainedEarly):
                adopted = await self._adopt()
                services.start_soon(self.health.watch, name="health")
                services.start_soon(self._listen, name="listener")
                services.start_soon(self._keep_leases, name="leases")
                services.start_soon(watch_unserved, self._tools, self._info.id, self._pace.heartbeat, name="unserved")
                self.health.begins()
                ready()
                async with anyio.create_task_group() as runs:
                    for claim, before in adopted:
                        self._start(runs, claim, before)
                    await self._claiming(runs)
            services.cancel_scope.cancel()

    def drain(self) -> None:
        """Claim nothing more; a second time: end what runs."""
        if not self._draining:
            self._draining = True
            self.health.drains()
            events.agent_draining(len(self._holds))
            for hold in self._holds.values():
                hold.hand_over()
        elif not self._forced:
            self._forced = True
            events.agent_stopping(len(self._holds))
            for hold in self._holds.values():
                hold.end(Reason.AGENT_STOPPING)
        self._change()

    # Services

    async def _signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            async for _ in received:
                self.drain()

    async def _listen(self) -> None:
        deaf = poked = False
        while True:
            try:
                with anyio.move_on_after(CLAIM_FIRST if poked else await self._quiet_time()) as quiet:
                    await self._tools.queue.wait(2 * self._pace.poll)
                was_poked, poked, deaf = poked, not quiet.cancelled_caught, False
                if was_poked and not poked:
                    continue
            except QueueUnavailable as error:
                if not deaf and self.health.away() is None:
                    events.wake_up_lost(error)
                deaf = True
                await anyio.sleep(self._pace.poll)
            else:
                self._extend_now.set()
            self._change()

    def _extend_at_once(self) -> None:
        self._extend_now.set()

    async def _quiet_time(self) -> float:
        """Seconds for which nothing is expected: the jittered poll, or less if a run becomes due before."""
        poll = self._pace.poll * _chance.uniform(0.8, 1.2)
        due = await self._tools.queue.next_due() if len(self._holds) < self._info.limit else None
        return poll if due is None else min(poll, max(OVERDUE, due - self._tools.now()))

    async def _keep_leases(self) -> None:
        beat = anyio.current_time()
        while True:
            with anyio.CancelScope(deadline=beat):
                await self._extend_now.wait()
            self._extend_now = anyio.Event()
            self.health.turned(self._pace.heartbeat)
            beaten = anyio.current_time() >= beat
            if self._holds or beaten or self._contact.lost():  # a poke is about cancelling only if we hold something
                before = anyio.current_time()
                await self._extend(before)
                if beaten:
                    events.flush()
                    await self._resolve_lost()
                beat = before + self._pace.heartbeat  # of a queue that is slow to answer the leases are older
                await anyio.sleep(FASTEST_EXTEND)

    async def _extend(self, before: float) -> None:
        holds = {(hold.claim.run.id, hold.claim.number): hold for hold in self._holds.values()}
        info = replace(self._info, running=len(holds), draining=self._draining)
        leases = self._tools.leases
        try:
            verdicts = await self._tools.queue.extend(info, [hold.claim for hold in holds.values()])
        except QueueUnavailable:
            return
        if self._contact.made():
            self._change()
        for key, verdict in verdicts.items():
            hold = holds[key]
            if verdict is Verdict.LOST and id(hold) in self._holds:
                hold.end(Reason.LEASE_LOST)
            elif verdict is Verdict.CANCEL:
                hold.end(Reason.CANCELLED)
            if verdict is not Verdict.LOST:
                await hold.move(before + (leases.running if hold.started else leases.claimed))

    async def _resolve_lost(self) -> None:
        """See to the runs of agents that are gone also while we are too full to claim, and the claim does not."""
        if self._contact.settling() <= 0:
            with contextlib.suppress(QueueUnavailable):
                events.runs_resolved(await self._tools.queue.reap())

    # Runs

    async def _adopt(self) -> Won:
        """What an earlier life of this agent left, and what nobody watches."""
        try:
            won = await self._takeover.at_start(lambda: self._draining)
        except QueueUnavailable:
            raise _DrainedEarly from None
        self._contact.made()
        return won

    def _start(self, runs: anyio.abc.TaskGroup, claim: Claim, before: float) -> None:
        hold = Hold(claim, before + claim.lease, tasks=runs, freed=self._change)
        hold.handing_over = self._draining
        self._holds[id(hold)] = hold
        runs.start_soon(self._run, hold, name=f"run {claim.run.id}")

    async def _run(self, hold: Hold) -> None:
        try:
            await execute(hold, self._tools)
        finally:
            del self._holds[id(hold)]
            self._executed += 1
            if hold.retry_in is not None:
                self._retried.add(hold.claim.run.id)
            if not hold.over or self._until_empty or self._draining:  # else the claim was asked for already
                self._change()

    async def _claiming(self, runs: anyio.abc.TaskGroup) -> None:
        """Claim until drained, or, with ``until_empty``, until there is nothing left to wait for."""
        while not self._draining:
            changed = self._changed
            free = self._info.limit - sum(not hold.over for hold in self._holds.values())
            for claim, before in (taken := await self._takeover.later(free, lambda: self._draining)):
                self._start(runs, claim, before)
            free -= len(taken)
            claims = await self._claim(free) if free > 0 else []
            for claim, before in claims:
                events.run_claimed(claim)
                self._start(runs, claim, before)
            if not claims and free > 0 and self._until_empty and await self._nothing_left():
                return
            await changed.wait()  # what was submitted since the claim has set it
        await self._wait_for_the_rest(runs)

    async def _claim(self, free: int) -> Won:
        """Win up to ``free`` runs, each with the time before the request. A lost reply is asked for again."""
        request = uuid.uuid4().hex

        async def ask() -> list[Claim]:
            # A claim resolves what was lost, and others may be about to report just that.
            while (seconds := self._contact.settling()) > 0:
                await self._changed_since(self._changed, seconds)
                if self._draining:
                    return []
            return await self._tools.queue.claim(self._info, free, request)

        try:
            # Not cancelled by a drain: between commit and answer, a run would be held by nobody that knows.
            claims, before = await leased("claim", ask, self._tools.leases.claimed, lambda: self._draining)
        except QueueUnavailable:
            return []
        return [(claim, before) for claim in claims]

    async def _nothing_left(self) -> bool:
        """Whether this agent's own attempts, with their retries, have ended; called after an empty claim."""
        if self._holds:
            return False
        for run_id in list(self._retried):
            run = await answered("get", partial(self._tools.queue.get, run_id))
            if run.state.terminal:
                self._retried.discard(run_id)
        # A claim promotes only so many due runs; ours may be among the next.
        due = await answered("next_due", self._tools.queue.next_due)
        return not self._retried and (due is None or due > self._tools.now())

    async def _wait_for_the_rest(self, runs: anyio.abc.TaskGroup) -> None:
        """After a drain: wait for what runs, or, once forced, for no longer than its end may take."""
        info = replace(self._info, running=len(self._holds), draining=True)
        runs.start_soon(self._say, lambda: self._tools.queue.announce(info), name="announce")
        while self._holds and not self._forced:
            await self._changed_since(self._changed, math.inf)
        with anyio.move_on_after(self._tools.means.grace + self._pace.last_words):
            while self._holds:
                await self._changed_since(self._changed, math.inf)
        runs.cancel_scope.cancel()

    async def _say(self, words: Callable[[], Awaitable[None]]) -> None:
        """Tell the queue, if it listens: nothing depends on it."""
        if self.health.away() is None:
            with contextlib.suppress(QueueUnavailable):
                await words()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    @staticmethod
    async def _changed_since(changed: anyio.Event, at_most: float) -> None:
        with anyio.move_on_after(at_most):
            await changed.wait()
