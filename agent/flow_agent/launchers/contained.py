"""The keeper inside a container: its first process, which starts one attempt and sees to its end.

It does what the keepers of this machine do (see ``keep``), with other ways to the daemon, since there is no folder that
both can see. Its standard input brings lines of JSON: ``{"orders": ...}`` first, which hold the secrets, then
``{"go": true}``, ``{"lives": seconds}`` and ``{"stop": grace}``. Its standard output, which the engine keeps until the
container is removed, takes lines of JSON in ASCII:

``hello``   an attempt is parked; which Python there is
``failed``  none will be; why
``p``       printed bytes, redacted; with ``o`` and others: a line of the journal (see ``journal``)
``result``  the return value, if it is small and holds no secret; ``exit``: how the attempt ended, when nothing of it
            runs any more

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

from flow_agent.launchers import cgroup, linux
from flow_agent.launchers.attempt import NotStarted, start
from flow_agent.launchers.journal import Journal
from flow_agent.launchers.keep import CHUNK, Keep
from flow_agent.launchers.lines import Lines
from flow_agent.launchers.record import Record
from flow_agent.runner import forked

TYPE_CHECKING = False  # as in the keeper
if TYPE_CHECKING:
    from typing import Any

    from flow_agent.redact import Redactor

IN, OUT = 0, 1
SMALL = 65_536
"""Bytes of a return value that go along with the rest of the output; a larger one is fetched as a file, and so is one
that holds a secret: what the engine keeps of our output is read by more people than results are."""
PATIENCE = 30.0
"""Seconds for which somebody may not take what is written, once the attempt has ended."""
OUTSIDE = "outside"
"""``ended_by``, where it was neither the daemon nor the deadline."""
RESULTS = ("result.json", "result.pickle")
STARTS_WITH = ("PYTHON", "LD_", "LC_", "MALLOC_", "LANG", "GLIBC_TUNABLES")
"""Beginnings of variables that an interpreter, or what starts it, reads once."""


def line(**message: Any) -> bytes:
    """One line of our output."""
    return json.dumps(message).encode() + b"\n"


class StreamJournal(Journal):
    """The journal and the printed bytes, in one stream of lines."""

    def _open(self) -> tuple[int, int]:
        return OUT, OUT

    def _printed(self, data: bytes) -> bytes:
        # Whole or not, the characters come through: what is no UTF-8 is escaped byte by byte.
        return line(p=data.decode(errors="surrogateescape"))

    def close_files(self) -> None:
        """There are none."""

    def tells(self, data: bytes) -> bool:
        """Whether a secret stands in ``data``."""
        return self._redactor.clean(data) != data

    def say(self, data: bytes) -> None:
        """Write a line of another kind behind all that waits."""
        self._waiting.append((OUT, data))
        self.flush()


class StreamRecord(Record):
    """Tells by the same stream; there is no bell to ring."""

    def __init__(self, journal: StreamJournal) -> None:
        self._journal = journal
        self.due = None
        self.went = False
        """Whether the attempt was told to go: of one that was not there is nothing to be kept."""

    def news(self) -> None:
        """Whoever reads the stream knows."""

    def ring_if_due(self) -> None:
        """As above."""

    def finish(self, **how: Any) -> None:
        """Write the return value, if it may go this way, and the exit record."""
        for name in RESULTS:
            with contextlib.suppress(OSError), open(name, "rb") as file:
                if os.fstat(file.fileno()).st_size <= SMALL and not self._journal.tells(data := file.read()):
                    self._journal.say(line(result=name, data=data.decode("latin-1")))
        self._journal.say(line(exit={**how, "went": self.went, "at": time.time()}))
        until = time.monotonic() + PATIENCE
        while not self._journal.flush() and time.monotonic() < until:
            time.sleep(0.02)

    def close(self) -> None:
        """Nothing is open."""


class Contained(Keep):
    """Keeps the attempt of this container."""

    def _write_to(self, redactor: Redactor, nonce: str, limit: int) -> Journal:
        self._stream = StreamJournal(redactor, nonce, limit)
        return self._stream

    def _tell_by(self, name: str) -> Record:  # noqa: ARG002 - the container has one attempt
        self._told = StreamRecord(self._stream)
        return self._told

    def _hear_by(self) -> int:
        return IN

    def _obey(self, order: dict[str, Any]) -> None:
        # Its clock may not be the daemon's: the engine may be on another machine.
        if "lives" in order:
            order["deadline"] = time.monotonic() + order["lives"]
        self._told.went |= "go" in order
        super()._obey(order)

    def end(self) -> None:
        """Somebody else than the daemon wants it to end: ``docker stop``, or the engine as it shuts down."""
        self._stop(self._grace, OUTSIDE)


class Ending:
    """What SIGTERM does, whenever it comes."""

    def __init__(self) -> None:
        self._keep: Contained | None = None
        self._came = False

    def __call__(self, *_: object) -> None:
        """The signal has come."""
        self._came = True
        if self._keep is not None:
            self._keep.end()

    def watch(self, keep: Contained) -> None:
        """From now on it ends ``keep``; at once, if it came before."""
        self._keep = keep
        if self._came:
            keep.end()


def main(path: list[str]) -> int:
    """Be the first process; the exit code is that of the attempt, as a shell has it. ``path`` is ``sys.path`` as the
    attempt shall have it: what lies beside its flow is nothing that the keeper, which holds secrets, may import."""
    os.set_blocking(OUT, True)
    linux.become_subreaper()
    linux.hide_memory()
    cgroup.counter()
    wake, woken = os.pipe()
    for descriptor in (wake, woken):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    ending = Ending()
    signal.signal(signal.SIGTERM, ending)
    said = Lines()
    early = _first(said)
    if not early:
        return 1
    orders = json.loads(early.pop(0))["orders"]
    orders["deadline"] = time.monotonic() + orders["lives"]
    try:
        attempt = _started(orders)
    except NotStarted as error:
        os.write(OUT, line(failed=str(error)))
        return 1
    if attempt is None:  # this is its process
        forked.main(path)
    os.write(OUT, line(hello={"python": list(sys.version_info[:3]), "pid": attempt.pid}))
    for descriptor in (IN, OUT):
        os.set_blocking(descriptor, False)
    keep = Contained(orders, attempt, IN, said, wake)
    ending.watch(keep)
    keep.keep(early)
    return keep.exit_code


def _first(said: Lines) -> list[bytes]:
    """The orders, and what came behind them; nothing if none will come."""
    lines: list[bytes] = []
    while not lines:
        data = os.read(IN, CHUNK)
        if not data:
            break
        lines = said.feed(data)
    return lines


def _started(orders: dict[str, Any]) -> Any:
    """The attempt, parked, where its message says; that is completed with what only this place knows."""
    go, here = orders["go"], os.getcwd()
    os.chdir(orders["folder"])
    given = go["env"]
    go["env"] = {**os.environ, **given}
    if go["cwd"] is None:
        go["cwd"] = here if here != "/" else os.path.join(orders["folder"], "work")
    secret = set(orders["redacted"])
    read = {name: value for name, value in given.items() if name.startswith(STARTS_WITH) and value not in secret}
    if not read and linux.threads() == 1:
        forked.make_ahead()
        return start(None)
    # What is read at the start of an interpreter needs one that starts; and no other threads survive a fork.
    argv = [sys.executable or "python3", "-P", sys.path[0], orders["kind"]]
    return start({"argv": argv, "env": {**os.environ, **read}})
