"""A queue in this process's memory: ``memory:`` is one of its own, ``memory:NAME`` is shared by name.

It has no threads and ends with its last handle: for tests in virtual time, and to try things out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from flow_agent.errors import InvalidInput
from flow_agent.model import Json
from flow_agent.ports import Clock, Leases
from flow_agent.queues.base import StoreQueue
from flow_agent.queues.clock import SystemClock
from flow_agent.queues.memory_store import MemoryStore
from flow_agent.queues.store import Holds, Store

T = TypeVar("T")

_named: dict[str, MemoryStore] = {}


class MemoryQueue(StoreQueue):
    """One handle of a queue in memory."""

    def __init__(self, store: MemoryStore, *, leases: Leases, clock: Clock) -> None:
        super().__init__(leases=leases, clock=clock)
        self._store = store
        self._news = anyio.Event()

    async def _read(self, operation: Callable[[Store], T], *, short: bool = False) -> T:  # noqa: ARG002 - no disk
        await checkpoint()
        return operation(self._store)

    async def _write(
        self,
        operation: Callable[[Store], T],
        *,
        poke: bool = False,
        lasting: bool = True,  # noqa: ARG002 - no disk
        holds: Collection[Holds] = (),  # noqa: ARG002 - nobody else
    ) -> T:
        await checkpoint()
        # Without an await in between nobody sees half of it; the verbs check before they change anything.
        answer = operation(self._store)
        if poke:
            for handle in self._store.handles:
                handle._news.set()
        return answer

    async def wait(self, seconds: float) -> None:
        """See ``Queue.wait``."""
        news = self._news
        with anyio.move_on_after(seconds):
            await news.wait()
        if self._news is news and news.is_set():
            self._news = anyio.Event()


@asynccontextmanager
async def open_queue(
    url: str,
    *,
    leases: Leases = Leases(),  # noqa: B008 - frozen
    clock: Clock | None = None,
    options: Mapping[str, Json] = {},
) -> AsyncIterator[MemoryQueue]:
    """Open the queue ``memory:`` or ``memory:NAME``; the last handle of a name takes its content along.

    Raises InvalidInput: another kind of URL, or any option.
    """
    scheme, _, name = url.partition(":")
    if scheme != "memory":
        raise InvalidInput(f"queue {url!r} is not in memory: expected memory: or memory:NAME")
    if options:
        raise InvalidInput(f"a queue in memory has no options: {', '.join(sorted(options))}")
    store = _named.setdefault(name, MemoryStore()) if name else MemoryStore()
    queue = MemoryQueue(store, leases=leases, clock=clock or SystemClock())
    store.handles.append(queue)
    try:
        yield queue
    finally:
        store.handles.remove(queue)
        if name and not store.handles:
            del _named[name]
