"""Numbered migrations: what they are, and applying those that a file lacks."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from flow_agent.errors import QueueError, QueueTooNew
from flow_agent.version import DISTRIBUTION, __version__

APPLICATION_ID = 0x666C6F77
"""Marks the file as ours, in its header ("flow")."""

_TABLE = """
create table if not exists migrations (
    number integer primary key, name text not null, checksum text not null,
    kind text not null, program text not null, applied_at real not null
)"""


@dataclass(frozen=True)
class Migration:
    """One numbered file; ``kind`` is ``safe`` if programs that do not know it may go on, else ``breaking``."""

    number: int
    name: str
    kind: str
    text: str

    @property
    def checksum(self) -> str:
        """What tells whether the file was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """One after the other: sqlite3's ``executescript`` would end the transaction."""
        statement = ""
        for line in self.text.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement
                statement = ""


def shipped() -> tuple[Migration, ...]:
    """The migrations of this program, in order."""
    folder = files("flow_agent.queues").joinpath("sql", "sqlite")
    found = []
    for entry in folder.iterdir():
        if named := re.fullmatch(r"(\d{4})_\w+\.sql", entry.name):
            text = entry.read_text("utf-8")
            kind = re.match(r"-- (safe|breaking)\b", text)
            if kind is None:
                raise QueueError(f"migration {entry.name} does not begin with `-- safe` or `-- breaking`")
            found.append(Migration(int(named[1]), entry.name, kind[1], text))
    return tuple(sorted(found, key=lambda migration: migration.number))


def check_ours(connection: sqlite3.Connection, shown: str) -> bool:
    """Whether the file has our tables already; False: it is empty. Writes nothing.

    Raises QueueError: it belongs to another program. sqlite3.DatabaseError: it is no database.
    """
    tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    if not tables:
        return False
    marked = connection.execute("pragma application_id").fetchone()[0]
    if marked != APPLICATION_ID or "migrations" not in tables:
        raise QueueError(
            f"{shown} is a SQLite database of another program: expected a queue of flow-agent or no file",
            hint="give another path in FLOW_AGENT_QUEUE",
        )
    return True


def check_known(connection: sqlite3.Connection, shown: str, known: Sequence[Migration]) -> set[int]:
    """The numbers of the migrations that the file has.

    Raises QueueTooNew: a breaking one that this program does not know. QueueError: one was changed since.
    """
    mine = {migration.number: migration for migration in known}
    applied = set()
    for row in connection.execute("select number, name, checksum, kind, program from migrations order by number"):
        migration = mine.get(row["number"])
        if migration is None and row["kind"] != "safe":
            raise QueueTooNew(
                f"{shown} was written by flow-agent {row['program']} ({row['name']}); this is {__version__},"
                " which cannot read it",
                hint=f"upgrade this one: pip install --upgrade {DISTRIBUTION}",
            )
        if migration is not None and migration.checksum != row["checksum"]:
            raise QueueError(
                f"{shown}: migration {row['name']} was applied by flow-agent {row['program']} with other content"
                f" than this program's {migration.name}",
                hint="use the program that wrote the file, or start with a new file",
            )
        applied.add(row["number"])
    return applied


def migrate(connection: sqlite3.Connection, shown: str, known: Sequence[Migration]) -> list[str]:
    """Apply what the file lacks, each in its own transaction; the names of what was applied.

    The caller holds the writers' lock, or two openers could try the same one.
    """
    applied = check_known(connection, shown, known) if check_ours(connection, shown) else set()
    names = []
    for migration in known:
        if migration.number in applied:
            continue
        connection.execute("begin immediate")
        try:
            connection.execute(_TABLE)
            connection.execute(
                "insert into migrations values (?, ?, ?, ?, ?, ?)",
                (migration.number, migration.name, migration.checksum, migration.kind, __version__, time.time()),
            )
            for statement in migration.statements():
                connection.execute(statement)
            connection.execute(f"pragma application_id = {APPLICATION_ID}")
            if migration.kind == "breaking":
                # What a program that has the file open looks at before it writes.
                connection.execute(f"pragma user_version = {migration.number}")
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        names.append(migration.name)
    return names
