"""One connection as a ``store.Store``: what others may change meanwhile is locked when it is read to be written."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

from flow_agent.model import AgentInfo, Limit, Registration, Run
from flow_agent.queues.migrations import too_new_now
from flow_agent.queues.postgres.connection import Connection, Cursor, Database
from flow_agent.queues.queries import queries
from flow_agent.queues.rules import Moment, Stored
from flow_agent.queues.tables.agents import Agents
from flow_agent.queues.tables.flows import REMEMBERED, Flows
from flow_agent.queues.tables.limits import Limits
from flow_agent.queues.tables.logs import Logs
from flow_agent.queues.tables.past import History
from flow_agent.queues.tables.rows import stored_run
from flow_agent.queues.tables.statements import Statements

SQL = queries("postgres")

AHEAD = 16
"""Times as many candidates are looked at as are asked for, since other agents are about to take the same ones."""
_ESCAPE = "\U0010fffe"
"""Stands for no character, and may be stored: what follows it says which one was meant."""
_NOW = "select extract(epoch from clock_timestamp())::double precision as now"
_NEWEST = ", (select max(number) from migrations where kind = 'breaking') as newest"
_LIMITED = ", exists (select 1 from limits) as limited"
_HASTY = "set local synchronous_commit = off;"


def _storable(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """PostgreSQL takes no text with a NUL in it."""
    if any(isinstance(value, str) and ("\0" in value or _ESCAPE in value) for value in parameters.values()):
        return {name: _escaped(value) if isinstance(value, str) else value for name, value in parameters.items()}
    return parameters


def _escaped(text: str) -> str:
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

    def _expect(self, name: str, **parameters: Any) -> None:
        """Ask in the same round trip as what comes next: ``_rows`` finds the answer if it asks the very same."""
        if self._sent is not None:
            self._expected[name] = (parameters, self.connection.execute(SQL[name].encode(), _storable(parameters)))

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
                except BaseException as error:  # noqa: BLE001 - raised below
                    failure = error  # what the pipeline's end says about it again, psycopg would write to stderr
                finally:
                    self._sent = None
                    self._expected.clear()
        except psycopg.Error:
            if failure is None:
                raise
        if failure is not None:
            raise failure

    def _run(self, name: str, **parameters: Any) -> None:
        self.connection.execute(SQL[name].encode(), _storable(parameters))

    def _count(self, name: str, **parameters: Any) -> int:
        cursor = self.connection.execute(SQL[name].encode(), _storable(parameters))
        if self._sent is not None:
            self._sent.sync()
        return cursor.rowcount

    def _run_many(self, name: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(SQL[name].encode(), [_storable(each) for each in parameters])

    def _rows(self, name: str, **parameters: Any) -> Sequence[DictRow]:
        expected, cursor = self._expected.pop(name, (None, None))
        if cursor is None or expected != parameters:
            cursor = self.connection.execute(SQL[name].encode(), _storable(parameters))
        return [_stored(row) for row in cursor.fetchall()]

    def _one(self, name: str, **parameters: Any) -> Any:
        rows = self._rows(name, **parameters)
        return next(iter(rows[0].values())) if rows else None


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
        cursor = self.connection.execute(f"begin; {'' if lasting else _HASTY} {_NOW}{_NEWEST}{_LIMITED}".encode())
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

    def run(self, run_id: str) -> Stored | None:
        row = self._row("run_locked" if self._writes else "run", id=run_id)
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
        return super().remove_registrations([(_escaped(flow), version) for flow, version in named], since)

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
