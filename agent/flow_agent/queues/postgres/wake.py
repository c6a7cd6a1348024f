"""Waking agents on all machines: each queue that waits listens on a connection of its own.

A pooler that gives each transaction another connection lets no notification through, and does not say so. So it is
tried out, with a word of our own by a second connection; where that does not come, agents look from time to time only.
"""

from __future__ import annotations

import secrets
import threading

import anyio
import anyio.to_thread
import psycopg
from psycopg import sql

from flow_agent import events
from flow_agent.queues.postgres.connection import Connection, Database

TRIAL = 2.0
"""Seconds within which a word of our own must come back; it takes less than a thousandth of that."""


class Bell:
    """The connection of one open queue that listens; made when somebody first waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._guard = threading.Lock()
        self._closed = False
        self._deaf = False
        """Whether no notification comes through."""
        self._reading: anyio.Event | None = None

    async def wait(self, seconds: float) -> None:
        """Return at news, or after ``seconds``; at once where we listen only now.

        Raises psycopg.Error: the server cannot be reached.
        """
        if self._deaf:
            await anyio.sleep(seconds)
            return
        if self._reading is not None:  # another task listens already; its end may be news for this one
            with anyio.move_on_after(seconds):
                await self._reading.wait()
            return
        self._reading = anyio.Event()
        try:
            if self._connection is None or self._connection.closed:
                # News before this moment found nobody: let the caller look once.
                await anyio.to_thread.run_sync(self._open, abandon_on_cancel=True)
                return
            with anyio.move_on_after(seconds):
                await self._listen(self._connection)
        finally:
            self._reading.set()
            self._reading = None

    async def _listen(self, connection: Connection) -> None:
        while True:
            try:
                if list(connection.notifies(timeout=0)):
                    return
            except psycopg.OperationalError:  # the server has ended it: news may have been lost
                connection.close()
                return
            await anyio.wait_readable(connection.fileno())

    def _open(self) -> None:
        connection = self._database.connect()
        kept = False
        try:
            row = connection.execute("select 'flow_agent.' || current_schema() as channel").fetchone()
            assert row is not None
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(row["channel"])))
            if not self._hears(connection):
                self._deaf = True
                events.queue_deaf(self._database.shown)
                return
            with self._guard:  # whoever asked may have left, and another one, or nobody, be here
                if not self._closed and (self._connection is None or self._connection.closed):
                    self._connection, kept = connection, True
        finally:
            if not kept:
                connection.close()

    def _hears(self, connection: Connection) -> bool:
        """Whether what another connection says comes through on this one; nobody else listens for it."""
        channel = f"flow_agent.trial.{secrets.token_hex(8)}"
        trial = sql.Identifier(channel)
        connection.execute(sql.SQL("listen {}").format(trial))
        with self._database.connect() as other:
            other.execute("select pg_notify(%s, '')", [channel])
        heard = list(connection.notifies(timeout=TRIAL, stop_after=1))
        connection.execute(sql.SQL("unlisten {}").format(trial))
        return bool(heard)

    def close(self) -> None:
        """Close the connection."""
        with self._guard:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
