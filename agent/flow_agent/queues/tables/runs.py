"""Runs in the database, and the requirement sets they point to."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flow_agent.labels import matches
from flow_agent.model import AgentInfo, Run, State
from flow_agent.queues.rules import Stored
from flow_agent.queues.tables.rows import changing_columns, label_text, new_columns, packed, stored_run
from flow_agent.queues.tables.statements import Statements

_AFTER_ALL = "{"
"""Greater than every id."""


@dataclass(frozen=True, slots=True)
class RequirementSet:
    """What some runs ask for; ``flow`` is theirs if it has a limit of its own, else empty."""

    id: int
    labels: frozenset[str]
    launcher: str | None
    flow: str


class Runs(Statements):
    """The part of a store that keeps runs."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        super().forget()
        self._sets: list[RequirementSet] = []
        self._set_ids: dict[tuple[str, str, str], int] = {}
        self._limited: frozenset[str] | None = None
        self._served: dict[str, tuple[object, int, list[int]]] = {}

    # Requirement sets

    def _set_id(self, run: Run) -> int:
        if self._limited is None:
            self._limited = frozenset(row["name"] for row in self._rows("limits") if row["kind"] == "flow")
        flow = run.flow if run.flow in self._limited else ""
        return self._set_of(label_text(run.labels), run.launcher or "", flow)

    def _set_of(self, labels: str, launcher: str, flow: str) -> int:
        wanted = (labels, launcher, flow)
        found = self._set_ids.get(wanted)
        if found is None:
            found = self._one("set_id", labels=labels, launcher=launcher, flow=flow)
            found = found or self._add_set(labels, launcher, flow)
            self._set_ids[wanted] = found
        return found

    def _add_set(self, labels: str, launcher: str, flow: str) -> int:
        number: int = self._one("add_set", labels=labels, launcher=launcher, flow=flow)
        return number

    def known_sets(self) -> list[RequirementSet]:
        """All requirement sets; only those that are new are read."""
        for row in self._rows("sets_after", after=self._last_set()):
            labels = frozenset(json.loads(row["labels"]))
            self._sets.append(RequirementSet(row["id"], labels, row["launcher"] or None, row["flow"]))
        return self._sets

    def _last_set(self) -> int:
        return self._sets[-1].id if self._sets else 0

    def served_sets(self, agent: AgentInfo) -> list[int]:
        """The ids of the requirement sets that ``agent`` may take; only those that are new are looked at."""
        self.known_sets()
        return self._served_of_known(agent)

    def _served_of_known(self, agent: AgentInfo) -> list[int]:
        sets = self._sets
        able = (agent.labels, frozenset(agent.launchers), agent.only_labelled)
        known, looked_at, served = self._served.get(agent.id, (None, 0, []))
        if known != able:
            looked_at, served = 0, []
        served += [each.id for each in sets[looked_at:] if matches(each.labels, each.launcher, agent)]
        self._served[agent.id] = (able, len(sets), served)
        return served

    # Runs

    def run(self, run_id: str) -> Stored | None:
        row = self._row("run", id=run_id)
        return stored_run(row) if row else None

    def by_key(self, flow: str, key: str) -> Stored | None:
        row = self._row("run_by_key", flow=flow, key=key)
        return stored_run(row) if row else None

    def ids_beginning(self, prefix: str, limit: int) -> list[str]:
        return [row["id"] for row in self._rows("ids_beginning", prefix=prefix, limit=limit)]

    def runs(self, states: Collection[State], flow: str | None, limit: int, before: str | None) -> list[Run]:
        page: dict[str, Any] = {"limit": max(0, limit), "before": _AFTER_ALL if before is None else before}
        of_flow, named = ("_of_flow", {"flow": flow}) if flow is not None else ("", {})
        chosen = set(states)
        if not chosen or chosen == set(State):
            return self._found(f"runs{of_flow}", **page, **named)
        # What has not ended comes first: what ends in between is found then as what it has become.
        some = {"flow": flow, "states": packed(sorted(str(state) for state in chosen))}
        found: dict[str, Run] = {}
        if any(not state.terminal for state in chosen):
            found |= {run.id: run for run in self._found("runs_live", **page, **some)}
        if State.SUCCEEDED in chosen:
            found |= {run.id: run for run in self._found(f"runs_succeeded{of_flow}", **page, **named)}
        if not chosen.isdisjoint({State.FAILED, State.CANCELLED}):
            found |= {run.id: run for run in self._found("runs_unsuccessful", **page, **some)}
        return [found[run_id] for run_id in sorted(found, reverse=True)][: page["limit"]]

    def _found(self, name: str, **parameters: Any) -> list[Run]:
        return [stored_run(row).run for row in self._rows(name, **parameters)]

    def add_run(self, stored: Stored) -> None:
        self._run("add_run", **self._columns(stored))

    def _columns(self, stored: Stored) -> dict[str, Any]:
        """All columns of a run that is new."""
        run = stored.run
        return {"requirement_set": self._set_id(run), **new_columns(run), **changing_columns(stored)}

    def save(self, stored: Stored) -> None:
        self._run("save_run", **changing_columns(stored))
