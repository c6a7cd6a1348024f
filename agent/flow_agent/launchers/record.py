"""How a keeper tells the daemon: the bell that says "there is news", and the exit record in the spool folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from typing import Any

EXIT, BELL = "exit.json", "bell"
STAGED = "exit.tmp"
RING_AFTER = 0.005
"""Seconds from news to the ring: most of what is short has ended by then, and is told at once."""
RING_EVERY = 0.02
"""Seconds between two rings of the bell; the daemon reads all there is at each."""
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Errors of a disk after which the record is tried again for as long as it takes."""


class Record:
    """Of the attempt in the current folder, which the daemon knows as ``name``."""

    def __init__(self, name: str) -> None:
        self._name = name.encode() + b"\n"
        self._file = os.open(STAGED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError, AttributeError):  # room for the record, should the disk fill up
            os.posix_fallocate(self._file, 0, 4096)
        self._bell: int | None = None
        self._rung = 0.0
        self.due: float | None = None
        """When (``time.monotonic()``) to ring next; None if there is no news."""

    def news(self) -> None:
        """Something happened that the daemon will want to know."""
        if self.due is None:
            self.due = max(self._rung + RING_EVERY, time.monotonic() + RING_AFTER)

    def ring_if_due(self) -> None:
        """Tell the daemon, if there is one, that there is news; not more often than it could use."""
        if self.due is not None and time.monotonic() >= self.due:
            self._ring()

    def _ring(self) -> None:
        self._rung, self.due = time.monotonic(), None
        with contextlib.suppress(OSError):  # no daemon now, or its pipe is full and it will look anyway
            if self._bell is None:
                self._bell = os.open(os.path.join("..", BELL), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._bell, self._name)

    def finish(self, **how: Any) -> None:
        """Put the exit record in its place, whole, and ring."""
        record = json.dumps(how | {"at": time.time()}).encode()
        while True:
            try:
                os.pwrite(self._file, record, 0)
                os.ftruncate(self._file, len(record))
                os.rename(STAGED, EXIT)
                break
            except FileNotFoundError:  # the folder is gone: nobody waits for us
                break
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                time.sleep(0.25)
        self._ring()

    def close(self) -> None:
        """Close what was opened."""
        os.close(self._file)
        if self._bell is not None:
            os.close(self._bell)
