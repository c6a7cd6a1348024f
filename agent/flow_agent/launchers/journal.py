"""The keeper's half of the spool: what the attempt writes, redacted, and the journal that gives it an order.

``output`` holds the printed bytes. ``events.jsonl`` is the journal: each line has ``o``, the length of ``output`` at
that point, and ``t``, the time; some also have an event: ``log`` (a log record), ``end`` (the runner's receipt) or
``gap`` (so many bytes were left out). Reading the journal in order, and the output up to each ``o``, gives
everything in the order in which it happened, always the same, however often it is read.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque

from flow_agent.launchers.lines import Lines
from flow_agent.redact import Redactor, Stream
from flow_agent.runner.marker import marker, marker_start

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from typing import Any

OUTPUT, JOURNAL = "output", "events.jsonl"

FEWER = 65_536
"""Bytes of output between two marks once the journal itself is longer than the output may be."""


class Journal:
    """Writes ``output`` and ``events.jsonl`` in the current folder, at most ``limit`` bytes of both together.

    A full disk loses nothing: what could not be written waits (``blocked``), and whoever reads for us should not read
    on before ``flush`` got it away.
    """

    def __init__(self, redactor: Redactor, nonce: str, limit: int) -> None:
        self._redactor, self._stream = redactor, Stream(redactor)
        self._marker_start = marker_start(nonce)
        self._marker_length = len(marker(nonce, 0))
        self._limit, self._left_out = limit, 0
        self._output, self._journal = self._open()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._offset = self._bytes = self._journal_bytes = 0
        self._marked = 0
        self._pending = b""
        self._events: dict[int, dict[str, Any]] = {}
        self._lines = Lines()

    def _open(self) -> tuple[int, int]:
        """The descriptors for the printed bytes and for the lines of the journal."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(OUTPUT, flags, 0o600), os.open(JOURNAL, flags, 0o600)

    def _printed(self, data: bytes) -> bytes:
        """The printed bytes as they are written."""
        return data

    @property
    def blocked(self) -> bool:
        """Whether something waits for room on the disk."""
        return bool(self._waiting)

    def events(self, data: bytes) -> None:
        """Take what came through the event pipe; an event is written when its marker comes through the output."""
        for line in self._lines.feed(data):
            try:
                event = json.loads(line)
                self._events[event["seq"]] = event
            except (ValueError, TypeError, KeyError):  # a flow that writes to our descriptor: not an event
                continue

    def give_up(self, seq: int) -> None:
        """The event ``seq`` will not come: the flow wrote a marker of its own."""
        self._events[seq] = {}

    def output(self, data: bytes) -> int | None:
        """Take what came through the output pipe; gives the number of a marker whose event is still missing.

        The first missing event stops it: call it again with nothing when more events came.
        """
        self._pending += data
        while (at := self._pending.find(self._marker_start)) >= 0:
            if len(self._pending) < at + self._marker_length:
                break
            seq = int(self._pending[at + len(self._marker_start) :][:8], 16)
            if seq not in self._events:
                return seq
            self._print(self._pending[:at])
            self._pending = self._pending[at + self._marker_length :]
            self._event(self._events.pop(seq))
        keep = len(self._pending) - at if at >= 0 else self._start_of_marker()
        shown, self._pending = self._pending[: len(self._pending) - keep], self._pending[len(self._pending) - keep :]
        self._print(shown)
        self._mark()
        return None

    def close(self) -> None:
        """Write what was held back, the events whose markers never came, and what was left out."""
        self._print(self._pending)
        self._pending = b""
        self._write_output(self._stream.close())
        for seq in sorted(self._events):
            self._event(self._events[seq])
        self._events.clear()
        if self._left_out:
            self._line(gap=self._left_out)
        elif self._offset > self._marked:
            self._line()
        self.flush()

    def close_files(self) -> None:
        """Close both files."""
        os.close(self._output)
        os.close(self._journal)

    def note(self, level: str, text: str) -> None:
        """A log record of the keeper's own."""
        self._line(log={"level": level, "logger": "flow_agent.keeper", "text": text})

    def flush(self) -> bool:
        """Write what waits; whether all of it is written."""
        while self._waiting:
            descriptor, data = self._waiting[0]
            try:
                written = os.write(descriptor, data)
            except OSError:
                return False
            if written == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = (descriptor, data[written:])
        return True

    def _start_of_marker(self) -> int:
        for size in range(min(len(self._marker_start), len(self._pending)), 0, -1):
            if self._marker_start.startswith(self._pending[-size:]):
                return size
        return 0

    def _print(self, data: bytes) -> None:
        if data:
            self._write_output(self._stream.feed(data))

    def _write_output(self, data: bytes) -> None:
        room = max(0, self._limit - self._bytes)
        self._left_out += max(0, len(data) - room)
        data = data[:room]
        if data:
            self._bytes += len(data)
            self._offset += len(data)
            self._waiting.append((self._output, self._printed(data)))

    def _mark(self) -> None:
        # A flow that prints byte by byte would have a journal many times its output: beyond the limit, fewer marks.
        if self._offset - self._marked >= (FEWER if self._journal_bytes > self._limit else 1):
            self._line()
        self.flush()

    def _event(self, event: dict[str, Any]) -> None:
        event = {key: self._redactor.value(event[key]) for key in ("log", "end") if key in event} | {
            "t": event.get("t")
        }
        size = len(str(event))
        if "log" in event and self._bytes + size > self._limit:
            self._left_out += size
            return
        self._bytes += size
        self._line(**event)

    def _line(self, **event: Any) -> None:
        self._marked = self._offset
        line = json.dumps({"o": self._offset, "t": time.time()} | event)
        self._journal_bytes += len(line)
        self._waiting.append((self._journal, line.encode() + b"\n"))
