"""A queue in one SQLite file, for one machine: ``sqlite:PATH``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from flow_agent.model import Json
from flow_agent.ports import Clock, Leases
from flow_agent.queues.base import StoreQueue
from flow_agent.queues.clock import SystemClock
from flow_agent.queues.sqlite import wake
from flow_agent.queues.sqlite.connection import Database, path_of
from flow_agent.queues.sqlite.failures import no_answer
from flow_agent.queues.sqlite.migrate import shipped
from flow_agent.queues.sqlite.reader import Reader
from flow_agent.queues.sqlite.writer import Writer
from flow_agent.queues.store import Holds, Store
from flow_agent.queues.turns import PATIENCE

T = TypeVar("T")

CLOSING = 5.0
"""Seconds that a turn which goes on may take while the queue is closed."""


class SqliteQueue(StoreQueue):
    """``ports.Queue`` over one file."""

    def __init__(self, database: Database, *, leases: Leases, clock: Clock) -> None:
        super().__init__(leases=leases, clock=clock)
        folder = database.path.with_name(database.path.name + ".wake")
        self._database = database
        self._bell = wake.Bell(folder)
        self._writer = Writer(database, lambda: wake.poke(folder))
        self._reader = Reader(database)

    async def _read(self, operation: Callable[[Store], T], *, short: bool = False) -> T:
        return await self._reader.run(operation, short=short)

    async def _write(
        self,
        operation: Callable[[Store], T],
        *,
        poke: bool = False,
        lasting: bool = True,
        holds: Collection[Holds] = (),  # noqa: ARG002 - one writes at a time
    ) -> T:
        return await self._writer.run(operation, poke=poke, lasting=lasting)

    async def wait(self, seconds: float) -> None:
        """See ``Queue.wait``."""
        with self._database.errors():
            await self._bell.wait(seconds)

    async def aclose(self) -> None:
        """Close the file and remove what this handle put beside it."""
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
) -> AsyncIterator[SqliteQueue]:
    """Open the queue file of ``sqlite:PATH``, made (0600, in a folder 0700) or migrated where needed.

    Options: ``synchronous`` is ``full`` (what was acknowledged survives a power cut) or ``normal`` (it survives
    the program's end); ``max_page_count`` bounds the file, in pages of 4 KiB.

    Raises QueueTooNew, QueueError, QueueUnavailable, InvalidInput (the URL or an option).
    """
    database = Database(path_of(url), options, shipped())
    await _create(database)
    queue = SqliteQueue(database, leases=leases, clock=clock or SystemClock())
    try:
        yield queue
    finally:
        await queue.aclose()


async def migrate(url: str) -> list[str]:
    """Bring the file of ``url`` up to date, or make it; the names of the migrations that were applied.

    Raises what ``open_queue`` raises.
    """
    database = Database(path_of(url), {}, shipped())
    return await _create(database)


async def _create(database: Database) -> list[str]:
    with anyio.move_on_after(PATIENCE):
        return await anyio.to_thread.run_sync(database.create, abandon_on_cancel=True)
    raise no_answer(database.path, PATIENCE)
