"""How the runner tells its keeper things, in their true place among what the flow prints.

Two pipes lead to the keeper: the output (descriptors 1 and 2 of the attempt) and the events. An event is one line of
JSON in the event pipe, followed by a marker in the output pipe. The marker is shorter than PIPE_BUF, so nobody's
output can get into it; the keeper takes it out of the output and knows where among the printed lines the event belongs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from typing import Any

from flow_agent.runner.marker import marker

FIRST_HIGH = 200
"""Descriptors from here on are seldom closed by programs that close "all" of theirs."""


class Channel:
    """Sends events; safe from several threads, and harmless in a forked child. ``nonce`` comes with the word to go."""

    nonce = ""

    def __init__(self, events: int) -> None:
        self._events = fcntl.fcntl(events, fcntl.F_DUPFD_CLOEXEC, FIRST_HIGH)
        self._output = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, FIRST_HIGH)
        os.close(events)
        self._seq, self._pid = 0, os.getpid()
        # A log record may be written by a signal handler that interrupts another one.
        self._lock = threading.RLock()

    @property
    def ours(self) -> bool:
        """Whether this is the attempt's own process, not a child that it forked."""
        return os.getpid() == self._pid

    def send(self, **event: Any) -> None:
        """Send one event; what was printed before it stands before it.

        In a child that the flow forked, a log record is printed as a line instead, and all else is left out: two
        processes that write into one pipe would tear each other's lines.

        Raises OSError: the keeper is gone, or the flow closed our descriptors.
        """
        if not self.ours:
            if record := event.get("log"):
                print(f"{record['level']} {record['logger']}: {record['text']}", file=sys.stderr)
            return
        with self._lock:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            self._seq += 1
            line = json.dumps({"seq": self._seq, "t": time.time(), **event}, default=repr).encode() + b"\n"
            _write(self._events, line)
            _write(self._output, marker(self.nonce, self._seq))


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
