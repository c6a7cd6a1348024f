"""The keeper: a small process that keeps one attempt at a time (see ``keep``), from parking it to its exit record.

A zygote forks it, and it forks its attempts; or the daemon starts it as a program of its own (``python -I -S``), and it
starts attempts as programs too. Its socket to the daemon carries lines of JSON: first it says that an attempt is parked
and hands over the pipe that lets it go; then it is given orders, which hold the secrets: they are never in argv,
environment or on the disk. Then it has ended, or says hello again.

The attempt is started before the orders come. So it is ready when they do, and there is nothing in it of what the
keeper learns from them; a keeper that was given secrets serves no second attempt.

Standard library only, and single-threaded, because it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket

from flow_agent.launchers import cgroup, linux
from flow_agent.launchers.attempt import Attempt, NotStarted, start
from flow_agent.launchers.keep import CHUNK, Keep
from flow_agent.launchers.lines import Lines

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

USES = 200
"""Attempts that one keeper keeps, one after the other: what it may have gathered in memory goes with it."""


class Keeper:
    """One keeper's life; ``program`` is what its attempts are (see ``attempt.start``)."""

    def __init__(self, daemon: socket.socket, program: dict[str, Any] | None) -> None:
        self._daemon, self._program = daemon, program
        self._said = Lines()
        self._keep: Keep | None = None
        self._stopped = False
        cgroup.counter()  # now, while nobody waits for it
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake, daemon.fileno()):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)

    def serve(self) -> bool:
        """Keep one attempt after the other. True comes back in the process of an attempt that was forked."""
        for _ in range(USES):
            try:
                attempt = start(self._program)
            except NotStarted as error:
                self._say(failed={"why": str(error), "passes": error.passes})
                return False
            if attempt is None:
                return True
            self._hello(attempt)
            orders, early = self._orders()
            if orders is None:
                return False  # its attempt dies with us
            if self._kept(orders, attempt, early):
                return False
        return False

    def _hello(self, attempt: Attempt) -> None:
        ours, child = os.getpid(), attempt.pid
        who = {"pid": ours, "start": linux.start_time(ours), "child": child, "child_start": linux.start_time(child)}
        self._say([attempt.word], hello=who | {"mark": attempt.mark})

    def _say(self, descriptors: Sequence[int] = (), **message: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            socket.send_fds(self._daemon, [json.dumps(message).encode() + b"\n"], descriptors)

    def _orders(self) -> tuple[dict[str, Any] | None, list[bytes]]:
        """The orders and what came behind them; none if none will come, or the parked attempt is gone."""
        while not self._stopped:
            ready, _, _ = select.select([self._daemon.fileno(), self._wake], [], [])
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, CHUNK)
                if os.waitpid(-1, os.WNOHANG)[0]:
                    return None, []
            if self._daemon.fileno() in ready:
                try:
                    data = self._daemon.recv(CHUNK)
                except BlockingIOError:
                    continue
                if not data:
                    return None, []
                lines = self._said.feed(data)
                for number, line in enumerate(lines):
                    # What comes before orders was meant for the attempt before, which has ended meanwhile.
                    if (orders := json.loads(line).get("orders")) is not None:
                        return orders, lines[number + 1 :]
        return None, []

    def _kept(self, orders: dict[str, Any], attempt: Attempt, early: list[bytes]) -> bool:
        """Keep ``attempt`` to its end; whether it is the last one."""
        os.chdir(orders["folder"])
        self._keep = keep = Keep(orders, attempt, self._daemon.fileno(), self._said, self._wake)
        if self._stopped:
            keep.leave()
        try:
            keep.keep(early)
        except Exception:  # noqa: BLE001 - its attempt ends with it, and the daemon tells why
            _log_fault()
            os._exit(1)
        self._keep = None
        keep.close()
        with contextlib.suppress(FileNotFoundError):  # the home was deleted
            os.chdir(os.path.dirname(orders["folder"]))
        return keep.alone or self._stopped or bool(orders["redacted"] or orders["go"]["secrets"])

    def _on_sigterm(self, *_: object) -> None:
        self._stopped = True
        if self._keep is not None:
            self._keep.leave()


def _log_fault() -> None:
    """Leave a traceback where the daemon looks for the last words of a keeper."""
    import traceback  # a program of its own has no other use for it

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open("keeper.log", flags, 0o600), "a") as log:
        traceback.print_exc(file=log)


def serve(daemon: socket.socket, program: dict[str, Any] | None) -> bool:
    """Be a keeper. True comes back in the process of an attempt that was forked; a keeper that ended gives False."""
    os.setsid()
    linux.become_subreaper()
    linux.hide_memory()
    return Keeper(daemon, program).serve()


def main() -> None:
    """Be a keeper whose attempts are programs; the socket, whose first line says which, is descriptor 0."""
    daemon = socket.socket(fileno=0)
    head = b""
    while not head.endswith(b"\n"):
        if not (byte := daemon.recv(1)):
            return
        head += byte
    serve(daemon, json.loads(head))
