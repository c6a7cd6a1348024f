"""A claim while an agent works on it: its deadline, what it says in the run's log, how long its phases took."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.abc

from flow_agent import events, retry
from flow_agent.model import Claim, LogLine, Reason
from flow_agent.ports import Launcher, Queue
from flow_agent.redact import known

T = TypeVar("T")

GOES_ON = frozenset({Reason.LEASE_LOST, Reason.AGENT_STOPPING})
"""Reasons to end that are about this agent, and not about the run."""
ASKED_AGAIN = 4
"""Most tries to have a lease that is not old already when the answer arrives."""


async def answered(verb: str, call: Callable[[], Awaitable[T]], give_up: Callable[[], bool] = lambda: False) -> T:
    """The queue's answer to ``call``, asked again while it is unavailable."""
    return await retry.answered(call, lambda wait, error: events.queue_asked_again(verb, wait, error), give_up)


async def leased(
    verb: str, call: Callable[[], Awaitable[T]], lease: float, give_up: Callable[[], bool] = lambda: False
) -> tuple[T, float]:
    """``answered`` for a verb that begins a lease of so many seconds, and the time from which we count it.

    That is the time before the try that was answered. Where that answer took long, most of the lease may be over as
    we count it: then it is asked for again, with which the lease begins again.
    """
    before = 0.0

    async def ask() -> T:
        nonlocal before
        before = anyio.current_time()
        return await call()

    for _ in range(ASKED_AGAIN):
        answer = await answered(verb, ask, give_up)
        if anyio.current_time() - before <= lease / 4:
            break
    return answer, before


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between looks at an idle queue (jittered), between signs of life, and for the last words of a stop."""

    poll: float = 5.0
    heartbeat: float = 10.0
    last_words: float = 60.0


class Hold:
    """A claim while this agent works on it: its deadline, and the reason to end it early.

    ``deadline`` is in the event loop's time: the end of the lease, counted from before the request that won or
    extended it. ``freed`` is called when its slot is free. ``tasks`` is where what ends it early runs.
    """

    def __init__(
        self, claim: Claim, deadline: float, *, tasks: anyio.abc.TaskGroup, freed: Callable[[], None] = lambda: None
    ) -> None:
        self.claim = claim
        self.deadline = deadline
        self.over = False
        """Whether nothing of it runs any more, so that its slot is free; what is left is to report it."""
        self.ended_at: float | None = None
        """When that came about (seconds since the epoch), if it was before this agent watched."""
        self._tasks, self._freed = tasks, freed
        self._stop: Callable[[], None] | None = None
        self._let_go: Callable[[], None] | None = None
        self.handing_over = False
        """Whether its attempt, if that goes on without us, is another agent's to watch from here on."""
        self.why: Reason | None = None
        self.asked_to_end = anyio.Event()
        self.preparing = anyio.CancelScope(deadline=deadline)
        self.retry_in: float | None = None
        """Seconds after which the run is tried again, once that is written."""
        self.started = claim.ref is not None
        self._launched: tuple[Launcher, str] | None = None
        self.ref = claim.ref
        """Where the attempt is, once there is one."""

    def end(self, why: Reason) -> None:
        """Have the attempt ended, for the first reason that is given."""
        if self.why is None:
            self.why = why
            self.asked_to_end.set()
            self.preparing.cancel()
            self._see_to()

    def _see_to(self) -> None:
        """Have the end that was asked for, where it can be: of what goes on without us, only what nobody wants ends."""
        if self._let_go is not None and self.why in GOES_ON:
            self._let_go()
        elif self._stop is not None:
            self._stop()

    def hand_over(self) -> None:
        """Leave the attempt to another agent as soon as that can be, unless it is about to end."""
        self.handing_over = True
        if self._let_go is not None and self.why is None:
            self._let_go()

    def free(self) -> None:
        """Nothing of it runs any more. The agent's next claim then goes into the same transaction as its report."""
        if not self.over:
            self.over = True
            self._freed()

    @contextmanager
    def watched(
        self, stop: Callable[[], Awaitable[None]], timeout: float | None, *, outlives: bool = False
    ) -> Iterator[None]:
        """While this is open, ``stop`` runs when somebody asks for the end (or has), or after ``timeout`` seconds.

        The block of an attempt that ``outlives`` us is left when it is to be handed over.

        Raises what ``stop`` raises, and cancels the block then. A task for each attempt that waits to be asked would
        take 0.1 ms of CPU time, and nearly none is.
        """
        inside, around = anyio.CancelScope(), list[anyio.CancelScope]()
        failure: Exception | None = None

        def spawn(work: Callable[[], Awaitable[None]], what: str) -> None:
            scope = anyio.CancelScope()
            around.append(scope)
            self._tasks.start_soon(run, work, scope, name=f"{what} of {self.claim.run.id}")

        async def run(work: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
            nonlocal failure
            with scope:
                try:
                    await work()
                except Exception as error:  # noqa: BLE001 - raised again by the block
                    failure = error
                    inside.cancel()

        async def limit() -> None:
            await anyio.sleep(timeout or 0.0)
            self.end(Reason.TIMED_OUT)

        self._stop = partial(spawn, stop, "end")
        self._let_go = inside.cancel if outlives else None
        try:
            with inside:
                if self.why is not None:
                    self._see_to()
                elif self.handing_over and outlives:
                    inside.cancel()
                elif timeout is not None:
                    spawn(limit, "time limit")
                yield
        finally:
            self._stop = self._let_go = None
            for scope in around:
                scope.cancel()
        if failure is not None:
            raise failure

    async def launched(self, launcher: Launcher, ref: str) -> None:
        """From now on the launcher is told of each new deadline."""
        self._launched = (launcher, ref)
        await launcher.extend(ref, self.deadline)

    async def move(self, deadline: float) -> None:
        """The lease was extended."""
        self.deadline = self.preparing.deadline = deadline
        if self._launched is not None:
            launcher, ref = self._launched
            await launcher.extend(ref, deadline)


class RunLog:
    """What the agent itself says in a run's log, under its claim."""

    def __init__(self, claim: Claim, queue: Queue) -> None:
        self._claim, self._queue, self._seq = claim, queue, 0

    async def tell(self, level: str, text: str) -> None:
        """Write one line. Being unheard is no reason to end a run."""
        self._seq += 1
        line = LogLine(
            attempt=self._claim.attempt,
            source=f"agent.{self._claim.number}",
            seq=self._seq,
            time=time.time(),
            level=level,
            logger="flow_agent",
            text=known.text(text),
        )
        await answered("append_logs", lambda: self._queue.append_logs(self._claim, [line]))


class Phases:
    """Seconds of each phase of an attempt, for its canonical line."""

    def __init__(self, claim: Claim) -> None:
        run = claim.run
        self.seconds = {"queued": max(0.0, (run.claimed_at or 0.0) - (run.due_at or run.created_at))}
        self._since = anyio.current_time()

    def ended(self, phase: str) -> None:
        """The phase that went on until now."""
        now = anyio.current_time()
        self.seconds[phase], self._since = now - self._since, now
