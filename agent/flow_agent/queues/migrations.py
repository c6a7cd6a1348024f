"""Numbered migrations: what they are, and whether this program knows those that a database has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

from flow_agent.errors import QueueError, QueueTooNew
from flow_agent.version import DISTRIBUTION, __version__


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


class Applied(Protocol):
    """A row of the table of migrations: number, name, checksum, kind, program."""

    def __getitem__(self, column: str, /) -> Any:
        """The value of a column."""


def shipped(database: str) -> tuple[Migration, ...]:
    """The migrations of this program for ``database`` (``sqlite`` or ``postgres``), in order."""
    folder = files("flow_agent.queues").joinpath("sql", database)
    found = []
    for entry in folder.iterdir():
        if named := re.fullmatch(r"(\d{4})_\w+\.sql", entry.name):
            text = entry.read_text("utf-8")
            kind = re.match(r"-- (safe|breaking)\b", text)
            if kind is None:
                raise QueueError(f"migration {entry.name} does not begin with `-- safe` or `-- breaking`")
            found.append(Migration(int(named[1]), entry.name, kind[1], text))
    return tuple(sorted(found, key=lambda migration: migration.number))


def check_known(rows: Iterable[Applied], shown: str, known: Sequence[Migration]) -> set[int]:
    """The numbers of the migrations that the database at ``shown`` has: those of ``rows``.

    Raises QueueTooNew: a breaking one that this program does not know. QueueError: one was changed since.
    """
    mine = {migration.number: migration for migration in known}
    applied = set()
    for row in rows:
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
                hint="use the program that wrote it, or start with a new one",
            )
        applied.add(row["number"])
    return applied


def too_new_now(shown: str) -> QueueTooNew:
    """The error to raise when another program has migrated the database while this one had it open."""
    return QueueTooNew(
        f"{shown} was migrated by a newer flow-agent while it was open; this is {__version__}",
        hint=f"upgrade this one: pip install --upgrade {DISTRIBUTION}",
    )
