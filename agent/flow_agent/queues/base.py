"""A queue whose verbs each are one transaction over a store; memory and SQLite differ only below that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from flow_agent.asked import check_registrations, check_submissions
from flow_agent.errors import QueueError
from flow_agent.model import (
    AgentInfo,
    Attempt,
    Claim,
    Limit,
    LogLine,
    Outcome,
    Pruned,
    Pruning,
    Registration,
    Run,
    State,
    Submission,
    Verdict,
    Waiting,
)
from flow_agent.ports import Clock, Leases
from flow_agent.queues import limits as limiting
from flow_agent.queues import presence, pruning, verbs
from flow_agent.queues.rules import Moment
from flow_agent.queues.store import Holds, Store

T = TypeVar("T")


class StoreQueue(ABC):
    """``ports.Queue`` over ``_read`` and ``_write``; each verb's meaning stands there."""

    def __init__(self, *, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock
        self._limited = False

    @abstractmethod
    async def _read(self, operation: Callable[[Store], T], *, short: bool = False) -> T:
        """The answer of ``operation`` on one state of the store; ``short``: it only looks into an index."""

    @abstractmethod
    async def _write(
        self,
        operation: Callable[[Store], T],
        *,
        poke: bool = False,
        lasting: bool = True,
        holds: Collection[Holds] = (),
    ) -> T:
        """The answer of ``operation``, once what it changed is safe; then wake agents if ``poke``.

        ``lasting``: safe means that it survives a power cut; else the end of this program. ``holds`` is what it will
        hold, for stores in which several write at a time.
        """

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """See ``Queue.wait``."""

    def _moment(self) -> Moment:
        """Read inside the transaction: waiting for the turn must not use up a lease."""
        clock = self._clock
        return Moment(now=clock.now(), monotonic=clock.monotonic(), boot=clock.boot(), leases=self._leases)

    # Registrations

    async def register(self, registrations: Sequence[Registration]) -> list[Registration]:
        """See ``Queue.register``."""
        check_registrations(registrations)
        return await self._write(
            lambda store: verbs.register(store, registrations, self._moment()), holds=(Holds.VERSIONS,)
        )

    async def registration(self, flow: str, version: int | None = None) -> Registration:
        """See ``Queue.registration``."""
        return await self._read(lambda store: verbs.registration_of(store, flow, version))

    async def registrations(self) -> list[Registration]:
        """See ``Queue.registrations``."""
        return await self._read(lambda store: store.registrations())

    # Runs

    async def submit(self, submissions: Sequence[Submission]) -> list[Run]:
        """See ``Queue.submit``."""
        check_submissions(submissions)
        return await self._write(
            lambda store: verbs.submit(store, submissions, self._moment()), poke=True, holds=(Holds.FLOWS, Holds.SLOTS)
        )

    async def get(self, run_id: str) -> Run:
        """See ``Queue.get``."""
        return await self._read(lambda store: verbs.find(store, run_id).run)

    async def runs(
        self, *, states: Collection[State] = (), flow: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Run]:
        """See ``Queue.runs``."""
        return await self._read(lambda store: store.runs(states, flow, limit, before))

    async def attempts(self, run_id: str) -> list[Attempt]:
        """See ``Queue.attempts``."""
        return await self._read(lambda store: store.attempts(run_id))

    async def cancel(self, run_id: str) -> Run:
        """See ``Queue.cancel``."""
        return await self._write(lambda store: verbs.cancel(store, run_id, self._moment()), poke=True)

    # What agents do

    async def claim(self, agent: AgentInfo, limit: int, request_id: str) -> list[Claim]:
        """See ``Queue.claim``."""

        def operation(store: Store) -> list[Claim]:
            self._limited = bool(store.limits())
            return verbs.claim(store, agent, limit, request_id, self._moment())

        # Before it is started, a claim that a power cut takes away is one that nobody won.
        return await self._write(operation, lasting=False, holds=(Holds.SLOTS,))

    async def started(self, claim: Claim, ref: str, *, revision: str | None = None, scope: str = "") -> None:
        """See ``Queue.started``."""
        await self._write(
            lambda store: verbs.started(store, claim, self._moment(), ref=ref, revision=revision, scope=scope)
        )

    async def extend(self, agent: AgentInfo, claims: Collection[Claim]) -> dict[tuple[str, int], Verdict]:
        """See ``Queue.extend``."""
        return await self._write(lambda store: verbs.extend(store, agent, claims, self._moment()), lasting=False)

    async def finish(self, claim: Claim, outcome: Outcome, *, retry_in: float | None = None) -> Run:
        """See ``Queue.finish``."""
        poke = retry_in is not None or self._limited  # a slot that is free again may be one for another agent
        return await self._write(lambda store: verbs.finish(store, claim, outcome, retry_in, self._moment()), poke=poke)

    async def release(self, claim: Claim, *, delay: float = 0.0, detail: str = "") -> None:
        """See ``Queue.release``."""
        await self._write(lambda store: verbs.release(store, claim, delay, detail, self._moment()), poke=True)

    async def take_over(self, agent: AgentInfo, limit: int, request_id: str) -> list[Claim]:
        """See ``Queue.take_over``."""
        return await self._write(lambda store: verbs.take_over(store, agent, limit, request_id, self._moment()))

    async def reap(self) -> list[Run]:
        """See ``Queue.reap``."""
        return await self._write(lambda store: verbs.tidied(store, self._moment()))

    # Logs

    async def append_logs(self, claim: Claim, lines: Sequence[LogLine]) -> None:
        """See ``Queue.append_logs``."""
        await self._write(lambda store: verbs.append_logs(store, claim, lines))

    async def last_seq(self, run_id: str, attempt: int, source: str) -> int:
        """See ``Queue.last_seq``."""
        return await self._read(lambda store: store.last_seq(run_id, attempt, source))

    async def logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """See ``Queue.logs``."""
        return await self._read(lambda store: store.logs(run_id, after, limit))

    # Agents

    async def announce(self, agent: AgentInfo) -> None:
        """See ``Queue.announce``."""
        await self._write(lambda store: presence.announce(store, agent, self._moment()))

    async def retire(self, agent: AgentInfo) -> None:
        """See ``Queue.retire``."""
        await self._write(lambda store: presence.retire(store, agent))

    async def agents(self) -> list[AgentInfo]:
        """See ``Queue.agents``."""
        return await self._read(lambda store: presence.agents(store, self._clock.now()))

    async def limits(self) -> list[Limit]:
        """See ``Queue.limits``."""
        return await self._read(limiting.limits)

    async def set_limit(self, limit: Limit) -> None:
        """See ``Queue.set_limit``."""
        await self._write(lambda store: limiting.set_limit(store, limit), poke=True, holds=(Holds.LIMITS,))

    async def remove_limit(self, kind: str, name: str) -> None:
        """See ``Queue.remove_limit``."""
        await self._write(lambda store: limiting.remove_limit(store, kind, name), poke=True, holds=(Holds.LIMITS,))

    async def waiting(self) -> list[Waiting]:
        """See ``Queue.waiting``."""
        return await self._read(lambda store: store.waiting())

    async def next_due(self) -> float | None:
        """See ``Queue.next_due``."""
        return await self._read(lambda store: store.next_due(), short=True)

    # What is not needed any more

    async def prune(self, rule: Pruning, *, before: str | None = None, dry_run: bool = False) -> Pruned:
        """See ``Queue.prune``."""
        pruning.check(rule)

        def step(store: Store) -> Pruned:
            return pruning.prune_runs(store, rule, before, self._moment(), dry_run=dry_run)

        done = await (self._read(step) if dry_run else self._write(step))
        if done.next is not None:
            return done
        try:
            async for rest in self._rest(rule, dry_run=dry_run):
                done = replace(
                    done, registrations=done.registrations + rest.registrations, agents=done.agents + rest.agents
                )
        except QueueError:
            if done == Pruned():
                raise
            # What has gone is told; whoever asks for the rest once more hears what is in the way of it.
            return replace(done, next=pruning.BEFORE_ALL)
        return done

    async def _rest(self, rule: Pruning, *, dry_run: bool) -> AsyncIterator[Pruned]:
        """What is no run, part by part."""
        since = "" if dry_run else await self._write(lambda store: store.last_added(), holds=(Holds.LIMITS,))
        found = await self._read(lambda store: pruning.unused(store, rule, self._moment(), since))
        if dry_run:
            agents = await self._read(lambda store: presence.dead(store, self._clock.now()))
            yield Pruned(registrations=len(found.registrations), agents=agents)
            return
        for start in range(0, max(1, len(found.registrations)), pruning.PAGE):
            part = found.registrations[start : start + pruning.PAGE]
            yield await self._write(partial(self._remove, found, part), holds=(Holds.LIMITS,))

    def _remove(self, found: pruning.Unused, part: Collection[Registration], store: Store) -> Pruned:
        return pruning.prune_rest(store, found, part, self._moment())
