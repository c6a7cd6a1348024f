"""Concurrency limits: who gets a slot, and what becomes of a run that is submitted when there is none.

A slot is a run that is claimed or running: it is counted, never given or taken back, so that none can leak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flow_agent.errors import InvalidInput, NotFound
from flow_agent.labels import checked
from flow_agent.model import Full, Limit, State
from flow_agent.queues import rules
from flow_agent.queues.rules import Moment, Stored
from flow_agent.queues.store import Store

MOST_SLOTS = 1_000_000


def limits(store: Store) -> list[Limit]:
    """See ``Queue.limits``."""
    found = store.limits()
    return [replace(limit, taken=taken) for limit, taken in zip(found, store.taken(found), strict=True)]


def set_limit(store: Store, limit: Limit) -> None:
    """See ``Queue.set_limit``."""
    if limit.kind not in ("flow", "label") or not 0 <= limit.slots <= MOST_SLOTS:
        raise ValueError(f"a limit of {limit.slots} slots for {limit.kind} cannot be: expected 0 to {MOST_SLOTS}")
    if limit.kind == "label":
        checked([limit.name])
    elif store.newest(limit.name) is None:  # a misspelt one would limit nothing
        raise InvalidInput(f"flow {limit.name!r} is not registered, and cannot have a limit")
    store.save_limit(replace(limit, taken=0))


def remove_limit(store: Store, kind: str, name: str) -> None:
    """See ``Queue.remove_limit``."""
    if not store.remove_limit(kind, name):
        raise NotFound(f"{kind} {name!r} has no limit", hint="`flow-agent limits list` shows them")


def held(store: Store) -> list[Limit]:
    """The limits, whose slots nobody else counts until the transaction ends; to be asked before a run is locked."""
    if not store.limits():
        return []
    store.hold_slots()
    return store.limits()


class Slots:
    """The free slots during one claim; ``limits`` are held."""

    def __init__(self, store: Store, limits: list[Limit]) -> None:
        self._limits = limits
        self._free = [limit.slots - taken for limit, taken in zip(limits, store.taken(limits), strict=True)]

    def admits(self, stored: Stored) -> bool:
        """Take a slot of each limit that covers the run, if each has one; whether it had."""
        run = stored.run
        covering = [n for n, limit in enumerate(self._limits) if limit.covers(run.flow, run.labels)]
        if any(self._free[n] <= 0 for n in covering):
            return False
        for n in covering:
            self._free[n] -= 1
        return True


class Arrivals:
    """What full limits do with the runs that one call submits; ``cancel`` cancels a run that waits or runs,
    and says why."""

    def __init__(self, store: Store, moment: Moment, cancel: Callable[[str, str], object]) -> None:
        self._store, self._moment, self._cancel = store, moment, cancel
        # They stay as they are, since the flows are held; where runs only queue, nothing is counted.
        self._limits = [limit for limit in store.limits() if limit.when_full is not Full.QUEUE]
        if self._limits:
            store.hold_slots()

    def arrive(self, stored: Stored) -> Stored:
        """The new run as it is to be stored."""
        run = stored.run
        if run.state is not State.QUEUED:
            return stored
        covering = [(limit, self._in_the_way(limit)) for limit in self._limits if limit.covers(run.flow, run.labels)]
        for limit, others in covering:
            if limit.when_full is Full.SKIP and len(others) >= limit.slots:
                detail = f"skipped: the limit of {limit.kind} {limit.name!r}, {limit.slots}, was full"
                return rules.cancelled(stored, self._moment, detail)
        for limit, others in covering:
            if limit.when_full is Full.REPLACE:
                full = f"the limit of {limit.kind} {limit.name!r}, {limit.slots}, was full"
                for other in others[: max(0, len(others) + 1 - max(1, limit.slots))]:
                    self._cancel(other.run.id, f"{rules.REPLACED}{full}, and run {run.id} came")
        return stored

    def _in_the_way(self, limit: Limit) -> list[Stored]:
        return [other for other in self._store.occupying(limit) if not other.run.cancel_requested]
