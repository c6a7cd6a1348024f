"""The limits that a run config may set for an attempt's processes. Standard library only."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

LAST_CPU_SECONDS = 5
"""Seconds of CPU time after SIGXCPU at which the kernel kills a process that took no notice."""


def apply(limits: Mapping[str, float | None]) -> None:
    """Set ``memory_limit`` (bytes), ``cpu_time_limit`` (seconds) and ``nice`` for this process and its children.

    Raises OSError, ValueError: the system does not allow it.
    """
    if not any(value is not None for value in limits.values()):
        return
    import resource

    if (memory := limits["memory_limit"]) is not None:
        # What a process reserves for itself; its code and what it shares with others do not count.
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    if (cpu := limits["cpu_time_limit"]) is not None:
        resource.setrlimit(resource.RLIMIT_CPU, cpu_seconds(cpu))
    if (nice := limits["nice"]) is not None:
        os.nice(int(nice))


def cpu_seconds(limit: float) -> tuple[int, int]:
    """Seconds of CPU time at which the kernel sends SIGXCPU, and those at which it kills, for a ``cpu_time_limit``."""
    seconds = max(1, math.ceil(limit))
    return seconds, seconds + LAST_CPU_SECONDS


def memory() -> int | None:
    """The limit of this process's memory in bytes; None if it has none."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return None if limit == resource.RLIM_INFINITY else limit
