"""A queue in a PostgreSQL database, for many machines: ``postgresql://USER@HOST/DATABASE``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from flow_agent.errors import InvalidInput
from flow_agent.model import Json
from flow_agent.ports import Clock, Leases
from flow_agent.queues.base import StoreQueue
from flow_agent.queues.migrations import shipped
from flow_agent.queues.postgres.clock import ServerClock
from flow_agent.queues.postgres.connection import Database
from flow_agent.queues.postgres.reader import Reader
from flow_agent.queues.postgres.wake import Bell
from flow_agent.queues.postgres.writer import Writer
from flow_agent.queues.store import Holds, Store
from flow_agent.queues.turns import PATIENCE

T = TypeVar("T")

CLOSING = 5.0
"""Seconds that a turn which goes on may take while the queue is closed."""


class PostgresQueue(StoreQueue):
    """``ports.Queue`` over one schema of a database."""

    def __init__(self, database: Database, *, leases: Leases, clock: Clock | None) -> None:
        server = ServerClock()
        super().__init__(leases=leases, clock=clock or server)
        self._database = database
        self._writer = Writer(database, server)
        self._reader = Reader(database, server)
        self._bell = Bell(database)

    async def _read(self, operation: Callable[[Store], T], *, short: bool = False) -> T:  # noqa: ARG002 - all take a network
        return await self._reader.run(operation)

    async def _write(
        self,
        operation: Callable[[Store], T],
        *,
        poke: bool = False,
        lasting: bool = True,
        holds: Collection[Holds] = (),
    ) -> T:
        return await self._writer.run(operation, poke=poke, lasting=lasting, holds=holds)

    async def wait(self, seconds: float) -> None:
        """See ``Queue.wait``."""
        with self._database.errors():
            await self._bell.wait(seconds)

    async def aclose(self) -> None:
        """Close all connections."""
        self._bell.close()
        with anyio.move_on_after(CLOSING, shield=True):
            await anyio.to_thread.run_sync(self._close, abandon_on_cancel=True)

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()


@asynccontextmanager
async def open_queue(
    url: str,
    *,
    leases: Leases = Leases(),  # noqa: B008 - frozen
    clock: Clock | None = None,
    options: Mapping[str, Json] = {},
) -> AsyncIterator[PostgresQueue]:
    """Open the queue of ``postgresql://...``, a connection URL as libpq takes it; its tables are made or migrated where
    needed, in the first schema of the ``search_path``. There are no options.

    Without ``clock``, leases and times are those of the server.

    Raises QueueTooNew, QueueError, QueueUnavailable, InvalidInput (the URL or an option).
    """
    if options:
        raise InvalidInput(f"queue option {min(options)!r} is unknown: a queue on PostgreSQL has none")
    database = Database(url, shipped("postgres"))
    with anyio.move_on_after(PATIENCE) as scope:
        await anyio.to_thread.run_sync(database.create, abandon_on_cancel=True)
    if scope.cancelled_caught:
        raise database.no_answer(PATIENCE)
    queue = PostgresQueue(database, leases=leases, clock=clock)
    try:
        yield queue
    finally:
        await queue.aclose()
