"""The machine's own time."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """Time of this machine.

    ``time.monotonic`` counts from boot on Linux and stands still during sleep: what leases need, as long as
    the boot is the same.
    """

    @cached_property
    def _boot(self) -> str:
        try:
            return BOOT_ID.read_text("utf-8").strip()
        except OSError:
            # Not Linux: the time of the boot, to ten seconds, names it well enough.
            return f"booted-{round((time.time() - time.monotonic()) / 10)}"

    def now(self) -> float:
        """Seconds since the epoch (UTC)."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def boot(self) -> str:
        """What names this boot of the machine."""
        return self._boot
