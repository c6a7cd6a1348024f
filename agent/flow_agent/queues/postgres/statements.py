"""How named statements run on one connection of PostgreSQL: as many as can in one round trip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow

from flow_agent.queues.postgres.connection import Connection, Cursor
from flow_agent.queues.queries import queries
from flow_agent.queues.tables.statements import Statements

SQL = queries("postgres")

TOGETHER = 2_000
"""New runs in one statement."""
_ESCAPE = "\U0010fffe"
"""Stands for no character, and may be stored: what follows it says which one was meant."""


def _storable(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """PostgreSQL takes no text with a NUL in it."""
    if any(isinstance(value, str) and ("\0" in value or _ESCAPE in value) for value in parameters.values()):
        return {name: escaped(value) if isinstance(value, str) else value for name, value in parameters.items()}
    return parameters


def escaped(text: str) -> str:
    """As it can be stored, a NUL in it too."""
    return text.replace(_ESCAPE, f"{_ESCAPE}1").replace("\0", f"{_ESCAPE}0")


def _stored(row: DictRow) -> DictRow:
    """The row as it was before ``_storable``."""
    for name, value in row.items():
        if isinstance(value, str) and _ESCAPE in value:
            row[name] = value.replace(f"{_ESCAPE}0", "\0").replace(f"{_ESCAPE}1", _ESCAPE)
    return row


class PostgresStatements(Statements):
    """Runs named statements on one connection of PostgreSQL."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self._sent: psycopg.Pipeline | None = None
        self._expected: dict[str, tuple[Mapping[str, Any], Cursor]] = {}
        """What was asked before its answer is wanted, by the name of the statement."""
        self._new: list[Mapping[str, Any]] = []
        """The columns of new runs, which are stored before anything else is asked: many in one statement."""

    def _execute(self, name: str, parameters: Mapping[str, Any]) -> Cursor:
        self._store_new()
        return self.connection.execute(SQL[name].encode(), _storable(parameters))

    def _store_new(self) -> None:
        new, self._new = self._new, []
        if len(new) == 1:
            self._execute("add_run", new[0])
            return
        for start in range(0, len(new), TOGETHER):
            rows = [_storable(each) for each in new[start : start + TOGETHER]]
            self._execute("add_runs", {"runs": json.dumps(rows)})

    def _expect(self, name: str, **parameters: Any) -> None:
        """Ask in the same round trip as what comes next: ``_rows`` finds the answer if it asks the very same."""
        if self._sent is not None:
            self._expected[name] = (parameters, self._execute(name, parameters))

    @contextmanager
    def together(self) -> Iterator[None]:
        """In this block, a statement that gives nothing back is sent with the next one that does: one round trip.

        So its error may come with a later one, at the block's end at the latest.
        """
        failure: BaseException | None = None
        try:
            with self.connection.pipeline() as sent:
                self._sent = sent
                try:
                    yield
                    self._store_new()
                except BaseException as error:  # noqa: BLE001 - raised below
                    failure = error  # what the pipeline's end says about it again, psycopg would write to stderr
                finally:
                    self._sent = None
                    self._expected.clear()
                    self._new.clear()
        except psycopg.Error:
            if failure is None:
                raise
        if failure is not None:
            raise failure

    def _run(self, name: str, **parameters: Any) -> None:
        self._execute(name, parameters)

    def _count(self, name: str, **parameters: Any) -> int:
        cursor = self._execute(name, parameters)
        if self._sent is not None:
            self._sent.sync()
        return cursor.rowcount

    def _run_many(self, name: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        self._store_new()
        with self.connection.cursor() as cursor:
            cursor.executemany(SQL[name].encode(), [_storable(each) for each in parameters])

    def _rows(self, name: str, **parameters: Any) -> Sequence[DictRow]:
        expected, cursor = self._expected.pop(name, (None, None))
        if cursor is None or expected != parameters:
            cursor = self._execute(name, parameters)
        return [_stored(row) for row in cursor.fetchall()]

    def _one(self, name: str, **parameters: Any) -> Any:
        rows = self._rows(name, **parameters)
        return next(iter(rows[0].values())) if rows else None
