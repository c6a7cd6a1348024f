"""Numbered migrations: what they are, and applying those that a file lacks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence

from flow_agent.errors import QueueError
from flow_agent.queues import migrations
from flow_agent.queues.migrations import Migration
from flow_agent.version import __version__

APPLICATION_ID = 0x666C6F77
"""Marks the file as ours, in its header ("flow")."""

_TABLE = """
create table if not exists migrations (
    number integer primary key, name text not null, checksum text not null,
    kind text not null, program text not null, applied_at real not null
)"""


def shipped() -> tuple[Migration, ...]:
    """The migrations of this program, in order."""
    return migrations.shipped("sqlite")


def statements(text: str) -> Iterator[str]:
    """One after the other: sqlite3's ``executescript`` would end the transaction."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


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
    """See ``migrations.check_known``."""
    rows = connection.execute("select number, name, checksum, kind, program from migrations order by number")
    return migrations.check_known(rows, shown, known)


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
            for statement in statements(migration.text):
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
