"""Every process that a bench has started, however far it went off: what they cost, and their end.

Whoever measures becomes a subreaper: a process whose parent ends becomes its child, so that its descendants are all
there are, also those that forked twice, changed session, or have neither a folder nor a variable to be known by.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on this process is the parent of whatever its descendants leave behind.

    Raises OSError: the system cannot do that.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot become a subreaper")


def descendants(root: int | None = None) -> list[psutil.Process]:
    """The live processes below ``root`` (a process id; None: below this process)."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_descendants(patience: float = 0.0) -> list[str]:
    """Kill whatever is left below this process after ``patience`` seconds, and reap it; the command lines of it."""
    until = time.monotonic() + patience
    while descendants() and time.monotonic() < until:
        _reap()
        time.sleep(0.02)
    left: list[str] = []
    while found := descendants():
        for process in found:
            with contextlib.suppress(psutil.Error):
                left.append(f"{process.pid}: {' '.join(process.cmdline())[:100]}")
                process.kill()
        time.sleep(0.02)
        _reap()
    _reap()
    return left


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@contextmanager
def everything_ends() -> Iterator[None]:
    """A block after which nothing runs any more that was started in it, also after Ctrl-C, a hang-up or SIGTERM.

    What had to be killed at an end in order is told on stderr: it should have ended by itself.
    """
    adopt_orphans()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except BaseException:
        end_descendants(patience=0.5)
        raise
    else:
        if left := end_descendants(patience=0.5):
            sys.stderr.write("still there at the end, and killed:\n" + "".join(f"  {line}\n" for line in left))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the clearing up is not broken off
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def run(main: Callable[[], int]) -> NoReturn:
    """End with what ``main`` gives; after Ctrl-C by that signal, so that a loop of a shell around us ends too."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise


@dataclass(frozen=True)
class Cost:
    """What processes cost while nothing happens."""

    cpu: float
    """Share of one core, 0 to 1 for each core."""
    memory: int
    """Bytes, PSS: what processes share is counted once."""
    processes: int


def idle_cost(found: Callable[[], Sequence[psutil.Process]], seconds: float) -> Cost:
    """What the processes that ``found`` gives cost for ``seconds``, those included that come and go meanwhile."""
    before, began = _cpu(found()), time.monotonic()
    time.sleep(seconds)
    processes = found()
    share = (_cpu(processes) - before) / (time.monotonic() - began)
    return Cost(share, sum(_memory(process) for process in processes), len(processes))


def _cpu(processes: Sequence[psutil.Process]) -> float:
    """Seconds of CPU time of them and of all that they have reaped, so that what a child took does not go with it."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        pss: int = process.memory_full_info().pss
        return pss
    return 0
