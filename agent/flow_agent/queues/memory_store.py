"""A store in dictionaries."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from flow_agent.labels import matches
from flow_agent.model import (
    COUNTED,
    AgentInfo,
    Attempt,
    Limit,
    LogLine,
    Outcome,
    Registration,
    Run,
    State,
    Waiting,
)
from flow_agent.queues.pruning import Past
from flow_agent.queues.rules import Moment, Stored

if TYPE_CHECKING:
    from flow_agent.queues.memory import MemoryQueue


class MemoryStore:
    """``store.Store`` in dictionaries."""

    def __init__(self) -> None:
        self.handles: list[MemoryQueue] = []
        self._flows: dict[str, list[Registration]] = {}
        self._runs: dict[str, Stored] = {}
        self._claims: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self._claim_ends: dict[tuple[str, int], str] = {}
        self._attempts: dict[str, dict[int, Attempt]] = {}
        self._logs: dict[str, list[LogLine]] = {}
        self._seen_lines: set[tuple[str, int, str, int]] = set()
        self._cursor = 0
        self._agents: dict[str, AgentInfo] = {}
        self._limits: dict[tuple[str, str], Limit] = {}

    def newest(self, flow: str) -> Registration | None:
        versions = self._flows.get(flow)
        return versions[-1] if versions else None

    def registration(self, flow: str, version: int) -> Registration | None:
        return next((r for r in self._flows.get(flow, ()) if r.version == version), None)

    def registration_of(self, run: Run) -> Registration | None:
        return self.registration(run.flow, run.version)

    def registrations(self) -> list[Registration]:
        return [versions[-1] for _, versions in sorted(self._flows.items())]

    def flow_names(self) -> list[str]:
        return list(self._flows)

    def add_registration(self, registration: Registration) -> None:
        self._flows.setdefault(registration.flow, []).append(registration)

    def run(self, run_id: str) -> Stored | None:
        return self._runs.get(run_id)

    def by_key(self, flow: str, key: str) -> Stored | None:
        return next((s for s in self._runs.values() if s.run.flow == flow and s.run.key == key), None)

    def ids_beginning(self, prefix: str, limit: int) -> list[str]:
        return sorted(run_id for run_id in self._runs if run_id.startswith(prefix))[:limit]

    def runs(self, states: Collection[State], flow: str | None, limit: int, before: str | None) -> list[Run]:
        runs = (self._runs[run_id].run for run_id in sorted(self._runs, reverse=True))
        return [
            run
            for run in runs
            if (not states or run.state in states)
            and (flow is None or run.flow == flow)
            and (before is None or run.id < before)
        ][: max(0, limit)]

    def add_run(self, stored: Stored) -> None:
        self._runs[stored.run.id] = stored

    def save(self, stored: Stored) -> None:
        self._runs[stored.run.id] = stored

    def promote(self, now: float, limit: int) -> None:
        scheduled = (s for s in self._runs.values() if s.run.state is State.SCHEDULED)
        due = sorted((at, s.run.id) for s in scheduled if (at := s.run.due_at) is not None and at <= now)
        for _, run_id in due[:limit]:
            stored = self._runs[run_id]
            self.save(replace(stored, run=replace(stored.run, state=State.QUEUED)))

    def expect_claim(self, agent: AgentInfo, limit: int, request_id: str, moment: Moment) -> None:
        """It is near."""

    def queued(self, agent: AgentInfo, limit: int, admits: Callable[[Stored], bool]) -> list[Stored]:
        found = [
            s for s in self._runs.values() if s.run.state is State.QUEUED and matches(s.run.labels, s.asked, agent)
        ]
        found.sort(key=lambda s: (-s.run.priority, s.run.id))
        return list(islice(filter(admits, found), limit))

    def expired(self, moment: Moment) -> list[Stored]:
        return [
            s
            for s in self._runs.values()
            if s.lease_until is not None and (s.lease_boot != moment.boot or s.lease_until <= moment.monotonic)
        ]

    def held_by(self, agent_id: str) -> list[Stored]:
        return [s for s in self._runs.values() if s.lease_until is not None and s.agent_id == agent_id]

    def orphaned(self, scopes: Mapping[str, str], limit: int) -> list[Stored]:
        return [
            s
            for s in self._runs.values()
            if s.run.state is State.RUNNING and s.lease_until is None and scopes.get(s.run.launcher or "") == s.scope
        ][:limit]

    def waiting(self) -> list[Waiting]:
        queued = [s for s in self._runs.values() if s.run.state is State.QUEUED]
        counts = Counter((s.run.labels, s.asked) for s in queued)
        first = {(s.run.labels, s.asked): s.run for s in sorted(queued, key=lambda s: s.run.id, reverse=True)}
        going = Counter(
            (s.run.labels, s.asked) for s in self._runs.values() if s.run.state is State.RUNNING and s.scope
        )
        return [
            Waiting(
                labels=key[0],
                launcher=key[1],
                queued=min(counts[key], COUNTED),
                since=max(first[key].created_at, first[key].due_at or 0.0) if key in first else None,
                going=going[key],
            )
            for key in {**counts, **going}
        ]

    def next_due(self) -> float | None:
        due = (s.run.due_at for s in self._runs.values() if s.run.state is State.SCHEDULED)
        return min((at for at in due if at is not None), default=None)

    def limits(self) -> list[Limit]:
        return [limit for _, limit in sorted(self._limits.items())]

    def save_limit(self, limit: Limit) -> None:
        self._limits[limit.kind, limit.name] = limit

    def remove_limit(self, kind: str, name: str) -> bool:
        return self._limits.pop((kind, name), None) is not None

    def _covered(self, limit: Limit, *states: State) -> list[Stored]:
        return [s for s in self._runs.values() if s.run.state in states and limit.covers(s.run.flow, s.run.labels)]

    def taken(self, limits: Sequence[Limit]) -> list[int]:
        return [len(self._covered(limit, State.CLAIMED, State.RUNNING)) for limit in limits]

    def occupying(self, limit: Limit) -> list[Stored]:
        found = self._covered(limit, State.QUEUED, State.CLAIMED, State.RUNNING)
        return sorted(found, key=lambda s: s.run.id)

    def add_claim(self, run_id: str, number: int, agent_id: str, request_id: str) -> None:
        self._claims.setdefault((agent_id, request_id), []).append((run_id, number))

    def claims_of(self, agent_id: str, request_id: str) -> list[tuple[str, int]]:
        return list(self._claims.get((agent_id, request_id), ()))

    def claim_end(self, run_id: str, number: int) -> str | None:
        return self._claim_ends.get((run_id, number))

    def end_claim(self, run_id: str, number: int, how: str) -> None:
        self._claim_ends[run_id, number] = how

    def add_attempt(self, run_id: str, attempt: Attempt) -> None:
        self._attempts.setdefault(run_id, {})[attempt.number] = attempt

    def end_attempt(self, run_id: str, number: int, outcome: Outcome, at: float) -> None:
        attempts = self._attempts[run_id]
        attempts[number] = replace(
            attempts[number],
            finished_at=at,
            reason=outcome.reason,
            detail=outcome.detail,
            exit_code=outcome.exit_code,
        )

    def attempts(self, run_id: str) -> list[Attempt]:
        return [attempt for _, attempt in sorted(self._attempts.get(run_id, {}).items())]

    def add_logs(self, run_id: str, lines: Sequence[LogLine]) -> None:
        for line in lines:
            identity = (run_id, line.attempt, line.source, line.seq)
            if identity not in self._seen_lines:
                self._seen_lines.add(identity)
                self._cursor += 1
                self._logs.setdefault(run_id, []).append(replace(line, cursor=self._cursor))

    def last_seq(self, run_id: str, attempt: int, source: str) -> int:
        lines = self._logs.get(run_id, ())
        return max((line.seq for line in lines if line.attempt == attempt and line.source == source), default=0)

    def logs(self, run_id: str, after: int, limit: int) -> list[LogLine]:
        return [line for line in self._logs.get(run_id, ()) if line.cursor > after][: max(0, limit)]

    def agent(self, agent_id: str) -> AgentInfo | None:
        return self._agents.get(agent_id)

    def agents(self, since: float) -> list[AgentInfo]:
        return sorted((a for a in self._agents.values() if a.seen_at >= since), key=lambda a: (a.name, a.id))

    def save_agent(self, agent: AgentInfo) -> None:
        self._agents[agent.id] = agent

    def remove_agents(self, gone: Callable[[AgentInfo], bool]) -> None:
        self._agents = {agent_id: agent for agent_id, agent in self._agents.items() if not gone(agent)}

    # What is not needed any more

    def hold_versions(self) -> None:
        """Nobody else counts them meanwhile."""

    def hold_flows(self) -> None:
        """Nobody else does anything meanwhile."""

    def hold_slots(self) -> None:
        """Nor counts anything."""

    def past(self, flow: str | None, before: str | None, limit: int) -> list[Past]:
        runs = self.runs((), flow, limit, before)
        return [Past(run.id, run.flow, run.state, run.finished_at) for run in runs]

    def retries(self, run_ids: Collection[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for stored in self._runs.values():
            if stored.run.retry_of in run_ids:
                found.setdefault(stored.run.retry_of or "", []).append(stored.run.id)
        return found

    def nth_ended(self, flow: str, states: Collection[State], n: int) -> str | None:
        ended = self.runs(states, flow, n, None)
        return ended[n - 1].id if len(ended) == n else None

    def count_logs(self, run_ids: Collection[str]) -> int:
        return sum(len(self._logs.get(run_id, ())) for run_id in run_ids)

    def remove_logs(self, run_ids: Collection[str], limit: int) -> int:
        gone = [(run_id, line) for run_id in run_ids for line in self._logs.get(run_id, ())][:limit]
        for run_id, line in gone:
            self._logs[run_id].remove(line)
            self._seen_lines.discard((run_id, line.attempt, line.source, line.seq))
        return len(gone)

    def remove_runs(self, run_ids: Collection[str]) -> None:
        for run_id in run_ids:
            for kept in (self._runs, self._attempts, self._logs):
                kept.pop(run_id, None)
        self._claim_ends = {key: how for key, how in self._claim_ends.items() if key[0] not in run_ids}
        claims = {key: [one for one in won if one[0] not in run_ids] for key, won in self._claims.items()}
        self._claims = {key: won for key, won in claims.items() if won}

    def superseded(self) -> list[Registration]:
        named = {(stored.run.flow, stored.run.version) for stored in self._runs.values()}
        return [
            each
            for versions in self._flows.values()
            for each in versions[:-1]
            if (each.flow, each.version) not in named
        ]

    def last_added(self) -> str:
        return ""  # all runs are looked at again

    def remove_registrations(self, named: Collection[tuple[str, int]], since: str) -> int:  # noqa: ARG002 - the port's
        used = {(stored.run.flow, stored.run.version) for stored in self._runs.values()}
        gone = set(named) - used
        before = sum(map(len, self._flows.values()))
        for flow, versions in self._flows.items():
            self._flows[flow] = [each for each in versions if (flow, each.version) not in gone or each is versions[-1]]
        return before - sum(map(len, self._flows.values()))
