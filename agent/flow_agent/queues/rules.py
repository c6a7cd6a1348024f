"""How a run goes from state to state: pure functions over what a queue stores, the same for every queue."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from flow_agent.errors import ClaimLost
from flow_agent.model import (
    LOSSES_ALLOWED,
    AgentInfo,
    Claim,
    Outcome,
    Reason,
    Registration,
    Run,
    State,
)
from flow_agent.ports import Leases

T = TypeVar("T")

RELEASED = "released"
"""How a claim ended that was given back; one that was finished has ``fingerprint`` of its outcome."""
REPLACED = "replaced: "
"""How the detail of a run begins that was cancelled for a newer one; it stays until the run has ended, and then too."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One reading of a clock, since a verb sees one time, and how long claims hold from there."""

    now: float
    monotonic: float
    boot: str
    leases: Leases

    def lease(self, state: State) -> float:
        """Seconds for which a claim on a run in that state holds."""
        return self.leases.running if state is State.RUNNING else self.leases.claimed


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A run with what only the queue knows of it.

    ``asked`` is the launcher that the run asks for (None: any). ``lease_until`` (monotonic seconds of
    ``lease_boot``) is None while nobody holds the run. ``agent_id`` and ``incarnation`` name its holder.
    """

    run: Run
    asked: str | None = None
    scope: str = ""
    agent_id: str = ""
    incarnation: str = ""
    lease_until: float | None = None
    lease_boot: str = ""

    def held_under(self, number: int) -> bool:
        """Whether claim ``number`` is the current one."""
        return self.lease_until is not None and self.run.claim == number


def changed(value: T, /, **changes: Any) -> T:
    """``dataclasses.replace`` for what has neither slots nor ``__post_init__``: 1 us instead of 8, ten times a run."""
    new = object.__new__(type(value))
    new.__dict__.update(value.__dict__, **changes)
    if len(new.__dict__) != len(value.__dict__):
        raise TypeError(f"{type(value).__name__} has no {min(changes.keys() - value.__dict__.keys())}")
    return new


def fingerprint(outcome: Outcome) -> str:
    """What tells a repeated ``finish`` from another one."""
    told = {name: value for name, value in vars(outcome).items() if name != "ago"}  # it is longer ago each time
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), default=dict)
    return "finished " + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_current(stored: Stored, claim: Claim) -> None:
    """Raises ClaimLost: ``claim`` is not the current one of its run."""
    if not stored.held_under(claim.number):
        run = stored.run
        holder = "held by nobody"
        if stored.lease_until is not None:
            holder = f"held by {run.agent!r} under claim {run.claim}"
        now = run.state if run.state.terminal else f"{run.state}, {holder}"
        raise ClaimLost(
            f"claim {claim.number} of run {run.id} is not the current one: the run is {now}",
            hint="end what was started under this claim, and write nothing more for it",
        )


def held(stored: Stored, agent: AgentInfo, moment: Moment) -> Stored:
    """Held by ``agent`` under a new claim number."""
    run = stored.run
    return changed(
        extended(stored, moment),
        run=changed(run, claim=run.claim + 1, agent=agent.name),
        agent_id=agent.id,
        incarnation=agent.incarnation,
    )


def claimed(stored: Stored, agent: AgentInfo, moment: Moment) -> Stored:
    """Won by ``agent``; user code has not started."""
    launcher = stored.asked or agent.default_launcher
    run = changed(stored.run, state=State.CLAIMED, claimed_at=moment.now, launcher=launcher)
    return held(changed(stored, run=run), agent, moment)


def extended(stored: Stored, moment: Moment) -> Stored:
    """Held from now on for as long as a run in its state is."""
    return changed(stored, lease_until=moment.monotonic + moment.lease(stored.run.state), lease_boot=moment.boot)


def started(stored: Stored, claim: Claim, moment: Moment, *, ref: str, revision: str | None, scope: str) -> Stored:
    """Running. What the last attempt left as reason and detail is its own affair now."""
    run = changed(
        stored.run,
        state=State.RUNNING,
        attempt=claim.attempt,
        losses=0,
        ref=ref,
        revision=revision,
        started_at=moment.now,
        reason=None,
        detail=_replaced(stored.run),
        exit_code=None,
        released_since=None,
    )
    return extended(changed(stored, run=run, scope=scope), moment)


def let_go(stored: Stored, **changes: Any) -> Stored:
    """Held by nobody, and its run changed by ``changes``."""
    return changed(
        stored,
        run=changed(stored.run, **changes),
        agent_id="",
        incarnation="",
        lease_until=None,
        lease_boot="",
    )


def waiting(stored: Stored, moment: Moment, delay: float, **changes: Any) -> Stored:
    """Waiting again, for ``delay`` seconds at least; only its history tells of the last claim."""
    when: dict[str, Any] = {"state": State.QUEUED}
    if delay > 0:
        when = {"state": State.SCHEDULED, "due_at": moment.now + delay}
    cleared = dict.fromkeys(("claimed_at", "started_at", "agent", "ref", "revision"))
    again = let_go(stored, **cleared, **when, launcher=stored.asked, **changes)
    return changed(again, scope="")


def ended(stored: Stored, moment: Moment, outcome: Outcome) -> Stored:
    """In the outcome's terminal state."""
    return let_go(
        stored,
        state=outcome.state,
        reason=outcome.reason,
        detail=_detail(stored.run, outcome),
        exit_code=outcome.exit_code,
        result=outcome.result,
        revision=outcome.revision or stored.run.revision,
        finished_at=end_of(stored, moment, outcome),
    )


