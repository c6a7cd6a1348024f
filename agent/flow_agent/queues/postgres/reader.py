"""Reading beside the writer: each statement sees every commit before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import psycopg

from flow_agent.queues.postgres import failures
from flow_agent.queues.postgres.clock import ServerClock
from flow_agent.queues.postgres.connection import Database
from flow_agent.queues.postgres.session import Session
from flow_agent.queues.store import Store
from flow_agent.queues.turns import PATIENCE

T = TypeVar("T")

CONNECTIONS = 3
"""So that one long read (counting a million runs) does not hold up the short ones."""


class Reader:
    """Some connections that only read; ``clock`` tells the server's time in their threads."""

    def __init__(self, database: Database, clock: ServerClock) -> None:
        self._database, self._clock = database, clock
        self._limiter = anyio.CapacityLimiter(CONNECTIONS)
        self._guard = threading.Lock()
        self._idle: list[Session] = []
        self._at_work: set[Session] = set()
        self._closed = False

    async def run(self, operation: Callable[[Store], T]) -> T:
        """The answer of ``operation``.

        Raises QueueUnavailable: also when none came in time.
        """
        used: list[Session] = []
        with anyio.move_on_after(PATIENCE):
            try:
                return await anyio.to_thread.run_sync(
                    self._read, operation, used, abandon_on_cancel=True, limiter=self._limiter
                )
            except anyio.get_cancelled_exc_class():
                for session in used:
                    session.cut()
                raise
        raise self._database.no_answer(PATIENCE)

    def _read(self, operation: Callable[[Store], T], used: list[Session]) -> T:
        with self._database.errors():
            while True:
                session, fresh = self._take()
                used[:] = [session]
                self._clock.ask(session.now)
                try:
                    return operation(session)
                except psycopg.Error as error:
                    if error.sqlstate in failures.NOT_PREPARED:
                        self._database.prepare_nothing()
                        session.close()
                    elif error.sqlstate in failures.OUTDATED and not fresh:
                        session.close()
                    elif fresh or not session.closed:
                        raise
                    # Else the server has closed it since the last read: reading once more does no harm.
                finally:
                    self._put_back(session)

    def _take(self) -> tuple[Session, bool]:
        with self._guard:
            session = self._idle.pop() if self._idle else None
            if session is not None:
                self._at_work.add(session)
                return session, False
        session = Session(self._database.connect(), self._database, writes=False)
        with self._guard:
            self._at_work.add(session)
        return session, True

    def _put_back(self, session: Session) -> None:
        with self._guard:
            self._at_work.discard(session)
            if not self._closed and not session.closed:
                self._idle.append(session)
                return
        session.close()

    def close(self) -> None:
        """Close the connections; one that reads for a caller who left is cut off, and closes when it is done."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            for session in self._at_work:
                session.cut()
        for session in idle:
            session.close()
