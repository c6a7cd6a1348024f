"""What shows that an attempt ran out of memory or of CPU time, so that nobody has to guess why it was killed.

Standard library only.
"""

from __future__ import annotations

import os
import signal
import time

from flow_agent.launchers import cgroup, linux
from flow_agent.runner.limits import cpu_seconds

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGH_EVERY = 0.2
"""Seconds between two looks at the memory of an attempt that has a limit."""
COUNT_EVERY = 2.0
"""Least seconds between two looks at how many processes the kernel has killed for want of memory."""
ROUGHLY = 0.75
"""Part of a limit of CPU time that shows as used when the kernel has counted all of it, which it does less exactly."""


class Evidence:
    """About one attempt, with the limits of its run config. ``memory`` and ``cpu`` say what ran out, in words."""

    def __init__(self, limits: Mapping[str, float | None]) -> None:
        self._memory_limit, self._cpu_limit = limits["memory_limit"], limits["cpu_time_limit"]
        self.memory: str | None = None
        self.cpu: str | None = None
        self.due = time.monotonic() if self._memory_limit else None
        """When (``time.monotonic()``) to weigh the attempt next; None if it has no limit."""
        # Of the last look but one: what is being killed may be counted for some time before it has ended.
        self._kills_before = self._kills = self._later_kills = cgroup.oom_kills()
        self._counted = time.monotonic()

    def weigh(self) -> bool:
        """Whether the processes below this one together hold more memory than they may; looked at when it is due."""
        now = time.monotonic()
        if self.due is None or now < self.due or self._memory_limit is None:
            return False
        self.due = now + WEIGH_EVERY
        below = linux.descendants(os.getpid())
        # What processes share is counted once, which takes longer to find out.
        if sum(map(linux.resident, below)) <= self._memory_limit:
            return False
        held, limit = sum(map(linux.proportional, below)), self._memory_limit
        if held > limit:
            self.memory = f"its processes together held {held} bytes of memory, and its memory_limit is {limit}"
            self.due = None
        return held > limit

    def lives(self) -> None:
        """The attempt still runs: what the kernel killed until some time ago was something else."""
        now = time.monotonic()
        if now >= self._counted + COUNT_EVERY:
            self._counted = now
            self._kills, self._later_kills = self._later_kills, cgroup.oom_kills()

    def ended(self, pid: int, number: int) -> None:
        """The attempt's process was ended by the signal ``number``, not by us, and was not collected yet."""
        limit = self._cpu_limit
        if limit is not None and number in {signal.SIGXCPU, signal.SIGKILL}:
            used, (soft, hard) = linux.cpu_time(pid), cpu_seconds(limit)
            if used >= ROUGHLY * (soft if number == signal.SIGXCPU else hard):
                self.cpu = f"used up its CPU time, and its cpu_time_limit is {limit:g} s"
                return
        if number == signal.SIGKILL and cgroup.oom_kills() > self._kills:
            whose = cgroup.counter()[1]
            self.memory = f"the kernel killed a process of {whose} because memory ran out, and this one was killed then"

    def hint(self) -> str | None:
        """What may explain a bad end of another kind: that of a child of the attempt, perhaps."""
        kills = cgroup.oom_kills() - self._kills_before
        if self.memory is not None or not kills:
            return None
        return f"processes of {cgroup.counter()[1]} that the kernel killed while this ran, as memory ran out: {kills}"
