"""Copies what is stored, in pieces and within bounds; tells the digest of what it handled.

The digest of a payload is the SHA-256 of its one file, or, for a folder, of the sorted list of its paths and the
digests of their contents. It depends on contents only: packing and unpacking does not change it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

MOST_FILES = 10_000
MOST_BYTES = 1_000_000_000
"""Bounds of a folder that is stored or fetched as a flow."""

SKIPPED = frozenset({"__pycache__", ".git", ".hg", ".svn"})
"""Folders that are left out, beside virtual environments."""

_CHUNK = 1 << 20

Check = Callable[[], object]
"""Called between two pieces of work; raises to end it."""


class Refused(Exception):
    """A folder or an archive cannot be a payload; the message says why."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder, or a link in it (then ``link`` is where it leads, relative to the link)."""

    path: str
    link: str | None = None
    size: int = 0


class Hashed:
    """A file whose bytes are hashed and counted on their way."""

    def __init__(self, file: IO[bytes], check: Check | None = None) -> None:
        self._file, self._hash, self._check = file, hashlib.sha256(), check
        self.size = 0

    def _passed(self, data: Any) -> None:
        self._hash.update(data)
        self.size += len(data)
        if self._check is not None:
            self._check()

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        data = self._file.read(size)
        self._passed(data)
        return data

    def write(self, data: Any) -> int:
        """As of a file."""
        view = memoryview(data).cast("B")
        self._passed(view)
        return self._file.write(view)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what has passed."""
        return self._hash.hexdigest()


def copy_file(source: Path, target: Path, check: Check, *, follow: bool = True) -> tuple[str, int]:
    """Copy to ``target``, which must not exist; gives digest and size in bytes.

    Raises OSError: it cannot be read or written. Refused: it is no file.
    """
    with open_file(source, follow=follow) as file, target.open("xb") as copy:
        read, status = Hashed(file, check), os.fstat(file.fileno())
        piece = min(_CHUNK, max(status.st_size + 1, 4096))  # a buffer of a megabyte costs more than a small file
        while chunk := read.read(piece):
            copy.write(chunk)
        if status.st_mode & stat.S_IXUSR:
            target.chmod(0o700)
    return read.digest, read.size


def open_file(source: Path, *, follow: bool) -> BinaryIO:
    """``source`` for reading.

    Raises OSError. Refused: it is no file.
    """
    # Not blocking: what was a file a moment ago may be a pipe now, on which opening waits for ever.
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(f"{source} is not a file")
    return os.fdopen(descriptor, "rb")


# Folders


def entries(root: Path, check: Check) -> list[Entry]:
    """What of ``root`` belongs to a payload, sorted by path. Links are recorded, never followed.

    Raises Refused: a link leads out of ``root``, or there is too much of it. OSError: a folder cannot be read.
    """
    found: list[Entry] = []
    total = 0
    for entry in _walk(root, check):
        found.append(entry)
        total += entry.size
        if len(found) > MOST_FILES or total > MOST_BYTES:
            raise Refused(
                f"{root} holds more than {MOST_FILES} files or {MOST_BYTES // 1_000_000} MB,"
                " expected the folder of a flow; name a smaller one as root"
            )
    return sorted(found, key=lambda entry: entry.path)


def _walk(root: Path, check: Check) -> Iterator[Entry]:
    left = [""]
    while left:
        check()
        below = left.pop()
        with os.scandir(root / below) as found:
            for each in found:
                path = below + each.name
                if each.is_symlink():
                    yield _link(root, root / path)
                elif each.is_dir():
                    if not _skipped(root / path):
                        left.append(f"{path}/")
                elif each.is_file():  # sockets and pipes are nothing to store
                    yield Entry(path, size=each.stat().st_size)


def _skipped(folder: Path) -> bool:
    return folder.name in SKIPPED or (folder / "pyvenv.cfg").is_file()


def _link(root: Path, link: Path) -> Entry:
    target, top = Path(os.path.realpath(link)), Path(os.path.realpath(root))
    if not target.is_relative_to(top):
        raise Refused(f"{link} is a link out of {root}; copy what it leads to, or name a root that holds both")
    leads = os.path.relpath(target, os.path.realpath(link.parent))
    return Entry(link.relative_to(root).as_posix(), link=leads)


def digest_of_entries(found: list[tuple[Entry, str]]) -> str:
    """Of a folder, from its entries and the digests of their contents."""
    if len(found) == 1 and found[0][0].link is None and "/" not in found[0][0].path:
        return found[0][1]
    whole = hashlib.sha256()
    for entry, digest in sorted(found, key=lambda pair: pair[0].path):
        whole.update(json.dumps([entry.path, entry.link, digest]).encode() + b"\n")
    return whole.hexdigest()


def digest_of(path: Path, check: Check = lambda: None) -> str:
    """The digest of a payload that lies at ``path``, a file or a folder.

    Raises OSError, Refused.
    """
    if not path.is_dir():
        with open_file(path, follow=True) as file:
            read = Hashed(file, check)
            while read.read(_CHUNK):
                continue
            return read.digest
    found = []
    for entry in entries(path, check):
        found.append((entry, "" if entry.link is not None else digest_of(path / entry.path)))
    return digest_of_entries(found)


def digest_of_text(value: object) -> str:
    """SHA-256 (hex) of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def copy_folder(root: Path, target: Path, check: Check) -> tuple[str, int]:
    """Copy what of ``root`` belongs to a payload into the empty folder ``target``; gives digest and size in bytes.

    Raises Refused, OSError.
    """
    found: list[tuple[Entry, str]] = []
    total = 0
    for entry in entries(root, check):
        place = target / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            place.symlink_to(entry.link)
            found.append((entry, ""))
            continue
        digest, size = copy_file(root / entry.path, place, check, follow=False)
        found.append((entry, digest))
        total += size
    return digest_of_entries(found), total
