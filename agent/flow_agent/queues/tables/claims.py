"""Who may take what, who holds what, and what was answered: claims in the database."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from flow_agent.model import COUNTED, AgentInfo, Attempt, Outcome, Waiting
from flow_agent.queues.rules import Moment, Stored
from flow_agent.queues.tables.rows import attempt_of
from flow_agent.queues.tables.runs import Runs
from flow_agent.queues.tables.statements import Row


class Claims(Runs):
    """The part of a store that keeps claims and attempts."""

    def _stored(self, rows: Iterable[Row]) -> list[Stored]:
        found = (self.run(row["id"]) for row in rows)
        return [stored for stored in found if stored is not None]

    def promote(self, now: float, limit: int) -> None:
        self._run("promote", now=now, limit=limit)

    def expect_claim(self, agent: AgentInfo, limit: int, request_id: str, moment: Moment) -> None:
        """It is near, unless a store says otherwise."""

    def queued(self, agent: AgentInfo, limit: int, admits: Callable[[Stored], bool]) -> list[Stored]:
        heads: list[Row] = []
        for number in self.served_sets(agent):
            heads += self._rows("claim_candidates", requirement_set=number, limit=limit)
        heads.sort(key=lambda row: (-row["priority"], row["id"]))
        candidates = (stored for row in heads if (stored := self.run(row["id"])) is not None)
        return list(islice(filter(admits, candidates), limit))

    def expired(self, moment: Moment) -> list[Stored]:
        return self._stored(self._rows("expired", boot=moment.boot, monotonic=moment.monotonic))

    def held_by(self, agent_id: str) -> list[Stored]:
        return self._stored(self._rows("held_by", agent_id=agent_id))

    def orphaned(self, scopes: Mapping[str, str], limit: int) -> list[Stored]:
        rows: list[Row] = []
        for launcher, scope in scopes.items():
            rows += self._rows("orphaned", launcher=launcher, scope=scope, limit=limit)
        return self._stored(rows[:limit])

    def waiting(self) -> list[Waiting]:
        counts: Counter[tuple[str, str]] = Counter()
        since: dict[tuple[str, str], float] = {}
        for row in self._rows("waiting", most=COUNTED):
            key = row["labels"], row["launcher"]  # flows with a limit have sets of their own
            counts[key] += row["queued"]
            since[key] = min(row["since"], since.get(key, math.inf))
        going = Counter[tuple[str, str]]()
        for row in self._rows("going"):
            going[row["labels"], row["launcher"]] += row["going"]
        return [
            Waiting(
                labels=frozenset(json.loads(labels)),
                launcher=launcher or None,
                queued=min(counts[labels, launcher], COUNTED),
                since=since.get((labels, launcher)),
                going=going[labels, launcher],
            )
            for labels, launcher in {**counts, **going}
        ]

    def next_due(self) -> float | None:
        due: float | None = self._one("next_due")
        return due

    def add_claim(self, run_id: str, number: int, agent_id: str, request_id: str) -> None:
        self._run("add_claim", run_id=run_id, number=number, agent_id=agent_id, request_id=request_id)

    def claims_of(self, agent_id: str, request_id: str) -> list[tuple[str, int]]:
        rows = self._rows("claims_of", agent_id=agent_id, request_id=request_id)
        return [(row["run_id"], row["number"]) for row in rows]

    def claim_end(self, run_id: str, number: int) -> str | None:
        how: str | None = self._one("claim_end", run_id=run_id, number=number)
        return how

    def end_claim(self, run_id: str, number: int, how: str) -> None:
        self._run("end_claim", run_id=run_id, number=number, how=how)

    def add_attempt(self, run_id: str, attempt: Attempt) -> None:
        self._run(
            "add_attempt",
            run_id=run_id,
            number=attempt.number,
            claim=attempt.claim,
            agent=attempt.agent,
            started_at=attempt.started_at,
        )

    def end_attempt(self, run_id: str, number: int, outcome: Outcome, at: float) -> None:
        self._run(
            "end_attempt",
            run_id=run_id,
            number=number,
            at=at,
            reason=str(outcome.reason),
            detail=outcome.detail,
            exit_code=outcome.exit_code,
        )

    def attempts(self, run_id: str) -> list[Attempt]:
        return [attempt_of(row) for row in self._rows("attempts", run_id=run_id)]
