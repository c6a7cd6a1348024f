"""What goes into a container, as one tar file made as it is read: the runner's archive, the folder of the attempt."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

RUNNER = "runner.pyz"
RUN = "run"
"""The attempt's folder, beside the archive."""
PIECE = 1 << 18
AT_ONCE = 4_000_000
"""Bytes that are rather held than streamed, which the engine takes with less ado."""


def packed(archive: Path, folder: Path) -> Iterator[bytes] | bytes:
    """``archive`` and the content of ``folder``, in pieces if it is much.

    Everybody may read and write it: who an image's user is cannot be known, and the container is the run's alone.
    """
    size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file() and not entry.is_symlink())
    pieces = _pieces(archive, folder)
    return b"".join(pieces) if size <= AT_ONCE else pieces


def _pieces(archive: Path, folder: Path) -> Iterator[bytes]:
    yield from _file(archive, RUNNER)
    yield _head(RUN, tarfile.DIRTYPE)
    for place, folders, files in os.walk(folder):
        below = Path(RUN) / Path(place).relative_to(folder)
        for name in sorted(folders):
            source = Path(place, name)
            if source.is_symlink():
                yield _head(f"{below / name}", tarfile.SYMTYPE, link=str(source.readlink()))
            else:
                yield _head(f"{below / name}", tarfile.DIRTYPE)
        for name in sorted(files):
            source = Path(place, name)
            if source.is_symlink():
                yield _head(f"{below / name}", tarfile.SYMTYPE, link=str(source.readlink()))
            elif source.is_file():
                yield from _file(source, f"{below / name}")
    yield tarfile.NUL * (2 * tarfile.BLOCKSIZE)


def _file(source: Path, name: str) -> Iterator[bytes]:
    with source.open("rb") as file:
        found = os.fstat(file.fileno())
        yield _head(name, tarfile.REGTYPE, size=found.st_size, executable=bool(found.st_mode & 0o100))
        left = found.st_size
        while left and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece
        yield tarfile.NUL * (left + -found.st_size % tarfile.BLOCKSIZE)  # a file that shrank meanwhile


def _head(name: str, kind: bytes, *, size: int = 0, executable: bool = False, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    member.mode = 0o777 if kind == tarfile.DIRTYPE or executable else 0o666
    return member.tobuf(tarfile.PAX_FORMAT)


def unpacked(pieces: Iterator[bytes], target: Path) -> None:
    """Write the one file of the tar file ``pieces`` to ``target``.

    Raises OSError: the disk refuses. tarfile.TarError, KeyError: there is no file in it.
    """
    with (
        tarfile.open(fileobj=io.BufferedReader(_Read(pieces)), mode="r|") as archive,
        target.open("wb") as file,
    ):
        for member in archive:
            if member.isfile() and (source := archive.extractfile(member)) is not None:
                while piece := source.read(PIECE):
                    file.write(piece)
                return
    raise KeyError(target.name)


class _Read(io.RawIOBase):
    """A file to read, made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
