"""Removing what is not needed any more: ended runs with all that hangs on them, unused registrations, dead agents.

A step is short, since others wait for its locks meanwhile: it looks at a page of runs, from the newest to the oldest,
and removes a bounded number of lines. No index of ended runs is kept for it, which each run would pay for: what stays
is passed by.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flow_agent.asked import LARGEST
from flow_agent.errors import InvalidInput
from flow_agent.model import Pruned, Pruning, Registration, State
from flow_agent.queues import presence
from flow_agent.queues.rules import Moment
from flow_agent.queues.store import Store

PAGE = 1_000
"""Runs that one step looks at, and registrations that it removes."""
LINES = 20_000
"""Lines of logs that one step removes; a run with more of them takes several steps."""
AFTER_ALL = "{"
"""Greater than every id."""
BEFORE_ALL = "!"
"""Smaller than every id: there are no runs any more, only the rest."""


@dataclass(frozen=True)
class Past:
    """What has to be known of a run in order to decide whether it may go."""

    id: str
    flow: str
    state: State
    finished_at: float | None


@dataclass(frozen=True)
class Unused:
    """Registrations that no run of the time of looking named, and the id of the last run that the look has seen."""

    registrations: tuple[Registration, ...]
    since: str


def check(pruning: Pruning) -> None:
    """Raises ValueError: it asks for what cannot be."""
    if not pruning.older_than >= 0 or pruning.keep_last < 0:
        raise ValueError(f"older than {pruning.older_than} s and all but the last {pruning.keep_last} cannot be")
    if pruning.keep_last > LARGEST:
        raise InvalidInput(f"all but the last {pruning.keep_last} cannot be: expected at most {LARGEST}")
    if open_ones := sorted(state for state in pruning.states if not state.terminal):
        raise ValueError(f"a run that is {open_ones[0]} has not ended, and cannot be pruned")


def prune_runs(store: Store, pruning: Pruning, before: str | None, moment: Moment, *, dry_run: bool) -> Pruned:
    """One step: of the runs older than the id ``before``."""
    page = store.past(pruning.flow, before, PAGE)
    rule = _Rule(store, pruning, moment, page)
    ids = [past.id for past in page if not rule.keeps(past)]
    following = page[-1].id if len(page) == PAGE else None
    if not ids:
        return Pruned(next=following)
    if dry_run:
        return Pruned(runs=len(ids), lines=store.count_logs(ids), next=following)
    lines = store.remove_logs(ids, LINES)
    if lines == LINES:  # there may be more: the same page again
        return Pruned(lines=lines, next=before or AFTER_ALL)
    store.remove_runs(ids)
    return Pruned(runs=len(ids), lines=lines, next=following)


def unused(store: Store, pruning: Pruning, moment: Moment, since: str) -> Unused:
    """The registrations that may go; ``since`` is what ``last_added`` said before. It reads all runs once, so it stands
    in no transaction that others wait for."""
    found = (
        each
        for each in store.superseded()
        if each.created_at <= moment.now - pruning.older_than and pruning.flow in (None, each.flow)
    )
    return Unused(tuple(found), since)


def prune_rest(store: Store, found: Unused, part: Collection[Registration], moment: Moment) -> Pruned:
    """Remove those of ``part`` that no run has come to name since, and the agents that are listed no more."""
    agents = presence.dead(store, moment.now)
    if agents:
        presence.forget_dead(store, moment.now)
    removed = store.remove_registrations([(each.flow, each.version or 0) for each in part], found.since) if part else 0
    return Pruned(registrations=removed, agents=agents)


class _Rule:
    """Which runs stay; decided once for each."""

    def __init__(self, store: Store, pruning: Pruning, moment: Moment, page: Collection[Past]) -> None:
        self._store, self._pruning = store, pruning
        self._latest = moment.now - pruning.older_than
        self._kept: dict[str, bool] = {}
        self._first_kept: dict[str, str | None] = {}
        self._retries = store.retries([past.id for past in page])

    def keeps(self, past: Past) -> bool:
        """Whether it stays: by itself, or because a run that stays is a retry of it."""
        # Each is a retry of the one before it; there may be thousands.
        waiting = [] if past.id in self._kept else [past]
        while waiting:
            one = waiting[-1]
            kept = not self._may_go(one)
            for run_id in [] if kept else self._retries.get(one.id, ()):
                if run_id not in self._kept and (retry := self._look_up(run_id)) is not None:
                    waiting.append(retry)
                    break
                kept = kept or self._kept[run_id]
            if waiting[-1] is one:
                self._kept[one.id] = kept
                waiting.pop()
        return self._kept[past.id]

    def _look_up(self, run_id: str) -> Past | None:
        """A retry that does not stand before its run on the page, with its own retries; None if it is gone."""
        stored = self._store.run(run_id)
        if stored is None:
            self._kept[run_id] = False
            return None
        run = stored.run
        self._retries.update(self._store.retries([run_id]))
        return Past(run.id, run.flow, run.state, run.finished_at)

    def _may_go(self, past: Past) -> bool:
        pruning = self._pruning
        if past.state not in pruning.states or past.finished_at is None or past.finished_at > self._latest:
            return False
        return pruning.keep_last == 0 or past.id < (self._last_kept(past.flow) or "")

    def _last_kept(self, flow: str) -> str | None:
        if flow not in self._first_kept:
            self._first_kept[flow] = self._store.nth_ended(flow, self._pruning.states, self._pruning.keep_last)
        return self._first_kept[flow]
