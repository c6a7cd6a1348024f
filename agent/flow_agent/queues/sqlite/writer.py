"""Group commit: whatever waits to be written goes into one transaction, under one lock.

A commit costs a wait for the disk, so many ends, heartbeats and claims share one. There is no writer task: the
first caller leads one turn for all who wait, and hands the lead to one of those who came meanwhile.

A turn is done at once, in the thread of the event loop, where nobody else has the lock and the last turns were quick;
else in a thread. On an idle machine a turn takes 0.5 ms, and handing it to a thread and back as much again: two
threads that take turns at the interpreter's lock wait for each other.
"""

from __future__ import annotations

import copy
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from flow_agent.errors import QueueUnavailable
from flow_agent.queues.sqlite.connection import Database
from flow_agent.queues.sqlite.failures import no_answer
from flow_agent.queues.sqlite.session import Session
from flow_agent.queues.store import Store

T = TypeVar("T")

QUICK = 0.003
"""Seconds for which a turn may hold the event loop up; where the disk takes longer, others can work meanwhile."""
QUICK_TURNS = 3

PATIENCE = 30.0
"""Seconds after which a turn that gets no lock, or no answer from the disk, is given up."""

_OWN_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""Errors of one statement; after any other one of SQLite's the whole transaction is lost."""


class Job:
    """One operation that waits for its turn, and then its answer."""

    def __init__(self, operation: Callable[[Store], Any], *, poke: bool, lasting: bool) -> None:
        self.operation = operation
        self.poke, self.lasting = poke, lasting
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

    def begin(self) -> bool:
        """Whether the caller is the first to ask."""
        return self._token.acquire(blocking=False)


class Writer:
    """The one connection of this queue that writes; ``poke`` is called in the thread after a commit that asks."""

    def __init__(self, database: Database, poke: Callable[[], None], *, patience: float = PATIENCE) -> None:
        self._database = database
        self._poke = poke
        self._patience = patience
        self._pending: deque[Job] = deque()
        self._leading = False
        self._limiter = anyio.CapacityLimiter(1)
        self._busy = threading.Lock()
        self._session: Session | None = None
        self._quick = 0
        """How many turns were quick, one after the other."""

    async def run(self, operation: Callable[[Store], T], *, poke: bool = False, lasting: bool = True) -> T:
        """The answer of ``operation`` once it is committed; its own error, if it raises one, changes nothing.

        ``lasting`` is whether it must survive a power cut. What does not, survives the program's end, and is on the
        disk no later than what lasts and came after it.

        If the caller is cancelled before its turn began, nothing happened; later, what was committed stays.
        """
        await checkpoint_if_cancelled()
        job = Job(operation, poke=poke, lasting=lasting)
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
                turn.begin()
            self._settle(turn, failure)
            self._hand_over()

    def _no_answer(self) -> QueueUnavailable:
        return no_answer(self._database.path, self._patience)

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

    def _work_here(self, turn: Turn) -> bool:
        """Do the turn in this thread, if nobody is in the way and it will be quick; whether it was done."""
        if self._quick < QUICK_TURNS or not self._busy.acquire(blocking=False):
            return False
        began = time.monotonic()
        try:
            with self._database.errors(), self._database.locked(wait=False) as ours:
                session = self._session
                if not ours or session is None or self._database.writer(session) is not session:
                    return False
                if not self._transact(session, turn, wait=False):
                    return False
            self._poke_after(turn)
        finally:
            self._busy.release()
            self._judge(began)
        return True

    def _judge(self, began: float) -> None:
        self._quick = self._quick + 1 if time.monotonic() - began <= QUICK else 0

    def _poke_after(self, turn: Turn) -> None:
        if any(job.poke and error is None for job, (_, error) in zip(turn.batch, turn.answers, strict=True)):
            self._poke()

    # In the thread

    def _work(self, turn: Turn) -> None:
        if not self._busy.acquire(timeout=self._patience):  # a turn that was given up still waits
            raise self._no_answer()
        try:
            with self._database.errors(), self._database.locked():
                began = time.monotonic()
                self._session = session = self._database.writer(self._session)
                if turn.begin():
                    self._transact(session, turn, wait=True)
            self._judge(began)
            self._poke_after(turn)
        finally:
            self._busy.release()

    def _transact(self, session: Session, turn: Turn, *, wait: bool) -> bool:
        while self._pending:
            turn.batch.append(self._pending.popleft())
        connection = session.connection
        answers: list[tuple[Any, BaseException | None]] = []
        try:
            if not self._database.begin(session, lasting=any(job.lasting for job in turn.batch), wait=wait):
                self._pending.extendleft(reversed(turn.batch))
                turn.batch.clear()
                return False
            for job in turn.batch:
                answers.append(self._step(session, job))
            connection.execute("commit")
        except BaseException:
            session.forget()
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        turn.answers = answers
        return True

    @staticmethod
    def _step(session: Session, job: Job) -> tuple[Any, BaseException | None]:
        connection = session.connection
        connection.execute("savepoint step")
        try:
            answer = job.operation(session)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OWN_FAULT):
                raise
            session.forget()
            connection.execute("rollback to step")
            connection.execute("release step")
            return None, error
        connection.execute("release step")
        return answer, None

    def close(self) -> None:
        """Close the connection; blocks until a turn that goes on has ended, at most ``PATIENCE`` seconds."""
        if self._busy.acquire(timeout=self._patience):
            try:
                if self._session is not None:
                    self._session.close()
                    self._session = None
            finally:
                self._busy.release()
