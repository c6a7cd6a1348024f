"""Reading beside the writer: each read sees one state of the file, and every commit before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import anyio

from flow_agent.errors import QueueUnavailable
from flow_agent.queues.sqlite.connection import FOREIGN, Database
from flow_agent.queues.sqlite.session import Session
from flow_agent.queues.store import Store

T = TypeVar("T")

CONNECTIONS = 3
"""So that one long read (counting a million runs) does not hold up the short ones."""


QUICK, LEARNT = 0.003, 0.02
"""Seconds that a short look may take in the event loop's own thread, and in another one to be tried there."""


class Reader:
    """Some connections that only read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limiter = anyio.CapacityLimiter(CONNECTIONS)
        self._idle: list[Session] = []
        self._guard = threading.Lock()
        self._closed = False
        self._quick = False

    async def run(self, operation: Callable[[Store], T], *, short: bool = False) -> T:
        """The answer of ``operation`` on one state of the file.

        A ``short`` one, a look into an index, is done at once where those before it were quick: a thread for it takes
        ten times as long, and takes the interpreter's lock from those who have more to do.
        """
        if short and self._quick and self._idle:
            began = time.monotonic()
            try:
                return self._read(operation, wait=False)
            except QueueUnavailable:  # somebody is in the way
                self._quick = False
            finally:
                self._quick = self._quick and time.monotonic() - began <= QUICK
        began = time.monotonic()
        answer = await self._in_thread(operation)
        self._quick = time.monotonic() - began <= LEARNT
        return answer

    async def _in_thread(self, operation: Callable[[Store], T]) -> T:
        return await anyio.to_thread.run_sync(self._read, operation, abandon_on_cancel=True, limiter=self._limiter)

    def _read(self, operation: Callable[[Store], T], *, wait: bool = True) -> T:
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
                connection.execute(f"pragma busy_timeout = {FOREIGN if wait else 0}")
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
