"""Between rows of the database and the values of the model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from typing import Any

from flow_agent.model import AgentInfo, Attempt, Json, Reason, Run, State
from flow_agent.queues.rules import Stored
from flow_agent.queues.tables.statements import Row

_AGENT_FIELDS = frozenset(field.name for field in fields(AgentInfo))


def packed(value: Json) -> str:
    """``value`` as compact JSON."""
    return json.dumps(value, separators=(",", ":"))


def label_text(labels: Iterable[str]) -> str:
    """One text for each set of labels."""
    return packed(sorted(labels))


def stored_run(row: Row) -> Stored:
    """The run of a row of ``runs`` with ``labels`` and ``asked`` joined to it."""
    asked = row["asked"] or None
    run = Run(
        id=row["id"],
        flow=row["flow"],
        version=row["version"],
        state=State(row["state"]),
        labels=frozenset(json.loads(row["labels"])),
        launcher=row["launcher"] or asked,
        parameters=json.loads(row["parameters"]),
        priority=row["priority"],
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=row["detail"],
        attempt=row["attempt"],
        claim=row["claim"],
        losses=row["losses"],
        due_at=row["due_at"],
        created_at=row["created_at"],
        claimed_at=row["claimed_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        agent=row["agent"],
        ref=row["ref"],
        revision=row["revision"],
        exit_code=row["exit_code"],
        result=json.loads(row["result"]) if row["result"] else None,
        retry_of=row["retry_of"],
        key=row["key"],
        cancel_requested=bool(row["cancel_requested"]),
        released_since=row["released_since"],
    )
    return Stored(
        run=run,
        asked=asked,
        scope=row["scope"],
        agent_id=row["agent_id"],
        incarnation=row["incarnation"],
        lease_until=row["lease_until"],
        lease_boot=row["lease_boot"],
    )


def changing_columns(stored: Stored) -> dict[str, Any]:
    """The columns of ``runs`` that change in its life, and ``id``."""
    run = stored.run
    return {
        "id": run.id,
        "state": str(run.state),
        "reason": str(run.reason) if run.reason else None,
        "detail": run.detail,
        "attempt": run.attempt,
        "claim": run.claim,
        "losses": run.losses,
        "due_at": run.due_at,
        "claimed_at": run.claimed_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "agent": run.agent,
        "agent_id": stored.agent_id,
        "incarnation": stored.incarnation,
        "launcher": run.launcher,
        "ref": run.ref,
        "scope": stored.scope,
        "revision": run.revision,
        "exit_code": run.exit_code,
        "result": packed(run.result) if run.result is not None else None,
        "cancel_requested": int(run.cancel_requested),
        "released_since": run.released_since,
        "lease_until": stored.lease_until,
        "lease_boot": stored.lease_boot,
    }


def new_columns(run: Run) -> dict[str, Any]:
    """The columns of ``runs`` that never change."""
    return {
        "flow": run.flow,
        "version": run.version,
        "priority": run.priority,
        "parameters": packed(run.parameters),
        "created_at": run.created_at,
        "retry_of": run.retry_of,
        "key": run.key,
    }


def attempt_of(row: Row) -> Attempt:
    """The attempt of a row of ``attempts``."""
    return Attempt(
        number=row["number"],
        claim=row["claim"],
        agent=row["agent"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=row["detail"],
        exit_code=row["exit_code"],
    )


def agent_text(agent: AgentInfo) -> str:
    """``agent`` as JSON."""
    plain = replace(agent, labels=frozenset(), launchers={})
    return packed({**asdict(plain), "labels": sorted(agent.labels), "launchers": dict(agent.launchers)})


def agent_of(text: str) -> AgentInfo:
    """The agent that ``agent_text`` wrote; fields of a newer program are left out."""
    data = json.loads(text)
    values = {key: value for key, value in data.items() if key in _AGENT_FIELDS}
    values["labels"] = frozenset(values.get("labels", ()))
    return AgentInfo(**values)
