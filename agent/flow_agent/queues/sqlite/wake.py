"""Waking agents on this machine: each one that waits has a FIFO beside the queue file; one byte is the news.

A commit costs nothing more where nobody waits, and an agent that waits costs nothing until there is news.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

import anyio

_NEWS = b"!"


def poke(folder: Path) -> None:
    """Wake every agent that has a FIFO in ``folder``; never fails, since agents look from time to time anyway."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                _poke_one(entry.path)


def _poke_one(path: str) -> None:
    try:
        fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:  # its agent died without removing it
            with suppress(OSError):
                Path(path).unlink()
        return
    try:
        with suppress(OSError):  # full: it has news already
            os.write(fifo, _NEWS)
    finally:
        os.close(fifo)


class Bell:
    """The FIFO of one open queue; made when somebody first waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._fifo: int | None = None
        self._reading: anyio.Event | None = None

    async def wait(self, seconds: float) -> None:
        """Return at news, or after ``seconds``; at once where the FIFO was only just made."""
        if self._lost():
            self._open()
            # News before this moment found no FIFO: let the caller look once.
            await anyio.lowlevel.checkpoint()
            return
        with anyio.move_on_after(seconds):
            if self._reading is not None:  # another task listens already; its end may be news for this one
                await self._reading.wait()
                return
            self._reading = anyio.Event()
            try:
                await self._listen()
            finally:
                self._reading.set()
                self._reading = None

    async def _listen(self) -> None:
        assert self._fifo is not None
        await anyio.wait_readable(self._fifo)
        with suppress(BlockingIOError):
            os.read(self._fifo, 65536)

    def _lost(self) -> bool:
        """Whether there is no FIFO where those who poke would look."""
        if self._path is None or self._fifo is None:
            return True
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fifo))
        except OSError:
            return True

    def _open(self) -> None:
        self.close()
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Hidden until it is open: somebody who pokes takes one that nobody reads for a dead agent's.
        hidden, path = self._folder / f".{name}", self._folder / name
        for last in (False, False, True):
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                os.mkfifo(hidden, 0o600)
                break
            except FileNotFoundError:  # another queue closed just now and took the empty folder along
                if last:
                    raise
        # Open for writing too, or it would read as ended whenever the last writer leaves.
        self._fifo = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._path = path
        hidden.rename(path)

    def close(self) -> None:
        """Remove the FIFO, and the folder with the last one."""
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            self._path = None
            with suppress(OSError):
                self._folder.rmdir()
