"""The turns of a SQLite file, each one transaction under the lock of all writers.

A turn is done at once, in the thread of the event loop, where nobody else has the lock and the last turns were quick;
else in a thread. On an idle machine a turn takes 0.5 ms, and handing it to a thread and back as much again: two
threads that take turns at the interpreter's lock wait for each other.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from flow_agent.errors import QueueUnavailable
from flow_agent.queues.sqlite.connection import Database
from flow_agent.queues.sqlite.failures import no_answer
from flow_agent.queues.sqlite.session import Session
from flow_agent.queues.turns import PATIENCE, Job, Turn, Turns

QUICK = 0.003
"""Seconds for which a turn may hold the event loop up; where the disk takes longer, others can work meanwhile."""
QUICK_TURNS = 3

_OWN_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""Errors of one statement; after any other one of SQLite's the whole transaction is lost."""


class Writer(Turns):
    """The one connection of this queue that writes; ``poke`` is called in the thread after a commit that asks."""

    def __init__(self, database: Database, poke: Callable[[], None], *, patience: float = PATIENCE) -> None:
        super().__init__(patience)
        self._database = database
        self._poke = poke
        self._session: Session | None = None
        self._quick = 0
        """How many turns were quick, one after the other."""

    def _no_answer(self) -> QueueUnavailable:
        return no_answer(self._database.path, self._patience)

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
        self._gather(turn)
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
