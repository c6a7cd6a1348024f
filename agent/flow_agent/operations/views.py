"""What ``--json`` shows: its keys are a promise."""

from __future__ import annotations

from flow_agent.model import AgentInfo, Attempt, Json, Registration, Run
from flow_agent.why import calendar


def iso(when: float | None) -> str | None:
    """ISO 8601 with microseconds, UTC; what lies beyond the calendar becomes its first or last moment."""
    return None if when is None else calendar(when).isoformat(timespec="microseconds")


def run_json(run: Run) -> dict[str, Json]:
    """The run with the keys that ``--json`` promises."""
    return {
        "id": run.id,
        "flow": run.flow,
        "version": run.version,
        "state": run.state.value,
        "reason": run.reason.value if run.reason else None,
        "detail": run.detail,
        "attempt": run.attempt,
        "labels": sorted(run.labels),
        "parameters": dict(run.parameters),
        "priority": run.priority,
        "due_at": iso(run.due_at),
        "created_at": iso(run.created_at),
        "claimed_at": iso(run.claimed_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "agent": run.agent,
        "launcher": run.launcher,
        "ref": run.ref,
        "revision": run.revision,
        "exit_code": run.exit_code,
        "result": dict(run.result) if run.result is not None else None,
        "retry_of": run.retry_of,
    }


def attempt_json(attempt: Attempt) -> dict[str, Json]:
    """One attempt of a run, for ``show --json``."""
    return {
        "number": attempt.number,
        "agent": attempt.agent,
        "started_at": iso(attempt.started_at),
        "finished_at": iso(attempt.finished_at),
        "reason": attempt.reason.value if attempt.reason else None,
        "detail": attempt.detail,
        "exit_code": attempt.exit_code,
    }


def registration_json(registration: Registration) -> dict[str, Json]:
    """The registration, its time as ISO 8601."""
    return {**registration.to_json(), "created_at": iso(registration.created_at)}


def agent_json(agent: AgentInfo, *, alive_within: float) -> dict[str, Json]:
    """The agent, with ``alive`` as far as its last sign of life tells."""
    return {
        "id": agent.id,
        "name": agent.name,
        "alive": agent.silent <= alive_within,
        "labels": sorted(agent.labels),
        "launchers": sorted(agent.launchers),
        "default_launcher": agent.default_launcher,
        "only_labelled": agent.only_labelled,
        "limit": agent.limit,
        "running": agent.running,
        "draining": agent.draining,
        "host": agent.host,
        "pid": agent.pid,
        "version": agent.version,
        "started_at": iso(agent.started_at),
        "seen_at": iso(agent.seen_at),
        "silent": round(agent.silent, 3),
    }
