"""Folders as tar archives: packed as they are stored, unpacked within bounds and never out of their place."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from flow_agent.storages.payload import (
    MOST_BYTES,
    MOST_FILES,
    SKIPPED,
    Check,
    Entry,
    Hashed,
    Refused,
    digest_of_entries,
    entries,
    open_file,
)

_CHUNK = 1 << 20
_MOST_MEMBERS = 1_000_000
"""Of an archive of a git host, of which only a part may be wanted."""
_OF_NAMES = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP, errno.EINVAL}
)
"""What the system says of paths that an archive names twice, or that no file can have."""


def pack_folder(root: Path, file: BinaryIO, check: Check) -> tuple[str, int]:
    """Write what of ``root`` belongs to a payload as a tar archive; gives digest and size of the contents.

    Raises Refused, OSError.
    """
    found: list[tuple[Entry, str]] = []
    total = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries(root, check):
            info = tarfile.TarInfo(entry.path)
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
                archive.addfile(info)
                found.append((entry, ""))
                continue
            with open_file(root / entry.path, follow=False) as content:
                facts = os.fstat(content.fileno())
                info.size, info.mode = facts.st_size, 0o700 if facts.st_mode & stat.S_IXUSR else 0o600
                read = Hashed(content, check)
                archive.addfile(info, read)
            found.append((entry, read.digest))
            total += read.size
    return digest_of_entries(found), total


def unpack(archive: Path, target: Path, check: Check, *, below: str | None = None) -> tuple[str, int]:
    """Unpack a tar archive into the empty folder ``target``; gives digest and size of the contents.

    With ``below`` the archive is one of a git host: all of it lies in one folder, of which only what is below that path
    (empty: everything) is taken, without ``SKIPPED``.

    Raises Refused: it is no archive, too large, or holds a path or a link that leads out. OSError.
    """
    found: list[tuple[Entry, str]] = []
    real: set[PurePosixPath] = set()
    total = 0
    try:
        # Ours have no compression, in which little could hide much.
        with tarfile.open(archive, mode="r:" if below is None else "r:gz", tarinfo=_Member) as members:
            for member in _members(members, below, check):
                entry = _checked(member, target, archive, real)
                total += entry.size
                if len(found) >= MOST_FILES or total > MOST_BYTES:
                    raise Refused(f"{archive} holds more than {MOST_FILES} files or {MOST_BYTES // 1_000_000} MB")
                found.append((entry, _unpacked(members, member, target / entry.path, check)))
            _see_to_the_end(members)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise Refused(f"{archive} is no archive that can be read: {error}") from error
    except OSError as error:
        if error.errno not in _OF_NAMES:
            raise
        raise Refused(f"{archive} holds a path that cannot be written: {error.strerror}") from error
    return digest_of_entries(found), total


def _see_to_the_end(members: tarfile.TarFile) -> None:
    """An archive that is cut off between two members looks whole to tarfile, and gzip has its checksum at the end.

    Raises Refused. What gzip raises.
    """
    assert members.fileobj is not None
    rest = members.fileobj.read(_CHUNK)
    if len(rest) < tarfile.BLOCKSIZE or any(rest) or members.fileobj.read(1):
        raise Refused("the archive is cut off, or something stands behind its end")


class _Member(tarfile.TarInfo):
    """Refuses headers that would be read into memory whole, however long they are."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As of a tar archive."""
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and found.size > _CHUNK:
            raise Refused(f"the archive has a header of {found.size} bytes, expected at most {_CHUNK}")
        return found


def _members(members: tarfile.TarFile, below: str | None, check: Check) -> Iterator[tarfile.TarInfo]:
    looked_at = (_sound(number, member, check) for number, member in enumerate(members))
    return looked_at if below is None else _members_below(looked_at, PurePosixPath(below))


def _sound(number: int, member: tarfile.TarInfo, check: Check) -> tarfile.TarInfo:
    check()
    if member.size < 0 or number > _MOST_MEMBERS:
        raise Refused(f"the archive has more than {_MOST_MEMBERS} members, or one of {member.size} bytes")
    return member


def _members_below(members: Iterator[tarfile.TarInfo], below: PurePosixPath) -> Iterator[tarfile.TarInfo]:
    for member in members:
        inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
        if not member.isdir() and inside.is_relative_to(below) and inside != below and SKIPPED.isdisjoint(inside.parts):
            member.name = inside.relative_to(below).as_posix()
            yield member


def _checked(member: tarfile.TarInfo, target: Path, archive: Path, real: set[PurePosixPath]) -> Entry:
    path = PurePosixPath(member.name)
    if not path.parts or path.is_absolute() or ".." in path.parts or not (member.isfile() or member.issym()):
        raise Refused(f"{archive} holds {member.name!r}, expected only files and links below its top")
    if path.parent not in real:  # what was a folder stays one: nothing here replaces it
        parent = target / path.parent
        parent.mkdir(parents=True, exist_ok=True)
        # A folder on the way may be a link that came before; each step must be a real one.
        if parent.resolve() != target.resolve() / path.parent:
            raise Refused(f"{archive} holds {member.name!r} behind a link")
        real.add(path.parent)
    if not member.issym():
        return Entry(path.as_posix(), size=member.size)
    # `..` only in front, where it climbs real folders: behind a link it could climb further than it looks.
    link, above = member.linkname, len(path.parts) - 1
    climbs = PurePosixPath(link).parts.count("..")
    if os.path.isabs(link) or os.path.normpath(link) != link or climbs > above:  # noqa: PTH117 - texts, not files
        raise Refused(f"{archive} holds the link {member.name!r} to {link!r}, which leads out of it")
    return Entry(path.as_posix(), link=link)


def _unpacked(members: tarfile.TarFile, member: tarfile.TarInfo, place: Path, check: Check) -> str:
    if member.issym():
        place.symlink_to(member.linkname)
        return ""
    content = members.extractfile(member)
    assert content is not None  # it is a file
    with content, place.open("xb") as file:
        read = Hashed(content, check)
        while chunk := read.read(_CHUNK):
            file.write(chunk)
    place.chmod(0o700 if member.mode & stat.S_IXUSR else 0o600)
    return read.digest
