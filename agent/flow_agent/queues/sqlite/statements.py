"""How a session runs its statements on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from flow_agent.queues.queries import queries
from flow_agent.queues.tables.statements import Statements

SQL = queries("sqlite")


class SqliteStatements(Statements):
    """Runs named statements on one connection of SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.connection = connection

    def _run(self, name: str, **parameters: Any) -> None:
        self.connection.execute(SQL[name], parameters)

    def _count(self, name: str, **parameters: Any) -> int:
        return self.connection.execute(SQL[name], parameters).rowcount

    def _run_many(self, name: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        self.connection.executemany(SQL[name], parameters)

    def _rows(self, name: str, **parameters: Any) -> list[sqlite3.Row]:
        return self.connection.execute(SQL[name], parameters).fetchall()

    def _row(self, name: str, **parameters: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.connection.execute(SQL[name], parameters).fetchone()
        return row

    def _one(self, name: str, **parameters: Any) -> Any:
        row = self._row(name, **parameters)
        return None if row is None else row[0]
