"""One attempt from its keeper's orders to its exit record, whatever happens to the daemon.

All that others need lies in the attempt's spool folder, so that another daemon can go on with it:

``keeper.json`` who keeps it, and the attempt's process; the daemon puts it there before it gives the orders
``control``     a FIFO; one JSON object a line: ``{"go": true}``, ``{"deadline": t}``, ``{"stop": grace}``; the daemon
                that gave the orders may write the same into its socket, and ``{"goes": true}``: it has given the word
                itself
``output``, ``events.jsonl``   what the attempt wrote (see ``journal``)
``exit.json``   how it ended; put there by a rename, when nothing of it runs any more
``bell``        (in the folder above) the daemon's FIFO; our folder's name in it says that there is news

Standard library only, and single-threaded, because keepers fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from flow_agent.launchers import linux
from flow_agent.launchers.evidence import Evidence
from flow_agent.launchers.journal import Journal
from flow_agent.launchers.lines import Lines
from flow_agent.launchers.record import Record
from flow_agent.launchers.room import make_room
from flow_agent.redact import Redactor

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flow_agent.launchers.attempt import Attempt

CONTROL, KEEPER = "control", "keeper.json"

CHUNK = 65536
LAST_SECOND = 1.0
"""Seconds before the deadline at which we stop asking and kill."""
DRAIN = 2.0
"""Seconds for which we read on when all is dead but somebody outside still holds the output pipe."""


class Keep:
    """Keeps ``attempt``, which is parked, as the daemon at the socket ``daemon`` has ordered.

    ``said`` takes what comes from there; ``wake`` is a pipe that signals fill.
    """

    def __init__(self, orders: dict[str, Any], attempt: Attempt, daemon: int, said: Lines, wake: int) -> None:
        self._orders, self._attempt = orders, attempt
        self._deadline: float = orders["deadline"]
        self._grace: float = orders["grace"]
        self._timeout: float | None = orders["timeout"]
        self._time_up: float | None = None
        nonce = os.urandom(8).hex()
        attempt.prepare(json.dumps(orders["go"] | {"nonce": nonce, "mark": attempt.mark}).encode() + b"\n")
        self._journal = self._write_to(Redactor(orders["redacted"]), nonce, orders["output_limit"])
        self._record = self._tell_by(orders["name"])
        self._control = self._hear_by()
        self._ended_by: str | None = None
        self._kill_at: float | None = None
        self._status: int | None = None
        self._evidence = Evidence(orders["go"]["limits"])
        self._sources: dict[int, Callable[[bytes], object]] = {
            attempt.events: self._journal.events,
            attempt.output: self._print,
        }
        self._wake = wake
        self._talks: dict[int, Lines] = {self._control: Lines(), daemon: said}

    # What a keeper inside a container has in other places

    def _write_to(self, redactor: Redactor, nonce: str, limit: int) -> Journal:
        return Journal(redactor, nonce, limit)

    def _tell_by(self, name: str) -> Record:
        return Record(name)

    def _hear_by(self) -> int:
        return os.open(CONTROL, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def exit_code(self) -> int:
        """That of the attempt, which has ended; 128 + n if signal n ended it."""
        code = os.waitstatus_to_exitcode(self._status or 0)
        return code if code >= 0 else 128 - code

    @property
    def alone(self) -> bool:
        """Whether the daemon that gave the orders is gone."""
        return len(self._talks) < 2

    # The attempt

    def keep(self, early: list[bytes]) -> None:
        """Pump output and take orders until the attempt has ended, then clear up after it.

        ``early`` are orders that came right behind the first ones.
        """
        self._obey_all(early)
        while self._status is None:
            self._turn(self._pause())
        self._give_grace()
        left = self._kill_the_rest()
        make_room(".")
        if left and self._ended_by is None:
            self._journal.note("WARNING", f"the flow left {left} of its processes running; they were killed")
        if self._status and self._ended_by is None and (hint := self._evidence.hint()) is not None:
            self._journal.note("WARNING", hint)
        end = time.monotonic() + DRAIN
        while time.monotonic() < end and self._pump():
            time.sleep(0.01)
        self._journal.close()
        while not self._journal.flush():
            self._record.ring_if_due()
            time.sleep(0.25)
        code = os.waitstatus_to_exitcode(self._status)
        self._record.finish(
            code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            ended_by=self._ended_by,
            memory=self._evidence.memory,
            cpu=self._evidence.cpu,
        )

    def _turn(self, timeout: float) -> None:
        sources = [*self._talks, self._wake]
        if not self._journal.blocked:  # a full disk: let the attempt wait for room rather than lose what it says
            sources += self._sources
        ready, _, _ = select.select(sources, [], [], timeout)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, CHUNK)
        for talk in [talk for talk in self._talks if talk in ready]:
            self._take_orders(talk)
        if self._journal.blocked:
            self._journal.flush()
        else:
            self._pump()
        self._reap()
        self._hold_deadline()
        if self._status is None and self._ended_by is None:
            self._evidence.lives()
            if self._evidence.weigh():
                self._stop(0.0, "memory")
        self._record.ring_if_due()

    def _pause(self) -> float:
        """Seconds until there is something to do even if nothing happens."""
        now = time.monotonic()
        moments = [self._kill_at] if self._kill_at else [self._deadline - self._grace - LAST_SECOND]
        if self._time_up is not None and self._ended_by is None:
            moments.append(self._time_up)
        if (due := self._record.due) is not None:
            moments.append(due)
        if self._evidence.due is not None:
            moments.append(self._evidence.due)
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
                self._record.news()
            else:
                del self._sources[source]
                os.close(source)

    def _reap(self) -> None:
        """Collect every child that ended: the attempt, and orphans of it that became ours."""
        with contextlib.suppress(ChildProcessError):
            while ended := self._ended():
                pid, status = os.waitpid(ended, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._attempt.pid:
                    self._status = status

    def _ended(self) -> int:
        """The child to collect next: its pid, -1 for any, 0 for none; what only a zombie tells is asked for now."""
        if not linux.LINUX:
            return -1
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return 0
        if found.si_pid == self._attempt.pid and found.si_code != os.CLD_EXITED and self._ended_by is None:
            self._evidence.ended(found.si_pid, found.si_status)
        return found.si_pid

    # Orders and deadlines

    def _take_orders(self, talk: int) -> None:
        try:
            data = os.read(talk, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # the daemon died with something unread
            data = b""
        if not data:
            del self._talks[talk]
        else:
            self._obey_all(self._talks[talk].feed(data))

    def _obey_all(self, orders: list[bytes]) -> None:
        for line in orders:
            with contextlib.suppress(ValueError):
                self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        if "deadline" in order:
            self._deadline = order["deadline"]
        if "stop" in order:
            self._stop(order["stop"])
        if "go" in order and self._ended_by is None:
            self._attempt.go()
        if self._timeout is not None and self._time_up is None and order.keys() & {"go", "goes"}:
            self._time_up = time.monotonic() + self._timeout

    def leave(self) -> None:
        """Somebody who is not the daemon wants the keeper to end: its attempt has its grace, and ends with it."""
        self._stop(self._grace, "keeper")

    def _stop(self, grace: float, ended_by: str = "stop") -> None:
        """Ask the attempt to end, and kill it after ``grace`` seconds."""
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
        if self._time_up is not None and now >= self._time_up and self._ended_by is None:
            self._stop(self._grace, "timeout")
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
            below = linux.descendants(os.getpid()) if linux.LINUX and self._has_children() else []
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

    @staticmethod
    def _has_children() -> bool:
        """Whether anything of the attempt may be left: orphans of it are our children."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def close(self) -> None:
        """Close all that was opened for this attempt."""
        self._journal.close_files()
        self._attempt.close()
        self._record.close()
        for descriptor in (self._control, *self._sources):
            os.close(descriptor)
