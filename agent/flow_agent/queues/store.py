"""What a transaction over a queue's store can do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from flow_agent.model import AgentInfo, Attempt, Limit, LogLine, Outcome, Registration, Run, State, Waiting
from flow_agent.queues.rules import Moment, Stored

if TYPE_CHECKING:
    from flow_agent.queues.pruning import Past


class Holds(IntEnum):
    """What an operation keeps from others, before any run is locked: of those that take it later, each may wait for
    a run that the other one has."""

    LIMITS = 1
    FLOWS = 2
    SLOTS = 3
    VERSIONS = 4


class Store(Protocol):
    """What a transaction can read and write. It decides nothing."""

    def newest(self, flow: str) -> Registration | None:
        """The newest version of a flow."""

    def registration(self, flow: str, version: int) -> Registration | None:
        """One version of a flow."""

    def registration_of(self, run: Run) -> Registration | None:
        """The one that a run names, which stays as long as the run does."""

    def registrations(self) -> list[Registration]:
        """The newest version of each flow, by name."""

    def flow_names(self) -> list[str]:
        """All names of flows."""

    def add_registration(self, registration: Registration) -> None:
        """Store it under its version."""

    def run(self, run_id: str) -> Stored | None:
        """The run with exactly this id."""

    def by_key(self, flow: str, key: str) -> Stored | None:
        """The run of that flow with that idempotency key."""

    def ids_beginning(self, prefix: str, limit: int) -> list[str]:
        """Up to ``limit`` ids that begin so, in order."""

    def runs(self, states: Collection[State], flow: str | None, limit: int, before: str | None) -> list[Run]:
        """Newest first, filtered as ``Queue.runs`` says."""

    def add_run(self, stored: Stored) -> None:
        """Store a new run."""

    def save(self, stored: Stored) -> None:
        """Store a run as it is now."""

    def promote(self, now: float, limit: int) -> None:
        """Make scheduled runs that are due by ``now`` queued ones: the ``limit`` of them that are due longest."""

    def expect_claim(self, agent: AgentInfo, limit: int, request_id: str, moment: Moment) -> None:
        """What a claim asks is about to be asked: a store that is far away may fetch all of it in one go."""

    def queued(self, agent: AgentInfo, limit: int, admits: Callable[[Stored], bool]) -> list[Stored]:
        """The first ``limit`` queued runs that ``agent`` may take and ``admits`` says yes to, by priority and id.

        It is asked in that order. Of each requirement set, which names a flow that has a limit, only the first
        ``limit`` are asked about: those behind them have the same limits.
        """

    def expired(self, moment: Moment) -> list[Stored]:
        """Runs whose lease has ended, also those of another boot."""

    def held_by(self, agent_id: str) -> list[Stored]:
        """Runs that any incarnation of the agent holds."""

    def orphaned(self, scopes: Mapping[str, str], limit: int) -> list[Stored]:
        """Running runs that nobody holds, with a launcher and scope of ``scopes``."""

    def waiting(self) -> list[Waiting]:
        """See ``Queue.waiting``."""

    def next_due(self) -> float | None:
        """See ``Queue.next_due``."""

    def limits(self) -> list[Limit]:
        """The limits by kind and name, none of whose slots is taken, as it were."""

    def save_limit(self, limit: Limit) -> None:
        """Store a limit; runs of a flow that has one have requirement sets of their own from now on."""

    def remove_limit(self, kind: str, name: str) -> bool:
        """Forget a limit; whether it was there."""

    def taken(self, limits: Sequence[Limit]) -> list[int]:
        """For each of the limits, how many runs that it covers are claimed or running."""

    def occupying(self, limit: Limit) -> list[Stored]:
        """The claimed and running ones, and the first ``slots`` + 1 of each set that are queued, by id."""

    def hold_versions(self) -> None:
        """No version of any flow is counted by others until the transaction ends."""

    def hold_flows(self) -> None:
        """No registration is removed, and no limit changed, until the transaction ends."""

    def hold_slots(self) -> None:
        """No limit is changed, and no slot counted by others, until the transaction ends."""

    def past(self, flow: str | None, before: str | None, limit: int) -> list[Past]:
        """A page of runs in any state, newest first, of that flow (None: of any), older than the id ``before``."""

    def retries(self, run_ids: Collection[str]) -> dict[str, list[str]]:
        """The ids of the runs that are a retry of one of these, by the id of that one."""

    def nth_ended(self, flow: str, states: Collection[State], n: int) -> str | None:
        """The id of the ``n``-th newest run of that flow in one of the states, from 1; None: there are fewer."""

    def count_logs(self, run_ids: Collection[str]) -> int:
        """How many lines these runs have."""

    def remove_logs(self, run_ids: Collection[str], limit: int) -> int:
        """Remove up to ``limit`` lines of these runs; how many were removed."""

    def remove_runs(self, run_ids: Collection[str]) -> None:
        """Remove these runs, with their attempts and claims; their lines are gone already."""

    def superseded(self) -> list[Registration]:
        """The registrations that are not their flow's newest, and that no run names. Reads all runs."""

    def last_added(self) -> str:
        """The id of the run that was added last; empty: there is none. No other one is about to be added."""

    def remove_registrations(self, named: Collection[tuple[str, int]], since: str) -> int:
        """Remove these versions of flows, but for those that a run added after the run ``since`` names; how many went.

        Where that one is gone, they stay if any run names them.
        """

    def add_claim(self, run_id: str, number: int, agent_id: str, request_id: str) -> None:
        """Remember that this request won this claim."""

    def claims_of(self, agent_id: str, request_id: str) -> list[tuple[str, int]]:
        """The claims that a request won: (run id, number)."""

    def claim_end(self, run_id: str, number: int) -> str | None:
        """How a claim ended, if by a word of its agent."""

    def end_claim(self, run_id: str, number: int, how: str) -> None:
        """Remember how a claim ended."""

    def add_attempt(self, run_id: str, attempt: Attempt) -> None:
        """Store a new attempt."""

    def end_attempt(self, run_id: str, number: int, outcome: Outcome, at: float) -> None:
        """Store how an attempt ended, and when."""

    def attempts(self, run_id: str) -> list[Attempt]:
        """The attempts of a run in order."""

    def add_logs(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Store the lines that are not there yet, in order."""

    def last_seq(self, run_id: str, attempt: int, source: str) -> int:
        """See ``Queue.last_seq``."""

    def logs(self, run_id: str, after: int, limit: int) -> list[LogLine]:
        """See ``Queue.logs``."""

    def agent(self, agent_id: str) -> AgentInfo | None:
        """The agent with that id."""

    def agents(self, since: float) -> list[AgentInfo]:
        """Agents seen since then, by name."""

    def save_agent(self, agent: AgentInfo) -> None:
        """Store an agent as it is now."""

    def remove_agents(self, gone: Callable[[AgentInfo], bool]) -> None:
        """Forget the agents that ``gone`` says are gone."""
