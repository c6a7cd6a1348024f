"""The file: opening it, noticing that it is another one now, and the lock between writers."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flow_agent.errors import FlowAgentError, InvalidInput, QueueError, QueueUnavailable
from flow_agent.home import make_private
from flow_agent.model import Json
from flow_agent.queues.migrations import Migration, too_new_now
from flow_agent.queues.sqlite import failures
from flow_agent.queues.sqlite.migrate import migrate
from flow_agent.queues.sqlite.session import Session

_SYNCHRONOUS = ("full", "normal")
FOREIGN = 5_000
"""Milliseconds to wait for a program that writes without our lock."""
_WAL_KEPT = 64 * 2**20
"""Bytes to which the -wal file shrinks again after it has grown."""


def path_of(url: str) -> Path:
    """The file of ``sqlite:PATH``, absolute, ``~`` expanded.

    Raises InvalidInput: another kind of URL, or no path in it.
    """
    scheme, _, path = url.partition(":")
    path = path.removeprefix("//")
    if scheme != "sqlite" or not path:
        raise InvalidInput(f"queue {url!r} names no SQLite file: expected sqlite:PATH")
    file = Path(path).expanduser().absolute()
    if not file.name:
        raise InvalidInput(f"queue {url!r} names a folder: expected sqlite:PATH, the path of a file")
    return file


class Database:
    """One queue file. Its methods block; call them in a thread."""

    def __init__(self, path: Path, options: Mapping[str, Json], migrations: Sequence[Migration]) -> None:
        unknown = set(options) - {"synchronous", "max_page_count"}
        if unknown:
            raise InvalidInput(f"queue option {min(unknown)!r} is unknown: expected synchronous or max_page_count")
        self.path = path
        self.migrations = migrations
        self._lock_path = path.with_name(path.name + ".lock")
        self._synchronous = options.get("synchronous", "full")
        if self._synchronous not in _SYNCHRONOUS:
            raise InvalidInput(f"queue option synchronous is {self._synchronous!r}: expected full or normal")
        self._max_page_count = int(options.get("max_page_count", 0))
        self._writing: Session | None = None
        self._newest = max((m.number for m in migrations if m.kind == "breaking"), default=0)

    def create(self) -> list[str]:
        """Make the file if there is none and apply what it lacks; the names of what was applied."""
        with self.errors():
            make_private(self.path.parent)
            if self.path.is_dir():
                raise QueueError(
                    f"the queue file {self.path} is a folder: expected a file",
                    hint="give the path of a file in FLOW_AGENT_QUEUE",
                )
            with self.locked():
                self._refuse_to_lose_commits()
                # Only where there is no file: closing any descriptor of it would drop SQLite's own locks.
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                if not os.access(self.path, os.R_OK | os.W_OK):
                    # SQLite would open it for reading, and say so only at the first write.
                    raise failures.cannot_open(self.path)
                session = self._connect()
                try:
                    return self._prepare(session)
                finally:
                    session.close()

    def _refuse_to_lose_commits(self) -> None:
        """SQLite would delete a -wal file beside an empty database, and replay one into a file that is put back."""
        wal, _ = self._companions()
        if not self.path.exists() and Path(wal).exists() and Path(wal).stat().st_size:
            raise failures.without_file(self.path, wal)

    def _prepare(self, session: Session) -> list[str]:
        names = migrate(session.connection, str(self.path), self.migrations)
        session.connection.execute("pragma journal_mode = wal")
        return names

    def inode(self) -> tuple[int, int]:
        """What names the file that is at the path now. Raises FileNotFoundError."""
        status = self.path.stat()
        return status.st_dev, status.st_ino

    def _connect(self) -> Session:
        inode = self.inode()
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=FOREIGN / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.row_factory = sqlite3.Row
        try:
            connection.execute(f"pragma journal_size_limit = {_WAL_KEPT}")
            if self._max_page_count:
                connection.execute(f"pragma max_page_count = {self._max_page_count}")
        except BaseException:
            connection.close()
            raise
        return Session(connection, inode)

    def writer(self, session: Session | None) -> Session:
        """``session`` if it is still good to write with, else a new one; the caller holds the lock."""
        self._writing = session = self._renewed(session)
        return session

    def begin(self, session: Session, *, lasting: bool, wait: bool) -> bool:
        """Begin a transaction that writes; what the session remembers is dropped if somebody else has written.

        ``lasting``: its commit waits for the disk, if the settings say so. ``wait``: a program that does not know our
        lock is waited for; else False comes back where one is in the way.

        Raises QueueTooNew: a newer program has migrated the file since it was opened.
        """
        connection = session.connection
        if (level := self._synchronous if lasting else "normal") != session.synchronous:
            connection.execute(f"pragma synchronous = {level}")
            session.synchronous = level
        try:
            connection.execute(f"pragma busy_timeout = {FOREIGN if wait else 0}")
            connection.execute("begin immediate")
        except sqlite3.OperationalError:
            if wait:
                raise
            return False
        version = connection.execute("pragma data_version").fetchone()[0]
        if version == session.data_version:
            return True
        session.forget()
        if connection.execute("pragma user_version").fetchone()[0] > self._newest:
            raise too_new_now(str(self.path))
        session.data_version = version
        return True

    def reader(self, session: Session | None) -> Session:
        """``session`` if it still reads the file at the path, else a new one."""
        if session is not None and not session.closed and session.inode == self.inode():
            return session
        with self.locked():
            session = self._renewed(session)
        session.connection.execute("pragma query_only = on")
        return session

    def _renewed(self, session: Session | None) -> Session:
        """``session``, or a new one if it is closed or another file is at the path now."""
        inode = self.inode()
        if session is not None and not session.closed and session.inode == inode:
            return session
        for old in (session, self._writing):
            if old is not None and not old.closed and old.inode != inode:
                self._retire(old)
        session = self._connect()
        try:
            self._prepare(session)
            session.connection.execute("select count(*) from migrations").fetchone()
            session.companions = {name: self._inode_of(name) for name in self._companions()}
        except BaseException:
            session.close()
            raise
        return session

    def _retire(self, session: Session) -> None:
        """Close a session whose file was replaced, and take its -wal and -shm away from the new file.

        SQLite would replay the old file's -wal into the new one. As long as the session is open, no other file can
        have got the inodes of its companions.
        """
        with suppress(sqlite3.Error):
            session.connection.execute("pragma busy_timeout = 0")
            session.connection.execute("pragma query_only = off")
            session.connection.execute("pragma wal_checkpoint(truncate)")
        # Others are the new file's own.
        stale = [name for name, inode in session.companions.items() if inode and inode == self._inode_of(name)]
        session.close()
        for name in stale:
            with suppress(FileNotFoundError):
                if name.endswith("-wal") and Path(name).stat().st_size:
                    Path(name).rename(f"{name}.of-replaced-file")  # the last commits of the old file, for its owner
                else:
                    Path(name).unlink()

    def _companions(self) -> tuple[str, str]:
        return f"{self.path}-wal", f"{self.path}-shm"

    @staticmethod
    def _inode_of(name: str) -> tuple[int, int] | None:
        try:
            status = Path(name).stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of all writers, fair between processes: the system serves who waits longest.

        Gives whether we hold it: without ``wait`` somebody else may.
        """
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(lock)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say in our words what SQLite and the system say."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._perhaps_for_a_while(failures.from_sqlite(error, self.path)) from error
        except OSError as error:
            raise self._perhaps_for_a_while(failures.from_system(error, self.path)) from error
        except failures.Unreachable as error:
            raise self._perhaps_for_a_while(error) from error

    def _perhaps_for_a_while(self, error: FlowAgentError) -> FlowAgentError:
        """A file that was written to and now cannot be reached or opened may be so again."""
        if not isinstance(error, failures.Unreachable):
            return error
        return (QueueError if self._writing is None else QueueUnavailable)(str(error), hint=error.hint)
