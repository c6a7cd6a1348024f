"""One task waits at the queue; all who wait at the server are told by it."""

from __future__ import annotations

import contextlib
import secrets

import anyio

from flow_agent.errors import QueueUnavailable
from flow_agent.ports import Queue

PAUSE = 1.0
"""Seconds until the next try at a queue that does not answer."""
ROUND = 60.0
"""Seconds of one wait at the queue."""


class News:
    """Counts what may be news. A mark stands for all until then, in this life of the server."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._life, self._count = secrets.token_hex(4), 0
        self._event = anyio.Event()
        self._closed = False

    async def watch(self) -> None:
        """Wait at the queue, for ever. Ends by being cancelled, or with QueueError when the queue is broken."""
        while True:
            try:
                with contextlib.suppress(TimeoutError):
                    await self._queue.wait(ROUND)
            except QueueUnavailable:
                await anyio.sleep(PAUSE)
            self._tell()

    async def after(self, mark: str, seconds: float) -> str:
        """The mark of now, once there is news after ``mark``, or after ``seconds``."""
        if mark == self._mark and not self._closed:
            event = self._event
            with anyio.move_on_after(seconds):
                await event.wait()
        return self._mark

    def close(self) -> None:
        """Answer all who wait, and let nobody wait any more."""
        self._closed = True
        self._tell()

    @property
    def _mark(self) -> str:
        return f"{self._life}-{self._count}"

    def _tell(self) -> None:
        self._count += 1
        event, self._event = self._event, anyio.Event()
        event.set()
