"""Opening a queue that may be away: for programs that work until they are stopped.

By itself, since it says what it waits for: what writes the log takes a third of a second to import on a slow machine,
and most commands write none.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from flow_agent import events, retry
from flow_agent.model import Json
from flow_agent.operations.opening import open_queue
from flow_agent.ports import Leases, Queue


@asynccontextmanager
async def awaited_queue(
    url: str, *, leases: Leases | None = None, options: Mapping[str, Json] | None = None
) -> AsyncIterator[Queue]:
    """As ``open_queue``; it waits as long as the queue is away."""
    began, failed = time.time(), False

    def told(_wait: float, error: BaseException) -> None:
        nonlocal failed
        if not failed:
            failed = True
            events.queue_unavailable("open", began, str(error))

    async with AsyncExitStack() as stack:
        queue = await retry.answered(
            lambda: stack.enter_async_context(open_queue(url, leases=leases, options=options)), told
        )
        if failed:
            events.queue_back(time.time() - began)
        yield queue
