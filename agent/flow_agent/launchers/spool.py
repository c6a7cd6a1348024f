"""The daemon's half of the spool: reads what a keeper wrote, always in the same order, with the same numbers."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from flow_agent.launchers.journal import JOURNAL, OUTPUT
from flow_agent.launchers.lines import Lines
from flow_agent.model import MORE_CALLS, LogLine

LONGEST_LINE = 65536
"""Bytes; a longer line is cut into pieces of this size, at the same places however often it is read."""
MOST = 65_536
"""Bytes of output read at a time."""
TAIL = 12
"""Lines of output that are kept for the detail of a bad end."""
FATAL = "Fatal Python error: "
FATAL_GOES_ON = ("Current thread ", "Thread ", "  File ", "  ...", "Extension modules: ", "  Binary file ")
"""How lines of what faulthandler writes begin, after the first one; some are empty."""
FATAL_LINES = 5
"""Lines of it that are kept, which say where it was; there may be a hundred more."""
FATAL_MOST = 100
"""Calls that faulthandler tells, the last ones first."""


class SpoolReader:
    """Turns journal and output into log lines, numbered from 1; each ``read`` gives what is new."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder, self._attempt = folder, attempt
        self._journal: BinaryIO | None = None
        self._output: BinaryIO | None = None
        self._lines = Lines()
        self._entries: deque[Mapping[str, Any]] = deque()
        self._offset = 0
        self._partial = b""
        self._seq = 0
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._fatal: int | None = None
        self.receipt: Mapping[str, Any] | None = None
        """The runner's final event, once it was read."""

    def read(self) -> list[LogLine]:
        """New lines, about MOST bytes of output at the most; empty only when there is nothing more to read now."""
        if self._journal is None:
            try:
                self._journal, self._output = _open(self._folder / JOURNAL), _open(self._folder / OUTPUT)
            except FileNotFoundError:
                return []
        found: list[LogLine] = []
        while not found and (self._entries or self._fill(self._journal)):
            until = self._offset + MOST
            while self._entries and self._offset < until:
                found.extend(self._entry(self._entries[0], until))
                if self._offset >= self._entries[0]["o"]:
                    found.extend(self._event(self._entries.popleft()))
        return found

    def _fill(self, journal: BinaryIO) -> bool:
        """Read on in the journal; whether there was more of it. A line may be longer than one reading."""
        data = journal.read(MOST)
        self._entries.extend(json.loads(line) for line in self._lines.feed(data))
        return bool(data)

    def rest(self) -> list[LogLine]:
        """The last line, if it has no end: for when nothing more will come."""
        return list(self._flush(self._folder.stat().st_mtime)) if self._partial else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._journal, self._output):
            if file is not None:
                file.close()

    @property
    def tail(self) -> str:
        """The last lines that were printed, at most 2,000 characters."""
        return "\n".join(self._tail)[-2000:]

    def _entry(self, entry: Mapping[str, Any], until: int) -> Iterator[LogLine]:
        wanted = min(entry["o"], until) - self._offset
        if wanted <= 0 or self._output is None:
            return
        data = self._output.read(wanted)
        self._offset += len(data) or wanted  # an attempt that shortened its own output loses what it took away
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            yield from self._pieces(line, entry["t"])
        while len(self._partial) > LONGEST_LINE:
            piece, self._partial = self._partial[:LONGEST_LINE], self._partial[LONGEST_LINE:]
            yield self._line(entry["t"], _text(piece))

    def _event(self, entry: Mapping[str, Any]) -> Iterator[LogLine]:
        if not entry.keys() & {"log", "end", "gap"}:
            return
        if self._partial:  # what was printed before the event stands before it, also without an end of line
            yield from self._flush(entry["t"])
        match entry:
            case {"log": {"level": str(level), "logger": str(logger), "text": str(text)}}:
                for start in range(0, max(1, len(text)), LONGEST_LINE):
                    piece = text[start : start + LONGEST_LINE]
                    yield self._line(entry["t"], piece, level=level, logger=logger)
            case {"gap": int(size)}:
                text = f"{size} bytes of output were left out here: the attempt wrote more than output.limit allows"
                yield self._line(entry["t"], text, level="WARNING", logger="flow_agent.keeper")
            case {"end": dict(receipt)}:
                self.receipt = receipt

    def _flush(self, time: float) -> Iterator[LogLine]:
        partial, self._partial = self._partial, b""
        yield from self._pieces(partial, time)

    def _pieces(self, line: bytes, time: float) -> Iterator[LogLine]:
        for start in range(0, max(1, len(line)), LONGEST_LINE):
            yield self._line(time, _text(line[start : start + LONGEST_LINE]))

    def _line(self, time: float, text: str, *, level: str = "", logger: str = "") -> LogLine:
        self._seq += 1
        if not level:
            self._remember(text)
        return LogLine(
            attempt=self._attempt, source="flow", seq=self._seq, time=time, text=text, level=level, logger=logger
        )

    def _remember(self, text: str) -> None:
        """Keep a line for the tail; of the report of a crash, which may be long, only the beginning."""
        if text.startswith(FATAL):
            self._fatal = FATAL_LINES
        elif self._fatal is not None and (not text or text.startswith(FATAL_GOES_ON)):
            self._fatal -= bool(text)
            if self._fatal == FATAL_LINES - 1 - FATAL_MOST and text:  # one line says which thread it was
                text = MORE_CALLS
            elif not text or self._fatal < 0:
                return
        else:
            self._fatal = None
        self._tail.append(text)


def _text(line: bytes) -> str:
    # A database keeps no NUL in a text; the rest of what a program may print is its own affair.
    return line.removesuffix(b"\r").decode(errors="replace").replace("\0", "\ufffd")


def _open(path: Path) -> BinaryIO:
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))


_PIECE = 65_536


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:  # a file object would ask the system four more questions
        pieces = []
        while piece := os.read(descriptor, _PIECE):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    content: dict[str, Any] = json.loads(b"".join(pieces))
    return content


def write_json(path: Path, content: Mapping[str, Any] | None) -> None:
    """Put a JSON object at ``path``, whole or not at all."""
    staged = f"{path}.tmp"
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        data = json.dumps(content).encode()
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
    os.rename(staged, path)  # noqa: PTH104 - for each run, and Path takes its time
