"""Group commit: whatever waits to be written goes into one transaction.

A commit costs a wait for the disk, so many ends, heartbeats and claims share one. There is no writer task: the
first caller leads one turn for all who wait, and hands the lead to one of those who came meanwhile.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from flow_agent.errors import QueueUnavailable
from flow_agent.queues.store import Holds, Store

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds after which a turn that gets no lock, or no answer, is given up."""


class Job:
    """One operation that waits for its turn, and then its answer."""

    def __init__(
        self, operation: Callable[[Store], Any], *, poke: bool, lasting: bool, holds: Collection[Holds] = ()
    ) -> None:
        self.operation = operation
        self.poke, self.lasting, self.holds = poke, lasting, holds
        self.answer: Any = None
        self.error: BaseException | None = None
        self.woken = anyio.Event()
        self.settled = False
        self.leads = False

    def settle(self, answer: Any, error: BaseException | None) -> None:
        """Give its caller the answer."""
        self.answer, self.error, self.settled = answer, error, True
        self.woken.set()


class Turn:
    """One transaction. ``begin`` lets either the thread or the leader that gave up go on, never both."""

    def __init__(self) -> None:
        self._token = threading.Lock()
        self.batch: list[Job] = []
        self.answers: list[tuple[Any, BaseException | None]] = []
        self.sent = False
        """Whether the transaction was begun, so that nobody knows what became of it if the connection is lost."""
        self.given_up = False
        """Whether its callers were told that there is no answer."""

    def begin(self) -> bool:
        """Whether the caller is the first to ask."""
        return self._token.acquire(blocking=False)


class Turns(ABC):
    """What writes, one turn after the other; ``patience`` is the seconds that one may take."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._pending: deque[Job] = deque()
        self._leading = False
        self._limiter = anyio.CapacityLimiter(1)
        self._busy = threading.Lock()
        """Held by the turn that goes on; one that was given up may still have it."""

    @abstractmethod
    def _work(self, turn: Turn) -> None:
        """Do the turn; called in a thread."""

    def _work_here(self, turn: Turn) -> bool:  # noqa: ARG002 - for those that can
        """Do the turn in the event loop's own thread, if nobody is in the way and it will be quick; whether it was."""
        return False

    @abstractmethod
    def _no_answer(self) -> QueueUnavailable:
        """What to tell the callers of a turn that was given up."""

    def _give_up(self) -> None:  # noqa: B027 - SQLite cannot end what the disk does not answer
        """A turn that goes on in a thread is not waited for any more."""

    def _gather(self, turn: Turn) -> None:
        """All that waits belongs to this turn."""
        while self._pending:
            turn.batch.append(self._pending.popleft())

    async def run(
        self,
        operation: Callable[[Store], T],
        *,
        poke: bool = False,
        lasting: bool = True,
        holds: Collection[Holds] = (),
    ) -> T:
        """The answer of ``operation`` once it is committed; its own error, if it raises one, changes nothing.

        ``lasting`` is whether it must survive a power cut. What does not, survives the program's end, and is on the
        disk no later than what lasts and came after it. ``holds`` is what it will hold; all that a turn holds, it holds
        from its beginning.

        If the caller is cancelled before its turn began, nothing happened; later, what was committed stays.
        """
        await checkpoint_if_cancelled()
        job = Job(operation, poke=poke, lasting=lasting, holds=holds)
        self._pending.append(job)
        if self._leading:
            await self._follow(job)
        if not job.settled:
            await self._lead()
        if job.error is not None:
            raise job.error
        answer: T = job.answer
        return answer

    async def _follow(self, job: Job) -> None:
        try:
            await job.woken.wait()
        except anyio.get_cancelled_exc_class():
            if job in self._pending:
                self._pending.remove(job)
            if job.leads and not job.settled:
                self._hand_over()
            raise

    async def _lead(self) -> None:
        self._leading = True
        turn = Turn()
        # Unless the turn says otherwise: whatever ends this task, the others must not wait for ever.
        failure: Exception | None = self._no_answer()
        try:
            # Shielded, since the others in this turn need their answers, whatever becomes of this caller.
            with anyio.move_on_after(self._patience, shield=True):
                # Who is ready now comes along: the end of one run, and the claim of the next.
                await checkpoint()
                try:
                    if not self._work_here(turn):
                        await anyio.to_thread.run_sync(self._work, turn, abandon_on_cancel=True, limiter=self._limiter)
                    failure = None
                except Exception as error:  # noqa: BLE001 - raised again by each caller of this turn
                    failure = error
        finally:
            if failure is not None:
                turn.given_up = True
                if not turn.begin():
                    self._give_up()
            self._settle(turn, failure)
            self._hand_over()

    def _settle(self, turn: Turn, failure: Exception | None) -> None:
        if failure is None:
            for job, (answer, error) in zip(turn.batch, turn.answers, strict=True):
                job.settle(answer, error)
            return
        # Those who came meanwhile would meet the same, one after the other.
        for job in [*turn.batch, *self._pending]:
            # One exception object cannot be raised in several tasks without mixing their tracebacks.
            job.settle(None, copy.copy(failure))
        self._pending.clear()

    def _hand_over(self) -> None:
        self._leading = bool(self._pending)
        if self._leading:
            self._pending[0].leads = True
            self._pending[0].woken.set()
