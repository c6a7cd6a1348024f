"""The contract tests of the ports, for us and for third parties, and what they need."""

from __future__ import annotations


class ManualClock:
    """A ``ports.Clock`` that moves only when a test moves it."""

    def __init__(self, now: float = 1_800_000_000.0, monotonic: float = 1_000.0, boot: str = "boot-1") -> None:
        self._now = now
        self._monotonic = monotonic
        self._boot = boot

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds on the clock of the leases."""
        return self._monotonic

    def boot(self) -> str:
        """The name of this boot."""
        return self._boot

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both clocks."""
        self._now += seconds
        self._monotonic += seconds

    def sleep(self, seconds: float) -> None:
        """The machine was suspended: only the wall clock went on."""
        self._now += seconds

    def reboot(self, boot: str) -> None:
        """The machine started again: another boot, and the monotonic clock begins anew."""
        self._boot = boot
        self._monotonic = 1.0
