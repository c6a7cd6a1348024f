"""What only the kernel can do for a keeper. Where there is no Linux, it does nothing, and says so by its answer."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import defaultdict
from functools import cache

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    import ctypes

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
LINUX = sys.platform == "linux"
PAGE = os.sysconf("SC_PAGE_SIZE")


def _prctl(option: int, value: int) -> bool:
    return LINUX and _libc().prctl(option, value, 0, 0, 0) == 0


@cache
def _libc() -> ctypes.CDLL:
    import ctypes  # some milliseconds; the daemon does not need it before its first keeper

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.restype = ctypes.c_int
    libc.getenv.restype = ctypes.c_void_p
    return libc


def show_memory() -> bool:
    """Undo ``hide_memory`` where it was inherited: an attempt is what a fresh program would be."""
    return _prctl(PR_SET_DUMPABLE, 1)


def become_subreaper() -> bool:
    """Orphans among our descendants become our children, so that none can get away."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> bool:
    """No other process of this user may read our memory or environment (it may hold secrets)."""
    return _prctl(PR_SET_DUMPABLE, 0)


def die_with_parent() -> bool:
    """This process gets SIGKILL when its parent ends."""
    return _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def resident(pid: int) -> int:
    """Bytes of memory that ``pid`` holds now; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """The same, with what several processes share counted in part for each of them."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            _, _, found = file.read().partition(b"\nPss:")
            return int(found.split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError):
        return resident(pid)


def cpu_time(pid: int) -> float:
    """Seconds of CPU time that ``pid`` has used, its children not counted; also of a zombie. 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mark(name: str, value: str) -> None:
    """Write ``value`` over the variable ``name`` where others read a process's environment (/proc/PID/environ).

    They read the memory that the program was started with, which setting a variable does not touch. It must have been
    there then, with a value of the same length; else nothing happens.
    """
    if LINUX:
        import ctypes  # as above

        place = _libc().getenv(name.encode())
        if place and len(ctypes.string_at(place)) == len(value):
            ctypes.memmove(place, value.encode(), len(value))


def threads() -> int:
    """How many threads this process has, also those that Python does not know of."""
    return len(os.listdir("/proc/self/task")) if LINUX else threading.active_count()


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which ``pid`` started, which with the pid names one process; None if there is none.

    A zombie counts as none. Elsewhere than on Linux: 0 for any live pid.
    """
    if not LINUX:
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return 0
    found = _stat(pid)
    return None if found is None or found[0] in "ZX" else found[2]


def has_children() -> bool:
    """Whether this process has any, zombies too; orphans below a subreaper are its children."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """The live processes below ``pid``, children first; empty where /proc does not tell.

    Read from /proc/*/stat: /proc/PID/task/TID/children exists only on kernels built with it.
    """
    if not LINUX:
        return []
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _stat(int(name))) is not None and found[0] not in "ZX":
            children[found[1]].append(int(name))
    below, stack = [], [pid]
    while stack:
        for child in children.get(stack.pop(), ()):
            below.append(child)
            stack.append(child)
    return below


def family(session: int, mark: str | None) -> list[int]:
    """Live processes of ``session``, and those that have ``mark`` (``NAME=value``) in their environment.

    How to find what an attempt started when the keeper, whose descendants they were, is gone.
    """
    if not LINUX:
        return []
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    found = []
    for pid in pids:
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            continue
        if stat[3] == session or (mark is not None and mark.encode() in _environment(pid)):
            found.append(pid)
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # gone, or another user's
        return []


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent, start time and session of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name stands in brackets and may hold anything, brackets too.
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[19]), int(fields[3])
