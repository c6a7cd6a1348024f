"""Why a run is where it is: one sentence, and the way out."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flow_agent.labels import matches
from flow_agent.model import AgentInfo, Limit, Reason, Registration, Run, State
from flow_agent.ports import Leases

ALIVE_WITHIN = 30.0
"""Seconds since its last sign of life within which an agent counts as alive: three heartbeats of the default."""


_LONGEST = 1e12
"""Seconds of the longest duration that is shown as it is."""


@dataclass(frozen=True)
class Explanation:
    """``sentence`` says why; ``hint`` is the way out, empty where there is nothing to do."""

    sentence: str
    hint: str = ""


def explain(
    run: Run,
    registration: Registration,
    agents: Iterable[AgentInfo],
    *,
    now: float,
    waiting_ahead: int | None = None,
    alive_within: float = ALIVE_WITHIN,
    here: str = "",
    leases: Leases | None = None,
    limits: Sequence[Limit] = (),
) -> Explanation:
    """Why ``run`` is in its state at ``now`` (seconds since the epoch).

    ``waiting_ahead`` is the number of queued runs that come first, where known; ``here`` the name of this
    machine, which every agent on it has as a label anyway; ``leases`` is how long claims hold, where known;
    ``limits`` are those of the queue.
    """
    known = list(agents)
    if run.state.terminal:
        return _ended(run)
    if run.state in {State.CLAIMED, State.RUNNING}:
        start = start_command(run, here)
        return _held(run, known, now=now, alive_within=alive_within, start=start, leases=leases)
    alive = [agent for agent in known if agent.silent <= alive_within]
    if run.state is State.SCHEDULED and run.due_at is not None and run.due_at > now:
        return Explanation(_due_later(run, now))
    if full := next((each for each in limits if each.covers(run.flow, run.labels) and each.taken >= each.slots), None):
        return _held_back(run, full)
    return _waits(run, registration, alive, known, ahead=waiting_ahead, here=here)


def _ended(run: Run) -> Explanation:
    where = f" on agent {run.agent!r}" if run.agent else ""
    began = run.started_at if run.started_at is not None else run.created_at
    took = f" after {span(run.finished_at - began)}" if run.finished_at is not None else ""
    attempts = f" in attempt {run.attempt}" if run.attempt > 1 else ""
    reason = f", {run.reason}" if run.reason not in {None, Reason.COMPLETED, Reason.CANCELLED} else ""
    detail = f": {run.detail}" if run.detail else ""
    sentence = f"run {run.id} {_past(run.state)}{where}{took}{attempts}{reason}{detail}"
    match run.state:
        case State.SUCCEEDED:
            return Explanation(sentence, f"`flow-agent result {run.id}` gives what it returned")
        case State.FAILED:
            logs = f"`flow-agent logs {run.id}` shows what it wrote, " if run.attempt else ""
            return Explanation(sentence, f"{logs}`flow-agent retry {run.id}` runs it again")
        case _:
            return Explanation(sentence, f"`flow-agent retry {run.id}` runs it again")


def _past(state: State) -> str:
    return "was cancelled" if state is State.CANCELLED else state.value


def _held(
    run: Run,
    agents: Sequence[AgentInfo],
    *,
    now: float,
    alive_within: float,
    start: str,
    leases: Leases | None,
) -> Explanation:
    if run.agent is None:
        return Explanation(
            f"run {run.id} runs, and no agent watches it at the moment",
            f"start an agent with launcher {run.launcher!r}, it goes on watching the run",
        )
    began = run.claimed_at if run.state is State.CLAIMED or run.started_at is None else run.started_at
    doing = "has been preparing it (fetching, verifying)" if run.state is State.CLAIMED else "has run it"
    since = f" for {span(now - began)}" if began is not None else ""
    asked = ", and was asked to cancel it" if run.cancel_requested else ""
    sentence = f"agent {run.agent!r} {doing}{since}{asked}"
    named = [agent for agent in agents if agent.name == run.agent]
    if not named:
        return Explanation(f"{sentence}; that agent is not listed any more", _another_agent(run, start))
    seen = min(agent.silent for agent in named)
    if seen > alive_within:
        silent = f"{sentence}; its last sign of life was {span(seen)} ago{_lease_end(run, seen, now, leases)}"
        return Explanation(silent, _another_agent(run, start))
    follows = run.state is State.RUNNING
    hint = (
        f"`flow-agent logs{' -f' if follows else ''} {run.id}` {'follows it' if follows else 'says what it waits for'}"
    )
    return Explanation(f"{sentence}; its last sign of life was {span(seen)} ago", hint)


def _lease_end(run: Run, silent: float, now: float, leases: Leases | None) -> str:
    """An agent extends its leases with each sign of life."""
    if leases is None:
        return ""
    left = (leases.running if run.state is State.RUNNING else leases.claimed) - silent
    return f", and its lease ends at about {stamp(now + left)}" if left > 0 else ", and its lease has ended"


def _another_agent(run: Run, start: str) -> str:
    if run.state is State.CLAIMED:
        return f"start an agent: {start}; it can claim the run when that lease has ended"
    return (
        f"start an agent: {start}; one of the same name and home goes on with the run, any other one finds the attempt"
        " lost when that lease has ended"
    )


def _due_later(run: Run, now: float) -> str:
    assert run.due_at is not None
    when = f"{stamp(run.due_at)}, in {span(run.due_at - now)}"
    if run.attempt and run.reason is not None:
        detail = f": {run.detail}" if run.detail else ""
        return f"attempt {run.attempt} of run {run.id} ended ({run.reason}{detail}); the next one is due at {when}"
    detail = f" ({run.detail})" if run.detail else ""
    return f"run {run.id} is due at {when}{detail}"


def _held_back(run: Run, limit: Limit) -> Explanation:
    option = " --flow" if limit.kind == "flow" else ""
    command = shlex.join(["flow-agent", "limits", "set", limit.name])
    return Explanation(
        f"run {run.id} waits for a slot: {limit.kind} {limit.name!r} is limited to {limit.slots} at a time,"
        f" and {limit.taken} are taken",
        f"wait, or change the limit: `{command} N{option}`; `flow-agent runs --state running` lists who has a slot",
    )


def _waits(
    run: Run,
    registration: Registration,
    alive: Sequence[AgentInfo],
    known: Sequence[AgentInfo],
    *,
    ahead: int | None,
    here: str,
) -> Explanation:
    start = start_command(run, here)
    if not alive:
        last = min(known, key=lambda agent: agent.silent, default=None)
        seen = f"; the last one, {last.name!r}, gave a sign of life {span(last.silent)} ago" if last else ""
        return Explanation(f"run {run.id} waits, and no agent is alive{seen}", f"start one: {start}")
    fitting = [agent for agent in alive if matches(run.labels, run.launcher, agent)]
    if not fitting:
        return _nobody_may(run, registration, alive, start)
    taking = [agent for agent in fitting if not agent.draining]
    if not taking:
        return Explanation(
            f"run {run.id} waits: {_named(fitting)} could take it, but only ends what it runs (draining)"
            if len(fitting) == 1
            else f"run {run.id} waits: {_named(fitting)} could take it, but only end what they run (draining)",
            f"start another: {start}",
        )
    free = [agent for agent in taking if agent.running < agent.limit]
    queue = f", and {ahead} come before it" if ahead else ""
    if not free:
        slots = ", ".join(f"{agent.name!r} runs {agent.running} of {agent.limit}" for agent in taking)
        return Explanation(
            f"run {run.id} waits for a free slot ({slots}){queue}",
            f"wait, raise --limit of an agent, or start another: {start}",
        )
    return Explanation(
        f"run {run.id} waits, and {_named(free)} can take it now{queue}",
        "if that does not change within seconds, the log of that agent says why",
    )


def _nobody_may(run: Run, registration: Registration, alive: Sequence[AgentInfo], start: str) -> Explanation:
    """No live agent matches: say what is missing at the one that comes nearest."""
    if run.launcher is not None and not any(run.launcher in agent.launchers for agent in alive):
        return Explanation(
            f"run {run.id} waits for launcher {run.launcher!r}, which no live agent offers", f"start one: {start}"
        )
    if not run.labels:
        return Explanation(
            f"run {run.id} has no labels, and runs with labels are all that is taken by {_named(alive)}",
            f"start an agent without --only-labelled: {start}",
        )
    offering = [agent for agent in alive if run.launcher is None or run.launcher in agent.launchers]
    nearest = min(offering, key=lambda agent: (len(run.labels - agent.labels), agent.name))
    missing = sorted(run.labels - nearest.labels)
    nowhere = [label for label in missing if not any(label in agent.labels for agent in alive)]
    if nowhere:
        have = f"label {nowhere[0]!r}" if len(nowhere) == 1 else f"labels {', '.join(map(repr, nowhere))}"
        sentence = f"run {run.id} waits for {have}, which no live agent has"
    else:
        have = ", ".join(map(repr, missing))
        sentence = f"run {run.id} waits for an agent that has all of its labels and its launcher at once"
    if nearest.labels:
        sentence += f"; the nearest, {nearest.name!r}, lacks {have.removeprefix('label ').removeprefix('labels ')}"
    return Explanation(
        sentence, _spelling(nowhere, alive) or _host_hint(nowhere, registration) or f"start one: {start}"
    )


def _spelling(missing: Sequence[str], alive: Sequence[AgentInfo]) -> str:
    offered = sorted({label for agent in alive for label in agent.labels})
    for label in missing:
        if near := difflib.get_close_matches(label, offered, n=1, cutoff=0.75):
            who = next(agent.name for agent in alive if near[0] in agent.labels)
            return f"agent {who!r} has label {near[0]!r}; is {label!r} a spelling mistake?"
        same = next((other for other in offered if other.casefold() == label.casefold()), None)
        if same:
            return f"an agent has label {same!r}; labels are compared exactly, capitals too"
    return ""


def _host_hint(missing: Sequence[str], registration: Registration) -> str:
    """A flow in Local storage lies on one machine, and an agent elsewhere with that label would not find it."""
    if registration.storage.get("type") == "Local" and len(missing) == 1 and missing[0] in registration.labels:
        return f"the flow lies in Local storage of machine {missing[0]!r}: start an agent there, or store it elsewhere"
    return ""


def start_command(run: Run, here: str = "") -> str:
    """The command that starts an agent which may take ``run``."""
    words = ["flow-agent", "start"]
    for label in sorted(run.labels - {here}):
        words += ["-l", label]
    if run.launcher is not None and run.launcher != "process":
        words += ["--launcher", run.launcher]
    return f"`{shlex.join(words)}`"


def _named(agents: Sequence[AgentInfo]) -> str:
    names = [repr(agent.name) for agent in agents]
    if len(names) == 1:
        return f"agent {names[0]}"
    return f"agents {', '.join(names[:-1])} and {names[-1]}"


def stamp(time: float) -> str:
    """A time for people, UTC, to the second."""
    return f"{calendar(time).isoformat(' ', 'seconds').partition('+')[0]} UTC"


def calendar(time: float) -> datetime:
    """The moment that is ``time`` seconds after the epoch, UTC; beyond the calendar, its first or last one."""
    try:
        return datetime.fromtimestamp(time, UTC)
    except (ValueError, OverflowError, OSError):
        return (datetime.min if time < 0 else datetime.max).replace(tzinfo=UTC)


def span(seconds: float) -> str:
    """A duration for people: two significant parts at most."""
    seconds = min(max(0.0, seconds), _LONGEST)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days"
