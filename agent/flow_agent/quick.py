"""Small work on files: done at once where it was quick before, else in a thread.

Making an attempt's folder, copying a pickle into it and checking it takes 0.2 ms. In a thread beside the one that
writes the queue it takes 0.5 ms and slows that one down as well: each call of the system hands the interpreter's lock
over. With 8 attempts at a time that was half of all that the daemon did for a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

import anyio.from_thread
import anyio.to_thread

T = TypeVar("T")

Check = Callable[[], object]

LONGEST = 0.02
"""Seconds for which the event loop may stand still once; what took longer is done in a thread the next time."""
REMEMBERED = 1_024
"""Kinds of work that are known to be quick."""


class Quick:
    """Knows which work is quick."""

    def __init__(self) -> None:
        self._quick: set[Hashable] = set()

    async def run(self, what: Hashable, work: Callable[[Check], T], safe: Callable[[], bool]) -> T:
        """The answer of ``work``, which is given what to call between two pieces of it.

        It is done in a thread unless work of the name ``what`` was quick the last time. ``safe``, asked in that thread,
        says whether the disks that it is done on are ones without which nothing goes on anyway: a dead network disk
        of one flow must not stop the agent.
        """
        if what not in self._quick:
            return await anyio.to_thread.run_sync(self._learn, what, work, safe)
        began = time.monotonic()
        try:
            return work(lambda: None)
        finally:
            if time.monotonic() - began > LONGEST:
                self._quick.discard(what)

    def _learn(self, what: Hashable, work: Callable[[Check], T], safe: Callable[[], bool]) -> T:
        began = time.monotonic()
        answer = work(anyio.from_thread.check_cancelled)
        if time.monotonic() - began <= LONGEST and safe():
            if len(self._quick) >= REMEMBERED:
                self._quick.clear()
            self._quick.add(what)
        return answer
