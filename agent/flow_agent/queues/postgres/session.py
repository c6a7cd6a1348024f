"""One connection as a ``store.Store``: what others may change meanwhile is locked when it is read to be written."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from flow_agent.model import AgentInfo, Limit, Registration, Run
from flow_agent.queues.migrations import too_new_now
from flow_agent.queues.postgres import migrate
from flow_agent.queues.postgres.connection import Connection, Database
from flow_agent.queues.postgres.statements import PostgresStatements, escaped
from flow_agent.queues.rules import Moment, Stored
from flow_agent.queues.store import Holds
from flow_agent.queues.tables.agents import Agents
from flow_agent.queues.tables.flows import REMEMBERED, Flows
from flow_agent.queues.tables.limits import Limits
from flow_agent.queues.tables.logs import Logs
from flow_agent.queues.tables.past import History
from flow_agent.queues.tables.rows import stored_run

AHEAD = 16
"""Times as many candidates are looked at as are asked for, since other agents are about to take the same ones."""
_NOW = "select extract(epoch from clock_timestamp())::double precision as now"
_NEWEST = ", (select max(number) from migrations where kind = 'breaking') as newest"
_LIMITED = ", exists (select 1 from limits) as limited"
_SETTLED = f"{migrate.LOCK_SHARED};"
"""A migration waits for what goes on, and what comes after it sees that it was there."""
_HASTY = "set local synchronous_commit = off;"


class Session(PostgresStatements, Flows, Limits, Logs, Agents, History):
    """A connection and what it may remember between transactions; ``writes``: what it reads is locked."""

    def __init__(self, connection: Connection, database: Database, *, writes: bool) -> None:
        super().__init__(connection)
        self._database, self._writes = database, writes
        self._lasting = True
        self._counts = False
        """Whether this transaction counts slots, and no other one."""
        self._unlimited = False
        """Whether there was no limit when the transaction began, and nobody is kept from making one since."""
        self._named: dict[tuple[str, int], Registration] = {}
        self.began = 0.0
        """The server's time when the transaction began."""

    # Transactions

    def begin(self, *, lasting: bool) -> None:
        """Begin a transaction that writes; ``lasting``: its commit waits for the server's disk.

        Raises QueueTooNew: a newer program has migrated the database since it was opened.
        """
        self._lasting, self._limited, self._counts = lasting, None, False
        cursor = self.connection.execute(
            f"begin; {'' if lasting else _HASTY} {_SETTLED} {_NOW}{_NEWEST}{_LIMITED}".encode()
        )
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        assert row is not None
        if (row["newest"] or 0) > self._database.newest:
            raise too_new_now(f"the queue {self._database.shown}")
        self.began, self._unlimited = row["now"], not row["limited"]

    def again(self) -> None:
        """Undo the transaction and begin it anew."""
        self.undo()
        self.begin(lasting=self._lasting)

    def undo(self) -> None:
        """Undo the transaction, if one goes on."""
        self.forget()
        self._named.clear()
        if not self.closed and self.connection.info.transaction_status is not TransactionStatus.IDLE:
            self.connection.execute("rollback")

    def now(self) -> float:
        """The server's time (seconds since the epoch)."""
        if self._writes:
            return self.began
        row = self.connection.execute(_NOW).fetchone()
        assert row is not None
        found: float = row["now"]
        return found

    # What is locked

    def _add_set(self, labels: str, launcher: str, flow: str) -> int:
        self._run("set_lock")  # somebody may just have added it, or another one with a smaller id
        wanted = {"labels": labels, "launcher": launcher, "flow": flow}
        found: int = self._one("set_id", **wanted) or self._one("add_set", **wanted)
        return found

    def registration_of(self, run: Run) -> Registration | None:
        key = run.flow, run.version
        if key not in self._named:
            if len(self._named) >= REMEMBERED:
                self._named.clear()
            if (found := self.registration(*key)) is None:
                return None
            self._named[key] = found
        return self._named[key]

    def limits(self) -> list[Limit]:
        return [] if self._unlimited else super().limits()

    def add_run(self, stored: Stored) -> None:
        columns = self._columns(stored)  # first: what it asks stores those that came before
        self._new.append(columns)

    def run(self, run_id: str) -> Stored | None:
        if not self._writes:
            row = self._row("run", id=run_id)
        else:
            # Of a run that a new limit moves into another set meanwhile, whoever waits for its lock finds nothing: what
            # it waits with knows the old set. That happens to a run once for all.
            row = self._row("run_locked", id=run_id) or self._row("run_locked", id=run_id)
        return stored_run(row) if row else None

    def expect_claim(self, agent: AgentInfo, limit: int, request_id: str, moment: Moment) -> None:
        self._expect("expired", boot=moment.boot, monotonic=moment.monotonic)
        self._expect("claims_of", agent_id=agent.id, request_id=request_id)
        self._expect("sets_after", after=self._last_set())
        if limit > 0 and (sets := self._served_of_known(agent)):
            self._expect("claim_heads", **self._heads(sets, limit))

    def _heads(self, sets: list[int], limit: int) -> dict[str, Any]:
        # Where there are limits, nobody else claims now (see ``hold_slots``).
        ahead = limit if self._counts else limit * AHEAD
        return {"sets": list(sets), "limit": ahead, "most": None if self._counts else ahead}

    def queued(self, agent: AgentInfo, limit: int, admits: Callable[[Stored], bool]) -> list[Stored]:
        sets = self.served_sets(agent)
        if not sets:
            return []
        rows = self._rows("claim_heads", **self._heads(sets, limit))
        wanted = [row["id"] for row in rows]
        found = self._locked("claim_locked", wanted, limit=len(wanted) if self._counts else limit)
        return list(islice(filter(admits, found), limit))

    def expired(self, moment: Moment) -> list[Stored]:
        bounds = {"boot": moment.boot, "monotonic": moment.monotonic}
        return self._locked("expired_locked", [row["id"] for row in self._rows("expired", **bounds)], **bounds)

    def held_by(self, agent_id: str) -> list[Stored]:
        self._run("lock_held_by", agent_id=agent_id)  # first, as for one run
        return [stored_run(row) for row in self._rows("held_by", agent_id=agent_id)]

    def orphaned(self, scopes: Mapping[str, str], limit: int) -> list[Stored]:
        found: list[Stored] = []
        for launcher, scope in scopes.items():
            rows = self._rows("orphaned", launcher=launcher, scope=scope, limit=limit - len(found))
            found += [stored_run(row) for row in rows]
        return found

    def claim_end(self, run_id: str, number: int) -> str | None:
        self._expect("run_locked", id=run_id)  # whoever ends a claim looks at its run next
        return super().claim_end(run_id, number)

    def save(self, stored: Stored) -> None:
        self._expected.pop("claim_heads", None)  # it may have come to wait
        super().save(stored)

    def save_limit(self, limit: Limit) -> None:
        self._hold("limits_lock")
        super().save_limit(limit)

    def _hold(self, lock: str) -> None:
        self._unlimited = False  # they are read anew
        self._run(lock)

    def hold(self, wanted: Collection[Holds]) -> None:
        """Hold what several operations are about to hold one after the other, always in the same order."""
        limited = not self._unlimited
        if not wanted or (wanted == {Holds.SLOTS} and not limited):
            return
        with self.together():
            if Holds.LIMITS in wanted:
                self._hold("limits_lock")
            if Holds.FLOWS in wanted:
                self.hold_flows()
            if Holds.SLOTS in wanted and limited:
                self.hold_slots()
            if Holds.VERSIONS in wanted:
                self.hold_versions()

    def hold_versions(self) -> None:
        self._run("versions_lock")  # the newest one is looked up after whoever stores a newer one has committed

    def hold_flows(self) -> None:
        self._hold("limits_lock_shared")

    def hold_slots(self) -> None:
        self.hold_flows()
        self._run("slots_lock")  # what others have taken is counted when they have committed
        self._counts = True

    def last_added(self) -> str:
        self._run("limits_lock")  # whoever adds a run has committed it, or has not got its number yet
        return super().last_added()

    def remove_registrations(self, named: Collection[tuple[str, int]], since: str) -> int:
        self._run("limits_lock")  # whoever adds runs has found what they name, and has committed them
        # They travel as JSON, which would bring back what may not be stored.
        return super().remove_registrations([(escaped(flow), version) for flow, version in named], since)

    def remove_limit(self, kind: str, name: str) -> bool:
        self._hold("limits_lock")
        return super().remove_limit(kind, name)

    def _locked(self, name: str, ids: list[str], **parameters: Any) -> list[Stored]:
        return [stored_run(row) for row in self._rows(name, ids=ids, **parameters)] if ids else []

    # The connection

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return self.connection.closed

    def cut(self) -> None:
        """End whatever it waits for, from another thread."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.connection.fileno())) as other:
            other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
