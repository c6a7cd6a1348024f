"""What SQLite and the file system say, in our words."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from flow_agent.errors import FlowAgentError, QueueError, QueueUnavailable

_OTHER_PATH = "give another path in FLOW_AGENT_QUEUE"
_GIVE_ROOM = "free some space on that disk; nothing that was acknowledged is lost"
_BROKEN_DISK = "look at the disk with `dmesg` and at its free space"
_RIGHTS = (
    "give this user write permission on the file and its folder, or give another path in FLOW_AGENT_QUEUE"
    " or another home in FLOW_AGENT_HOME"
)
_OTHER_FOLDER = "give another path in FLOW_AGENT_QUEUE, or a folder in FLOW_AGENT_HOME"
_RESTORE = "restore it from a backup, or move it away to begin with an empty queue"

_SMALLEST_ROOM = 65_536
"""Bytes that SQLite needs to go on: a -shm file of 32 KiB, and some pages."""

_TOOL = "end the program that holds it, perhaps a database tool with an open transaction"


class Unreachable(QueueError):
    """This user, or nobody, can open the file or write to it."""


_MEANINGS: dict[str, tuple[type[FlowAgentError], str, str]] = {
    "FULL": (QueueUnavailable, "finds no room: its disk is full", _GIVE_ROOM),
    "IOERR": (QueueUnavailable, "lies on a disk that does not work: {error}", _BROKEN_DISK),
    "BUSY": (QueueUnavailable, "is locked by another program", _TOOL),
    "LOCKED": (QueueUnavailable, "is locked by another program", _TOOL),
    "NOMEM": (QueueUnavailable, "cannot be worked on: no memory is left", "end other programs"),
    "READONLY": (Unreachable, "cannot be written to by {user}", _RIGHTS),
    "PERM": (Unreachable, "cannot be written to by {user}", _RIGHTS),
    "AUTH": (Unreachable, "cannot be used by {user}", _RIGHTS),
    "NOTADB": (QueueError, "is not a SQLite database: expected a queue of flow-agent", _OTHER_PATH),
    "CORRUPT": (QueueError, "is damaged: {error}", _RESTORE),
}
"""By SQLite's primary result code."""


def _user() -> str:
    return f"user id {os.geteuid()}"


def _is_full(path: Path) -> bool:
    try:
        disk = os.statvfs(path.parent)
        # Some file systems have no fixed number of files, and say 0 of 0.
        return disk.f_bavail * disk.f_frsize < _SMALLEST_ROOM or (disk.f_files > 0 and disk.f_favail == 0)
    except OSError:
        return False


def moved_away(path: Path) -> QueueUnavailable:
    """The file is not where it was."""
    return QueueUnavailable(
        f"the queue file {path} was moved away or deleted while it was open",
        hint="put it back, or start again to begin with an empty queue",
    )


def without_file(path: Path, wal: str) -> QueueUnavailable:
    """The file is gone and its last commits are left."""
    return QueueUnavailable(
        f"the queue file {path} was moved away or deleted, and its last commits are left in {wal}",
        hint=f"put it back, or delete {wal} too, to begin with an empty queue",
    )


def no_answer(path: Path, seconds: float) -> QueueUnavailable:
    """Nothing came for so long."""
    return QueueUnavailable(
        f"the queue file {path} did not answer for {seconds:g} seconds",
        hint="another program may hold its .lock file, or the disk may stand still",
    )


def from_sqlite(error: sqlite3.Error, path: Path) -> FlowAgentError:
    """The error to raise for one of SQLite's."""
    name: str = getattr(error, "sqlite_errorname", "") or ""
    kind = "_".join(name.split("_")[1:2])
    if name == "SQLITE_READONLY_DBMOVED":
        return moved_away(path)
    if kind == "CANTOPEN":
        return cannot_open(path)
    if kind == "IOERR" and _is_full(path):  # what it says where the -shm file finds no room
        kind = "FULL"
    if kind not in _MEANINGS:
        return QueueError(f"the queue file {path} refuses: {error}", hint=f"try again; if it stays so, {_RESTORE}")
    error_class, what, hint = _MEANINGS[kind]
    return error_class(f"the queue file {path} {what.format(error=error, user=_user())}", hint=hint)


def cannot_open(path: Path) -> FlowAgentError:
    """The error to raise when the file cannot be opened, by what stands in the way."""
    if not path.exists():
        return moved_away(path)
    if not (os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
        return Unreachable(f"the queue file {path} cannot be opened by {_user()}", hint=_RIGHTS)
    if _is_full(path):
        return QueueUnavailable(f"the queue file {path} finds no room: its disk is full", hint=_GIVE_ROOM)
    return QueueUnavailable(
        f"the queue file {path} cannot be opened now", hint="look at the number of open files (`ulimit -n`)"
    )


def from_system(error: OSError, path: Path) -> FlowAgentError:
    """The error to raise for one of the system's, met while working on the queue at ``path``."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return QueueUnavailable(f"the queue file {path} finds no room: its disk is full", hint=_GIVE_ROOM)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        where = error.filename or path
        return Unreachable(f"the queue file {path} cannot be used: {_user()} may not write to {where}", hint=_RIGHTS)
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.EIO}:
        return QueueUnavailable(f"the queue file {path} cannot be opened now: {error.strerror}", hint=_BROKEN_DISK)
    if error.errno in {errno.EEXIST, errno.ENOTDIR}:
        file = next(folder for folder in path.parents if folder.exists())
        return Unreachable(f"the queue file {path} cannot be used: {file} is no folder", hint=_OTHER_FOLDER)
    if error.errno == errno.ENOENT:
        return moved_away(path)
    return Unreachable(f"the queue file {path} cannot be used: {error.strerror}", hint=_OTHER_PATH)
