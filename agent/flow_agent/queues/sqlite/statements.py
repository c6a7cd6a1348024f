"""How the parts of a session run their statements."""

from __future__ import annotations

import sqlite3
from typing import Any

from flow_agent.queues.queries import queries

SQL = queries("sqlite")


class Statements:
    """Runs named statements on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def forget(self) -> None:
        """Drop what is known of the file's content."""

    def _run(self, name: str, **parameters: Any) -> sqlite3.Cursor:
        return self._connection.execute(SQL[name], parameters)

    def _rows(self, name: str, **parameters: Any) -> list[sqlite3.Row]:
        return self._run(name, **parameters).fetchall()

    def _one(self, name: str, **parameters: Any) -> Any:
        """The first column of the first row; None if there is no row."""
        row = self._run(name, **parameters).fetchone()
        return None if row is None else row[0]
