"""How often the kernel killed something of ours for want of memory: as our memory cgroup counts it, or the machine.

Standard library only.
"""

from __future__ import annotations

import os
from functools import cache

VMSTAT = "/proc/vmstat"
COUNTERS = {"cgroup": "memory.oom_control", "cgroup2": "memory.events"}
"""By the kind of file system; the root of the second kind has none."""


@cache
def counter() -> tuple[str, str]:
    """The file that counts, and whose processes it counts, in words. Found once, as it takes longer than reading it."""
    try:
        with open("/proc/self/cgroup") as own, open("/proc/self/mountinfo") as mounts:
            folder = memory_folder(own.read(), mounts.read())
    except OSError:
        folder = None
    if folder is not None:
        for name in COUNTERS.values():
            path = os.path.join(folder, name)
            if os.path.exists(path):
                return path, "its memory cgroup"
    return VMSTAT, "this machine"


def memory_folder(own: str, mounts: str) -> str | None:
    """Where the cgroup with our memory is mounted; ``own`` is /proc/PID/cgroup, ``mounts`` /proc/PID/mountinfo."""
    groups: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            groups.setdefault("cgroup2", path)
        elif "memory" in controllers.split(","):
            groups["cgroup"] = path
    kind = "cgroup" if "cgroup" in groups else "cgroup2"  # where both are mounted, only one of them has the controller
    for line in mounts.splitlines():
        place, _, system = line.partition(" - ")
        found, _, options = system.split(" ", 2)
        if found != kind or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        root, mounted_at = place.split(" ")[3:5]
        path = groups.get(kind, "..")
        if f"{path}/".startswith(f"{root.rstrip('/')}/"):  # else it lies outside of what we may see
            return mounted_at + path[len(root.rstrip("/")) :].rstrip("/")
    return None


def oom_kills() -> int:
    """How many processes the kernel has killed because memory ran out, of those that ``counter`` counts."""
    try:
        with open(counter()[0], "rb") as file:
            _, found, count = (b"\n" + file.read()).partition(b"\noom_kill ")
    except OSError:
        return 0
    return int(count.split(maxsplit=1)[0]) if found else 0
