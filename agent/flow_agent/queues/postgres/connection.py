"""The database: its URL, connecting to it, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.rows import DictRow, dict_row

from flow_agent.errors import InvalidInput, QueueError, QueueUnavailable
from flow_agent.queues.migrations import Migration
from flow_agent.queues.postgres import failures
from flow_agent.queues.postgres.migrate import migrate
from flow_agent.redact import known

OLDEST = 13
"""Major version of PostgreSQL; older ones are not maintained any more: https://www.postgresql.org/support/versioning/"""
PREPARED_AFTER = 5
"""Times that a statement is run before the server keeps it prepared."""
_DEFAULTS: dict[str, Any] = {
    "application_name": "flow-agent",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What libpq is told unless the URL says otherwise: one that vanished without a word is noticed in half a minute."""

Connection = psycopg.Connection[DictRow]
Cursor = psycopg.Cursor[DictRow]


class Database:
    """One schema of one database. Its methods block; call them in a thread."""

    def __init__(self, url: str, migrations: Sequence[Migration]) -> None:
        given = _parameters(url)
        if password := given.get("password"):
            known.add(password)
        self._parameters = {**_DEFAULTS, **given, "client_encoding": "UTF8"}
        host, port = given.get("host") or given.get("hostaddr") or "", given.get("port") or 5432
        self.shown = f"postgresql://{host}:{port}/{given.get('dbname', '')}"
        self.migrations = migrations
        self.newest = max((each.number for each in migrations if each.kind == "breaking"), default=0)
        self.reached = False
        """Whether the server has ever let us in: if so, whatever it says now may pass."""
        self._prepares = True

    def connect(self) -> Connection:
        """A new connection; transactions are begun and ended by statements."""
        connection = psycopg.Connection.connect(
            **self._parameters,
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=PREPARED_AFTER if self._prepares else None,
        )
        self.reached = True
        if self._prepares and _pooled(connection):
            self.prepare_nothing()
            connection.prepare_threshold = None
        return connection

    def prepare_nothing(self) -> None:
        """From now on nothing is kept prepared: a pooler in between may lead each transaction elsewhere."""
        self._prepares = False

    def create(self) -> list[str]:
        """Make the tables if there are none and apply what they lack; the names of what was applied."""
        with self.errors(), self.connect() as connection:
            version, encoding = connection.info.server_version, connection.info.parameter_status("server_encoding")
            if version < OLDEST * 10_000:
                raise QueueError(
                    f"the queue {self.shown} is PostgreSQL {version // 10_000}: expected {OLDEST} or newer",
                    hint="upgrade the server",
                )
            if encoding != "UTF8":
                raise QueueError(
                    f"the queue {self.shown} is a database in {encoding}: expected UTF8",
                    hint="make one with `createdb --encoding UTF8 --template template0 NAME`",
                )
            return migrate(connection, self.shown, self.migrations)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say in our words what psycopg says."""
        reached = self.reached
        try:
            yield
        except psycopg.Error as error:
            raise failures.from_postgres(error, self.shown, reached=reached) from error

    def no_answer(self, seconds: float) -> QueueUnavailable:
        """What to tell when nothing came for so long."""
        return failures.no_answer(self.shown, seconds)


def _pooled(connection: Connection) -> bool:
    """Whether a pooler stands in between: what it said of the server's process at the beginning is not what the server
    says. Waiting for an error would not do: two clients of a pooler give their statements the same names, and one could
    run what the other has prepared."""
    row = connection.execute("select pg_backend_pid() as process").fetchone()
    return row is None or row["process"] != connection.info.backend_pid


def _parameters(url: str) -> dict[str, Any]:
    if url.partition("?")[0].count("@") > 1 or "@" in url.partition("?")[0].partition("//")[2].partition("/")[2]:
        raise InvalidInput(  # the library would take a part of the password for the host, and tell it
            "the queue's URL has a sign in its user or password that ends them",
            hint="write there %40 for @, %2F for /, %3A for : and %3F for ?",
        )
    try:
        return dict(conninfo.conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        # What libpq says may quote the password, where it does not look like one to it.
        raise InvalidInput(
            "the queue's URL is none that the library of PostgreSQL takes",
            hint="expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for what is special in a URL",
        ) from None
