"""A log that never holds up the daemon: where nobody reads, lines wait, then are counted instead of kept."""

from __future__ import annotations

import os
import select
from collections import deque

LONGEST_WAIT = 1_000_000
"""Bytes that wait for a reader; lines beyond it are left out and counted."""


class PatientStream:
    """What a logger writes to. Leads to a descriptor whose reader may be slow (Ctrl-S, a stuck pager) or gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._bytes = self._left_out = 0
        self._gone = False

    def write(self, text: str) -> int:
        """Take ``text``; what cannot be written at once is written with what comes later."""
        data = text.encode(errors="backslashreplace")
        if self._gone:
            return len(text)
        if self._bytes + len(data) > LONGEST_WAIT:
            self._left_out += 1
            return len(text)
        self._waiting.append(data)
        self._bytes += len(data)
        return len(text)

    def flush(self, seconds: float = 0.0) -> None:
        """Write what can be written, waiting at most ``seconds`` each time that its reader is slow."""
        while self._waiting and self._ready(seconds):
            # A pipe that is ready takes PIPE_BUF bytes without blocking, whatever its reader does.
            self._write(self._waiting[0][: select.PIPE_BUF])
            if self._left_out and not self._waiting and not self._gone:
                self._waiting.append(f"... {self._left_out} lines of log were left out: nobody read them\n".encode())
                self._left_out = 0

    def isatty(self) -> bool:
        """Whether it leads to a terminal."""
        return os.isatty(self._descriptor)

    def _ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _write(self, piece: bytes) -> None:
        try:
            written = os.write(self._descriptor, piece)
        except OSError:  # the reader is gone, or the disk is full: no reason to end runs
            self._gone = True
            self._waiting.clear()
            return
        self._bytes -= written
        rest = self._waiting.popleft()[written:]
        if rest:
            self._waiting.appendleft(rest)
