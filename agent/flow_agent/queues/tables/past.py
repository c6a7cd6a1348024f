"""What has ended, in the database, and its end."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

from collections.abc import Collection

from flow_agent.model import Registration, State
from flow_agent.queues.pruning import AFTER_ALL, Past
from flow_agent.queues.tables.flows import parsed
from flow_agent.queues.tables.rows import packed
from flow_agent.queues.tables.statements import Statements


class History(Statements):
    """The part of a store that removes what is not needed any more."""

    def hold_versions(self) -> None:
        """Where nobody else writes meanwhile, nobody counts them."""

    def hold_flows(self) -> None:
        """Where nobody else writes meanwhile, nobody removes anything."""

    def hold_slots(self) -> None:
        """Nor counts anything."""

    def past(self, flow: str | None, before: str | None, limit: int) -> list[Past]:
        page = {"before": before or AFTER_ALL, "limit": limit}
        rows = self._rows("past", **page) if flow is None else self._rows("past_of_flow", flow=flow, **page)
        return [Past(row["id"], row["flow"], State(row["state"]), row["finished_at"]) for row in rows]

    def retries(self, run_ids: Collection[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for row in self._rows("retries", ids=_ids(run_ids)):
            found.setdefault(row["retry_of"], []).append(row["id"])
        return found

    def nth_ended(self, flow: str, states: Collection[State], n: int) -> str | None:
        chosen = packed(sorted(str(state) for state in states))
        found: str | None = self._one("nth_ended", flow=flow, states=chosen, before=n - 1)
        return found

    def count_logs(self, run_ids: Collection[str]) -> int:
        return int(self._one("count_logs", ids=_ids(run_ids)))

    def remove_logs(self, run_ids: Collection[str], limit: int) -> int:
        return self._count("remove_logs", ids=_ids(run_ids), limit=limit)

    def remove_runs(self, run_ids: Collection[str]) -> None:
        ids = _ids(run_ids)
        for name in ("remove_claims", "remove_attempts", "remove_runs"):
            self._run(name, ids=ids)

    def superseded(self) -> list[Registration]:
        return [parsed(row["registration"]) for row in self._rows("superseded")]

    def last_added(self) -> str:
        return self._one("last_added") or ""

    def remove_registrations(self, named: Collection[tuple[str, int]], since: str) -> int:
        # A bound that the planner sees, so that it knows how few runs are above it.
        after = self._one("serial_of", id=since) or 0
        flows, versions = [flow for flow, _ in named], [version for _, version in named]
        return self._count("remove_registrations", flows=packed(flows), versions=packed(versions), since=after)


def _ids(run_ids: Collection[str]) -> str:
    return packed(list(run_ids))
