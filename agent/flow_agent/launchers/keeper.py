"""The keeper: a small process that starts one attempt, keeps it, and sees to its end, whatever happens to the daemon.

Started by the process launcher in the attempt's spool folder as ``python -I -S``, in a session of its own. Its
standard input gives one JSON document (``Orders``), which holds the secrets: they are never in argv, environment or
on the disk. The rest of the talk goes through the folder, so that another daemon can go on with it:

``control``     a FIFO; one JSON object a line: ``{"go": true}``, ``{"deadline": t}``, ``{"stop": grace}``
``keeper.json`` who we are, and the attempt's process; there once the attempt is parked
``output``, ``events.jsonl``   what the attempt wrote (see ``journal``)
``exit.json``   how it ended; put there by a rename, when nothing of it runs any more
``bell``        (in the folder above) the daemon's FIFO; our folder's name in it says that there is news

Standard library only, and single-threaded, because it forks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time

from flow_agent.launchers import linux
from flow_agent.launchers.attempt import Attempt, NotStarted
from flow_agent.launchers.journal import Journal
from flow_agent.launchers.lines import Lines
from flow_agent.redact import Redactor

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CONTROL, KEEPER, EXIT, BELL = "control", "keeper.json", "exit.json", "bell"

CHUNK = 65536
RING_EVERY = 0.02
"""Seconds between two rings of the bell; the daemon reads all there is at each."""
LAST_SECOND = 1.0
"""Seconds before the deadline at which we stop asking and kill."""
DRAIN = 2.0
"""Seconds for which we read on when all is dead but somebody outside still holds the output pipe."""


class Keeper:
    """One attempt from its parked start to its exit record."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        self._deadline: float = orders["deadline"]
        self._grace: float = orders["grace"]
        nonce = os.urandom(8).hex()
        self._go_message = json.dumps(orders["go"] | {"nonce": nonce}).encode()
        self._journal = Journal(Redactor(orders["redacted"]), nonce, orders["output_limit"])
        self._record = os.open("exit.tmp", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError, AttributeError):  # room for the exit record, should the disk fill up
            os.posix_fallocate(self._record, 0, 4096)
        self._control = os.open(CONTROL, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._control_lines = Lines()
        self._bell: int | None = None
        self._rung = 0.0
        self._news = False
        self._ended_by: str | None = None
        self._kill_at: float | None = None
        self._status: int | None = None
        self._sources: dict[int, Callable[[bytes], object]] = {}
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop(self._grace))
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)

    # The attempt

    def start(self) -> bool:
        """Start the attempt's process, parked; whether it could be started."""
        try:
            self._attempt = Attempt(self._orders)
        except NotStarted as error:
            self._finish(launch_error=str(error))
            return False
        self._sources = {self._attempt.events: self._journal.events, self._attempt.output: self._print}
        who = {"pid": os.getpid(), "start": linux.start_time(os.getpid())}
        who |= {"child": self._attempt.pid, "child_start": linux.start_time(self._attempt.pid)}
        _write_file(KEEPER, who)
        self._ring()
        return True

    def keep(self) -> None:
        """Pump output and take orders until the attempt has ended, then clear up after it."""
        while self._status is None:
            self._turn(self._timeout())
        self._give_grace()
        left = self._kill_the_rest()
        if left and self._ended_by is None:
            self._journal.note("WARNING", f"the flow left {left} of its processes running; they were killed")
        end = time.monotonic() + DRAIN
        while time.monotonic() < end and self._pump():
            time.sleep(0.01)
        self._journal.close()
        while not self._journal.flush():
            self._ring()
            time.sleep(0.25)
        code = os.waitstatus_to_exitcode(self._status)
        self._finish(code=code if code >= 0 else None, signal=-code if code < 0 else None)

    def _turn(self, timeout: float) -> None:
        sources = [self._control, self._wake]
        if not self._journal.blocked:  # a full disk: let the attempt wait for room rather than lose what it says
            sources += self._sources
        ready, _, _ = select.select(sources, [], [], timeout)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, CHUNK)
        if self._control in ready:
            self._take_orders()
        if self._journal.blocked:
            self._journal.flush()
        else:
            self._pump()
        self._reap()
        self._hold_deadline()
        if self._news:
            self._ring()

    def _timeout(self) -> float:
        now = time.monotonic()
        moments = [self._kill_at] if self._kill_at else [self._deadline - self._grace - LAST_SECOND]
        if self._news:
            moments.append(self._rung + RING_EVERY)
        if self._journal.blocked:
            moments.append(now + 0.25)
        return max(0.0, min(moments) - now)

    def _pump(self) -> bool:
        """Read what there is, the events first; whether more may come."""
        for source in list(self._sources):
            self._read(source)
        return bool(self._sources)

    def _print(self, data: bytes) -> None:
        missing = self._journal.output(data)
        # An event is written before its marker, so it is in the pipe by now, or part of it: read on until it is whole.
        while missing is not None:
            ready = self._attempt.events in self._sources and select.select([self._attempt.events], [], [], 1.0)[0]
            if ready:
                self._read(self._attempt.events)
            else:
                self._journal.give_up(missing)
            missing = self._journal.output(b"")

    def _read(self, source: int) -> None:
        """Read one chunk of ``source``, if there is one; after its end it is no source any more."""
        with contextlib.suppress(BlockingIOError):
            if data := os.read(source, CHUNK):
                self._sources[source](data)
                self._news = True
            else:
                del self._sources[source]
                os.close(source)

    def _reap(self) -> None:
        """Collect every child that ended: the attempt, and orphans of it that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._attempt.pid:
                self._status = status

    # Orders and deadlines

    def _take_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for line in self._control_lines.feed(os.read(self._control, CHUNK)):
                with contextlib.suppress(ValueError):
                    self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        if "deadline" in order:
            self._deadline = order["deadline"]
        if "stop" in order:
            self._stop(order["stop"])
        if "go" in order and self._ended_by is None:
            self._attempt.go(self._go_message)

    def _stop(self, grace: float, ended_by: str = "stop") -> None:
        if self._ended_by is None:
            self._ended_by = ended_by
            self._kill_at = time.monotonic() + grace
            self._attempt.signal(signal.SIGTERM)
            self._attempt.signal(signal.SIGCONT)
        elif self._kill_at is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + grace)

    def _hold_deadline(self) -> None:
        now = time.monotonic()
        if now >= self._deadline - self._grace - LAST_SECOND:
            self._stop(max(0.0, self._deadline - LAST_SECOND - now), "deadline")
        if self._kill_at is not None and now >= self._kill_at:
            self._attempt.signal(signal.SIGKILL)
            self._kill_at = now + 0.1

    def _give_grace(self) -> None:
        """What was asked to stop along with the attempt's first process has the same time for it."""
        until = self._kill_at or 0.0
        while time.monotonic() < until and linux.descendants(os.getpid()):
            self._turn(0.02)

    def _kill_the_rest(self) -> int:
        """Kill all that the attempt started, also what left its session; how many there were."""
        killed: set[int] = set()
        while True:
            below = linux.descendants(os.getpid())
            if not linux.LINUX:
                self._attempt.signal(signal.SIGKILL)
            if not below:
                self._reap()
                return len(killed)
            killed |= set(below)
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            self._pump()
            time.sleep(0.001)

    # The folder

    def _ring(self) -> None:
        """Tell the daemon, if there is one, that there is news; not more often than it could use."""
        now = time.monotonic()
        if now - self._rung < RING_EVERY:
            return
        self._rung, self._news = now, False
        with contextlib.suppress(OSError):  # no daemon now, or its pipe is full and it will look anyway
            if self._bell is None:
                self._bell = os.open(os.path.join("..", BELL), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._bell, self._orders["name"].encode() + b"\n")

    def _finish(self, **how: Any) -> None:
        record = json.dumps(how | {"ended_by": self._ended_by, "at": time.time()}).encode()
        while True:
            try:
                os.pwrite(self._record, record, 0)
                os.ftruncate(self._record, len(record))
                os.rename("exit.tmp", EXIT)
                break
            except FileNotFoundError:  # the folder is gone: nobody waits for us
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
                time.sleep(0.25)
        self._rung = 0.0
        self._ring()


def _write_file(name: str, content: dict[str, Any]) -> None:
    with open(name + ".tmp", "w", encoding="utf-8", opener=_private) as file:
        json.dump(content, file)
    os.rename(name + ".tmp", name)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def main() -> None:
    """Read the orders, keep the attempt, leave the exit record."""
    orders = json.load(sys.stdin)
    linux.become_subreaper()
    linux.hide_memory()
    keeper = Keeper(orders)
    if keeper.start():
        keeper.keep()
