"""What a container says, written into the spool as a keeper of this machine would: read from its beginning, however
often, it gives the same files."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flow_agent.launchers.contained import RESULTS
from flow_agent.launchers.journal import JOURNAL, OUTPUT
from flow_agent.launchers.lines import Lines

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Mirror:
    """The spool folder ``folder`` of one container."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._output = os.open(folder / OUTPUT, _NEW, 0o600)
        self._journal = os.open(folder / JOURNAL, _NEW, 0o600)
        for name in RESULTS:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        self._lines = Lines()
        self._skip = self._reading = 0
        self._lock, self._closed = threading.Lock(), False
        self.taken = 0
        """Bytes that are whole lines and were taken."""
        self.exit: Mapping[str, Any] | None = None
        """The exit record, once it has come."""

    def again(self) -> int:
        """What is fed next begins at the first byte once more; the number of this reading."""
        with self._lock:
            self._lines, self._skip = Lines(), self.taken
            self._reading += 1
            return self._reading

    def feed(self, reading: int, data: bytes) -> bool:
        """Take the next bytes of that reading; whether it is still the one that counts, since whoever reads may be
        late.

        Raises OSError: the disk refuses; what was not written may be fed again.
        """
        with self._lock:
            if self._closed or reading != self._reading:
                return False
            self._feed(data)
            return True

    def _feed(self, data: bytes) -> None:
        if self._skip:
            left_out = min(self._skip, len(data))
            self._skip -= left_out
            data = data[left_out:]
        for line in self._lines.feed(data):
            sizes = os.fstat(self._output).st_size, os.fstat(self._journal).st_size
            try:
                self._take(line)
            except OSError:
                os.ftruncate(self._output, sizes[0])
                os.ftruncate(self._journal, sizes[1])
                raise
            self.taken += len(line) + 1

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:  # torn where an engine died while it wrote it down
            return
        match message:
            case {"p": str(printed)}:
                _write(self._output, printed.encode(errors="surrogateescape"))
            case {"o": int()}:
                _write(self._journal, line + b"\n")
            case {"result": str(name), "data": str(data)} if name in RESULTS:
                self.result(name, data.encode("latin-1"))
            case {"exit": dict(how)}:
                self.exit = how

    def result(self, name: str, data: bytes) -> None:
        """Write the return value."""
        target = os.open(self._folder / name, _NEW, 0o600)
        try:
            _write(target, data)
        finally:
            os.close(target)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._output)
                os.close(self._journal)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
