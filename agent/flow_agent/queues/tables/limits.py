"""Limits in the database, and the requirement sets that each covers."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

from collections.abc import Sequence

from flow_agent.model import Full, Limit
from flow_agent.queues.rules import Stored
from flow_agent.queues.tables.claims import Claims
from flow_agent.queues.tables.rows import packed, stored_run


class Limits(Claims):
    """The part of a store that keeps limits."""

    def limits(self) -> list[Limit]:
        return [
            Limit(kind=row["kind"], name=row["name"], slots=row["slots"], when_full=Full(row["when_full"]))
            for row in self._rows("limits")
        ]

    def save_limit(self, limit: Limit) -> None:
        self._run("save_limit", kind=limit.kind, named=limit.name, slots=limit.slots, when_full=str(limit.when_full))
        self.forget()
        if limit.kind == "flow":
            # What waits or runs already must be told apart from other flows by its set, too.
            for labels, launcher, number in [
                (row["labels"], row["launcher"], row["id"]) for row in self._rows("sets_of_flow", flow=limit.name)
            ]:
                own = self._set_of(labels, launcher, limit.name)
                self._run("move_runs", flow=limit.name, old=number, new=own)

    def remove_limit(self, kind: str, name: str) -> bool:
        self.forget()
        return self._one("remove_limit", kind=kind, named=name) is not None

    def taken(self, limits: Sequence[Limit]) -> list[int]:
        if not limits:
            return []
        counts = {row["requirement_set"]: row["taken"] for row in self._rows("count_taken")}
        # They are read after what points to them.
        used = [each for each in self.known_sets() if each.id in counts]
        return [sum(counts[each.id] for each in used if limit.covers(each.flow, each.labels)) for limit in limits]

    def occupying(self, limit: Limit) -> list[Stored]:
        sets = [each.id for each in self.known_sets() if limit.covers(each.flow, each.labels)]
        return [stored_run(row) for row in self._rows("occupying", sets=packed(list(sets)), limit=limit.slots + 1)]