def _detail(run: Run, outcome: Outcome) -> str:
    """Its agent knows only that it was to end the run, not for what."""
    if outcome.state is not State.CANCELLED:
        return outcome.detail
    return "; ".join(filter(None, (_replaced(run), outcome.detail)))


def _replaced(run: Run) -> str:
    return run.detail if run.detail.startswith(REPLACED) else ""


def end_of(stored: Stored, moment: Moment, outcome: Outcome) -> float:
    """When an attempt that is reported now has ended: not before it began, whatever the clocks say."""
    return max(moment.now - outcome.ago, min(stored.run.started_at or moment.now, moment.now))


def cancelled(stored: Stored, moment: Moment, detail: str = "") -> Stored:
    """Ended because somebody asked for it."""
    return ended(stored, moment, Outcome(state=State.CANCELLED, reason=Reason.CANCELLED, detail=detail))


def finished(stored: Stored, moment: Moment, outcome: Outcome, retry_in: float | None) -> Stored:
    """What ``Queue.finish`` makes of a run."""
    if retry_in is None:
        return ended(stored, moment, outcome)
    if stored.run.cancel_requested:
        return cancelled(stored, moment, outcome.detail)
    return waiting(stored, moment, retry_in, reason=outcome.reason, detail=outcome.detail, exit_code=outcome.exit_code)


def released(stored: Stored, claim: Claim, moment: Moment, delay: float, detail: str) -> Stored:
    """What ``Queue.release`` makes of a run."""
    if stored.run.state is State.CLAIMED:
        if stored.run.cancel_requested:
            return cancelled(stored, moment, detail)
        since = stored.run.released_since
        if delay > 0 and since is None:
            since = moment.now
        return waiting(stored, moment, delay, detail=detail, released_since=since)
    if not stored.scope:
        raise ClaimLost(
            f"run {stored.run.id} has started under claim {claim.number} and ends with its agent:"
            " it cannot be given back, only finished"
        )
    return let_go(stored, agent=None)


def lost_before_start(stored: Stored, moment: Moment) -> Stored:
    """What becomes of a run whose agent is gone and whose user code has not started: one more of ``losses``."""
    losses, agent = stored.run.losses + 1, stored.run.agent
    detail = f"agent {agent!r} was lost before the flow started"
    if stored.run.cancel_requested:
        return cancelled(stored, moment, detail)
    if losses < LOSSES_ALLOWED:
        return waiting(stored, moment, 0, losses=losses, detail=detail)
    detail = f"its agent was lost {losses} times in a row before the flow started, {agent!r} the last time"
    outcome = Outcome(state=State.FAILED, reason=Reason.AGENT_ERROR, detail=detail)
    return ended(changed(stored, run=changed(stored.run, losses=losses)), moment, outcome)


def lost(stored: Stored, registration: Registration, moment: Moment) -> tuple[Stored, Outcome | None]:
    """What becomes of a run whose lease has ended, and how its attempt ended, if it did."""
    run, agent = stored.run, stored.run.agent
    if run.state is State.CLAIMED:
        return lost_before_start(stored, moment), None
    if stored.scope:
        return let_go(stored, agent=None), None
    outcome = Outcome(
        state=State.FAILED, reason=Reason.AGENT_LOST, detail=f"agent {agent!r} was lost while the flow ran"
    )
    if run.cancel_requested:
        return cancelled(stored, moment, outcome.detail), outcome
    retry_in = registration.retry_delay if run.attempt <= registration.retries else None
    return finished(stored, moment, outcome, retry_in), outcome
