"""One connection as a ``store.Store``."""

from __future__ import annotations

import sqlite3

from flow_agent.queues.sqlite.agents import Agents
from flow_agent.queues.sqlite.flows import Flows
from flow_agent.queues.sqlite.limits import Limits
from flow_agent.queues.sqlite.logs import Logs


class Session(Flows, Limits, Logs, Agents):
    """A connection, the file it has open (``inode``), and what it may remember between transactions."""

    def __init__(self, connection: sqlite3.Connection, inode: tuple[int, int]) -> None:
        super().__init__(connection)
        self.connection = connection
        self.inode = inode
        self.closed = False
        self.synchronous = ""
        """How its commits wait for the disk; empty until the first one."""
        self.data_version: int | None = None
        """What SQLite says of the content when it was last looked at; it changes with each commit of others."""
        self.companions: dict[str, tuple[int, int] | None] = {}
        """The -wal and -shm files that were opened with it, by path."""

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self.connection.close()
