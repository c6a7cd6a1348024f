"""Virtual time: an event loop whose clock jumps to the next timer when nothing else can happen."""

from __future__ import annotations

import asyncio

import anyio.to_thread


class VirtualLoop(asyncio.SelectorEventLoop):
    """An hour of sleep passes in a millisecond. While a worker thread is busy, time stands still."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 1_000.0

    def time(self) -> float:
        return self._virtual_now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled and not self._threads_busy():
            self._virtual_now = max(self._virtual_now, self._scheduled[0]._when)
        super()._run_once()

    def _threads_busy(self) -> bool:
        # Asked inside the loop's own step, where anyio cannot tell the current task: its limiter is kept by the test.
        return self.limiter is not None and self.limiter.borrowed_tokens > 0

    limiter: anyio.CapacityLimiter | None = None


class LoopClock:
    """``ports.Clock`` on the loop's virtual time."""

    def now(self) -> float:
        return 1_800_000_000.0 + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def boot(self) -> str:
        return "virtual"
