"""Reading beside the writer: each read sees one state of the file, and every commit before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio

from flow_agent.queues.sqlite.connection import Database
from flow_agent.queues.sqlite.session import Session
from flow_agent.queues.store import Store

T = TypeVar("T")

CONNECTIONS = 3
"""So that one long read (counting a million runs) does not hold up the short ones."""


class Reader:
    """Some connections that only read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limiter = anyio.CapacityLimiter(CONNECTIONS)
        self._idle: list[Session] = []
        self._guard = threading.Lock()
        self._closed = False

    async def run(self, operation: Callable[[Store], T]) -> T:
        """The answer of ``operation`` on one state of the file."""
        return await anyio.to_thread.run_sync(self._read, operation, abandon_on_cancel=True, limiter=self._limiter)

    def _read(self, operation: Callable[[Store], T]) -> T:
        with self._guard:
            idle = self._idle.pop() if self._idle else None
        with self._database.errors():
            try:
                session = self._database.reader(idle)
            except BaseException:
                if idle is not None:  # the file may come back
                    self._put_back(idle)
                raise
            connection = session.connection
            try:
                connection.execute("begin")
                try:
                    return operation(session)
                finally:
                    if connection.in_transaction:
                        connection.execute("rollback")
            finally:
                self._put_back(session)

    def _put_back(self, session: Session) -> None:
        with self._guard:
            if not self._closed:
                self._idle.append(session)
                return
        session.close()

    def close(self) -> None:
        """Close the connections; one that reads for a caller who left closes when it is done."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()
