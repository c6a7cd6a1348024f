"""What goes into a container: the runner's archive and the folder of the attempt."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

RUNNER = "runner.pyz"
RUN = "run"
"""The attempt's folder, beside the archive."""
PIECE = 1 << 18
AT_ONCE = 4_000_000
"""Bytes that are rather held than streamed."""
MOST_FILES = 1_000
NOTHING = b"[]\n"
"""What is said of luggage on the standard input where none comes that way."""


def said(archive: Path, folder: Path) -> bytes | None:
    """``archive`` and the content of ``folder`` for the standard input of the container: a line of JSON with names and
    sizes, then the contents. None: it is too much for that, or has links in it.

    An engine needs a process of its own to unpack what is copied into a container, which takes it 50 ms.
    """
    names: list[tuple[str, int]] = [(RUNNER, -2), (RUN, -1)]
    contents = [archive.read_bytes()]
    for source in sorted(folder.rglob("*")):  # a folder before what is in it
        name = f"{RUN}/{source.relative_to(folder)}"
        if source.is_symlink() or len(names) > MOST_FILES or sum(map(len, contents)) > AT_ONCE:
            return None
        if source.is_dir():
            names.append((name, -1))
        elif source.is_file():
            if source.stat().st_size > AT_ONCE or source.stat().st_mode & 0o100:
                return None
            contents.append(source.read_bytes())
            names.append((name, len(contents[-1])))
    names[0] = (RUNNER, len(contents[0]))
    return json.dumps(names).encode() + b"\n" + b"".join(contents)


def packed(archive: Path, folder: Path) -> Iterator[bytes]:
    """``archive`` and the content of ``folder`` in pieces of a tar file.

    Everybody may read and write it: who an image's user is cannot be known, and the container is the run's alone.
    """
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

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # of the buffers, those that it is given
        while not self._rest:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
