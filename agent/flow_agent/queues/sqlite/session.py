"""One connection as a ``store.Store``."""

from __future__ import annotations

import sqlite3

from flow_agent.queues.rules import Stored
from flow_agent.queues.sqlite.statements import SqliteStatements
from flow_agent.queues.tables.agents import Agents
from flow_agent.queues.tables.flows import Flows
from flow_agent.queues.tables.limits import Limits
from flow_agent.queues.tables.logs import Logs
from flow_agent.queues.tables.past import History

HELD = 1_024
"""Runs that are held whose last state the writing connection keeps."""


class Session(SqliteStatements, Flows, Limits, Logs, Agents, History):
    """A connection, the file it has open (``inode``), and what it may remember between transactions."""

    def __init__(self, connection: sqlite3.Connection, inode: tuple[int, int]) -> None:
        self._held: dict[str, Stored] = {}
        super().__init__(connection)
        self.inode = inode
        self.closed = False
        self.synchronous = ""
        """How its commits wait for the disk; empty until the first one."""
        self.data_version: int | None = None
        """What SQLite says of the content when it was last looked at; it changes with each commit of others."""
        self.companions: dict[str, tuple[int, int] | None] = {}
        """The -wal and -shm files that were opened with it, by path."""

    def forget(self) -> None:
        """Drop what is known of the file's content: it was rolled back, or somebody else has written."""
        super().forget()
        self._held = {}

    def run(self, run_id: str) -> Stored | None:
        """See ``Store.run``."""
        # An agent says four things of each run that it holds: what was saved last need not be read and parsed again.
        if (held := self._held.get(run_id)) is not None:
            return held
        return super().run(run_id)

    def save(self, stored: Stored) -> None:
        """See ``Store.save``."""
        super().save(stored)
        if stored.lease_until is None:
            self._held.pop(stored.run.id, None)
        else:
            if len(self._held) >= HELD:
                self._held.clear()
            self._held[stored.run.id] = stored

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self.connection.close()
