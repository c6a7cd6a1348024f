"""Keeps clients of SDKs open while a program runs, few of them, each with one kind of credentials.

Making a client costs up to 100 ms and 12 MB, a thousand fetches should not pay for it; clients of asyncio belong to
their event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import RunVar

T = TypeVar("T")

MOST = 32
"""Clients that are kept; those that are in use stay beyond it."""
CLOSE_WITHIN = 5.0
"""Seconds that closing a client may take."""

Close = Callable[[], Awaitable[None]]


@dataclass
class _Entry:
    client: Any
    close: Close
    users: int = 0
    dropped: bool = False


@dataclass
class _Pool:
    entries: OrderedDict[Hashable, _Entry] = field(default_factory=OrderedDict)
    opening: dict[Hashable, anyio.Lock] = field(default_factory=dict)


_current: RunVar[_Pool | None] = RunVar("flow_agent_clients", default=None)


@asynccontextmanager
async def clients() -> AsyncIterator[None]:
    """While this is open, ``client`` keeps what it opens in this event loop; then all of it is closed."""
    if _current.get() is not None:
        yield
        return
    pool = _Pool()
    _current.set(pool)
    try:
        yield
    finally:
        _current.set(None)
        for entry in pool.entries.values():
            await _close(entry)


@asynccontextmanager
async def client(key: Hashable, open_one: Callable[[], Awaitable[tuple[T, Close]]]) -> AsyncIterator[T]:
    """The client of ``key``, opened if there is none yet. Without ``clients`` it is closed after use.

    ``key`` holds everything that makes clients differ, credentials too (as a digest). ``open_one`` gives a client
    and what closes it.
    """
    pool = _current.get()
    if pool is None:
        entry = _Entry(*await open_one())
        try:
            yield entry.client
        finally:
            await _close(entry)
        return
    async with pool.opening.setdefault(key, anyio.Lock()):
        found = pool.entries.get(key)
        if found is None:
            found = pool.entries[key] = _Entry(*await open_one())
        found.users += 1  # before anything else may run: it is not closed under this user
    pool.entries.move_to_end(key)
    try:
        await _shrink(pool)
        yield found.client
    finally:
        found.users -= 1
        if found.dropped and not found.users:
            await _close(found)


def drop(key: Hashable) -> None:
    """Forget the client of ``key``, whose credentials are refused: the next use opens another one."""
    pool = _current.get()
    if pool is not None and (entry := pool.entries.pop(key, None)) is not None:
        entry.dropped = True


async def _shrink(pool: _Pool) -> None:
    while len(pool.entries) > MOST:
        idle = next((key for key, entry in pool.entries.items() if not entry.users), None)
        if idle is None:
            return
        pool.opening.pop(idle, None)
        await _close(pool.entries.pop(idle))


async def _close(entry: _Entry) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_WITHIN):
        await entry.close()
