"""The attempt's own process, as its keeper starts it: parked, in a session of its own, with nothing of the keeper's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

from flow_agent.launchers import linux

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

GO_SIZE = 1 << 20
"""Bytes that the pipe for the word to go takes without blocking us: parameters and secrets."""


class NotStarted(Exception):
    """The program could not be executed; the message says why."""


class Attempt:
    """A started process, parked until ``go``. ``output`` and ``events`` are the descriptors to read from."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.output, output = os.pipe()
        self.events, events = os.pipe()
        go, self._go = os.pipe()
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._go, fcntl.F_SETPIPE_SZ, GO_SIZE)
        failed, fail = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become(orders, {go: 3, events: 4, output: 1}, fail)
        for descriptor in (output, events, go, fail):
            os.close(descriptor)
        for descriptor in (self.output, self.events):
            os.set_blocking(descriptor, False)
        with os.fdopen(failed, "rb") as pipe:
            if problem := pipe.read():
                os.waitpid(self.pid, 0)
                raise NotStarted(problem.decode(errors="replace"))

    def go(self, message: bytes) -> None:
        """Give the runner its message; user code runs from here on. A second time does nothing."""
        if self._go >= 0:
            go, self._go = self._go, -1
            with contextlib.suppress(BrokenPipeError), os.fdopen(go, "wb") as pipe:
                pipe.write(message)

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group, if there is one left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _become(orders: dict[str, Any], descriptors: dict[int, int], fail: int) -> NoReturn:
    """In the forked child: become the attempt's program, or write into ``fail`` why not."""
    try:
        parent = os.getppid()
        os.setsid()
        linux.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        for name in ("SIGCHLD", "SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE", "SIGXFSZ"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.chdir(orders["cwd"])
        high = {_high(source): target for source, target in descriptors.items()}
        fail = _high(fail)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for source, target in high.items():
            os.dup2(source, target)
        os.dup2(1, 2)
        os.execve(orders["argv"][0], orders["argv"], orders["env"])
    except OSError as error:
        os.write(fail, f"{error.strerror}: {error.filename or orders['argv'][0]}".encode())
    finally:
        os._exit(127)


def _high(descriptor: int) -> int:
    """A copy out of the way of 0 to 4."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
