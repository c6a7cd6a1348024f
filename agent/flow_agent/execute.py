"""One attempt, from claim to report. The only place that may catch ``Exception``.

Nothing here is shielded against the end of the agent: whatever is cut off in the middle is found again, in the queue
and in the spool, by the next agent of this name, exactly as after a kill -9.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from flow_agent import events, workspace
from flow_agent.errors import ClaimLost, RunError, sentence
from flow_agent.hold import Hold, Phases, RunLog, answered, leased
from flow_agent.judge import judge, retry_delay
from flow_agent.model import Claim, Ending, LogLine, Outcome, Reason, State
from flow_agent.ports import Launcher, Leases, Queue, is_remote
from flow_agent.prepare import Means, fetch, remote_spec, spec
from flow_agent.redact import known
from flow_agent.result_store import with_result

PARKED = 3600.0
"""Seconds, beyond a claim's lease, for which a parked attempt waits for its agent, should that be gone for good."""

REPORTED_AT_ONCE = 1.0
"""Seconds after its end within which an attempt's report needs no word of when that was."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every attempt of an agent shares. ``release_for``: seconds for which a fetch that fails in a way that
    may pass is tried again through the queue; ``now`` is the wall clock; ``ended`` is
    told how an attempt ended and how long its phases took."""

    queue: Queue
    launchers: Mapping[str, Launcher]
    means: Means
    spool: Path
    leases: Leases
    release_for: float = 600.0
    now: Callable[[], float] = time.time
    ended: Callable[[Outcome, Mapping[str, float]], None] = lambda *_: None


class NotStarted(Exception):
    """The claim was ended before user code started."""


class HandedOver(Exception):
    """The attempt goes on, and another agent will watch it."""


async def execute(hold: Hold, tools: Tools) -> None:
    """Work on a claim until it is finished, released or lost. Raises nothing but cancellation."""
    claim = hold.claim
    launcher = tools.launchers[claim.run.launcher or "process"]
    log, phases = RunLog(claim, tools.queue), Phases(claim)
    try:
        ref = claim.ref or await _begin(hold, launcher, tools, log, phases)
        outcome = await _watch(hold, launcher, ref, tools, log)
        phases.ended("run")
        if claim.ref is not None and claim.run.started_at is not None:  # adopted: it ran before we watched it
            phases.seconds["run"] = tools.now() - claim.run.started_at
        await _report(hold, outcome, tools, phases)
    except ClaimLost as lost:
        events.claim_lost(claim, str(lost))
        if hold.started and is_remote(launcher):
            launcher.hand_over(_ref(hold))  # who has the run now goes on with this very attempt
        else:
            await _clear(hold, launcher)
    except NotStarted:
        await _clear(hold, launcher)
        await _give_back(hold, tools)
    except HandedOver:
        await _hand_over(hold, launcher, tools)
    except Exception as error:  # noqa: BLE001 - a fault in one attempt must not end the others
        if await _stop(launcher, _ref(hold)) or not (hold.started and is_remote(launcher)):
            await _fail(hold, error, tools, log, phases)
            await _remove(launcher, _ref(hold))
        else:  # it may go on where it is: nobody is told that it has ended, and whoever can looks at it
            events.internal_error(claim, error)
            await _hand_over(hold, launcher, tools, f"its agent cannot reach it ({known.text(str(error))})")
    else:
        await _remove(launcher, ref)


# Before user code


async def _begin(hold: Hold, launcher: Launcher, tools: Tools, log: RunLog, phases: Phases) -> str:
    """Prepare, create, write it down, go; the attempt's ref."""
    claim = hold.claim
    ref = revision = None
    with hold.preparing:

        async def on_wait(number: int, wait: float, error: BaseException) -> None:
            events.fetch_waits(claim, number, wait, error)
            await log.tell("WARNING", f"{error}; try {number + 1} in {wait:.1f} s")

        # As long as it is parked it runs no code of the user, and may wait for a queue that is away.
        parked = anyio.current_time() + tools.leases.claimed + PARKED
        if is_remote(launcher):
            launch, revision = await remote_spec(
                claim, deadline=parked, means=tools.means, tell=log.tell, secrets_too=launcher.takes_secrets
            )
        else:
            folder, fetched = await fetch(claim, tools.spool, tools.means, on_wait)
            phases.ended("fetch")
            launch = await spec(claim, folder, fetched, deadline=parked, means=tools.means, tell=log.tell)
            revision = fetched.revision
        ref = hold.ref = await launcher.create(launch)
        phases.ended("launch")
    if ref is None or hold.why is not None:
        raise NotStarted
    lease = tools.leases.running
    _, before = await leased(
        "started", lambda: tools.queue.started(claim, ref, revision=revision, scope=launcher.scope), lease
    )
    hold.started = True
    hold.deadline = before + lease
    await hold.launched(launcher, ref)  # before the next line: if we are held up after it, the keeper does not go on
    if anyio.current_time() < hold.deadline:
        await launcher.go(ref)
    return ref


async def _give_back(hold: Hold, tools: Tools) -> None:
    """End a claim under which nothing was started: cancelled, lost, or back to the queue."""
    claim = hold.claim
    if hold.why is Reason.CANCELLED:
        outcome = Outcome(state=State.CANCELLED, reason=Reason.CANCELLED, detail="cancelled before it started")
        await _finish(hold, outcome, tools, {})
    elif hold.why is Reason.AGENT_STOPPING:
        await _forgiving(claim, answered("release", lambda: tools.queue.release(claim, detail="its agent stopped")))
        events.run_released(claim, 0, "its agent stopped")
    else:
        events.claim_lost(claim, "its lease ended before it could be started")


async def _fail(hold: Hold, error: Exception, tools: Tools, log: RunLog, phases: Phases) -> None:
    """Report what went wrong before user code, or a fault of ours."""
    claim = hold.claim
    if isinstance(error, RunError):
        reason, detail = error.reason, known.text(sentence(error))
        now = tools.now()
        waited = now - (claim.run.released_since or now)
        # What was started cannot be given back as if it had not been.
        if error.transient and not hold.started and waited < tools.release_for:
            asked = getattr(error, "retry_after", None) or 0.0
            delay = max(min(60.0, max(2.0, waited)), min(asked, tools.release_for - waited))
            await _forgiving(claim, log.tell("WARNING", f"{detail}; back to the queue for {delay:.0f} s"))
            release = answered("release", lambda: tools.queue.release(claim, delay=delay, detail=detail))
            if await _forgiving(claim, release):
                hold.retry_in = delay
                events.run_released(claim, delay, detail)
            return
    else:
        reason, detail = Reason.AGENT_ERROR, f"a fault in the agent: {known.text(repr(error))}; its own log has more"
        events.internal_error(claim, error)
    await _forgiving(claim, log.tell("ERROR", detail))
    await _finish(hold, Outcome(state=State.FAILED, reason=reason, detail=detail), tools, phases.seconds)


# While it runs


async def _watch(hold: Hold, launcher: Launcher, ref: str, tools: Tools, log: RunLog) -> Outcome:
    """See the attempt to its end, whatever ends it."""
    claim = hold.claim
    if claim.ref is not None:
        await hold.launched(launcher, ref)
        await launcher.go(ref)

    async def told() -> int:
        """How many lines an earlier life handed over."""
        if claim.ref is None:
            return 0
        return await answered("last_seq", lambda: tools.queue.last_seq(claim.run.id, claim.attempt, "flow"))

    async def sink(lines: Sequence[LogLine]) -> None:
        await answered("append_logs", lambda: tools.queue.append_logs(claim, lines))

    remote = is_remote(launcher)
    timeout = None if remote else claim.registration.timeout
    if timeout is not None and claim.ref is not None and claim.run.started_at is not None:
        timeout = max(0.0, timeout - (tools.now() - claim.run.started_at))
    ending: Ending | None = None
    with hold.watched(lambda: launcher.stop(ref, tools.means.grace), timeout, outlives=bool(launcher.scope)):
        ending = await launcher.wait(ref, sink, attempt=claim.attempt, after=await told())
    if ending is None:
        raise HandedOver
    if ending.revision is not None:  # an attempt that is tried again leaves it in the log only
        await log.tell("INFO", f"fetched {ending.revision}")
    if claim.ref is not None:
        hold.ended_at = ending.at
    outcome = replace(judge(ending, hold.why, claim.registration.timeout), revision=ending.revision)
    if outcome.state is State.SUCCEEDED and ending.stored is not None:
        return replace(outcome, result=ending.stored["result"])
    if outcome.state is State.SUCCEEDED:
        return await with_result(hold, outcome, ending, means=tools.means, tell=log.tell)
    return outcome


# After it


async def _report(hold: Hold, outcome: Outcome, tools: Tools, phases: Phases) -> None:
    if hold.why is Reason.LEASE_LOST:
        events.claim_lost(hold.claim, outcome.detail)
        return
    await _finish(hold, outcome, tools, phases.seconds)


async def _finish(hold: Hold, outcome: Outcome, tools: Tools, phases: dict[str, float]) -> None:
    claim = hold.claim
    retry_in = retry_delay(claim, outcome)
    hold.free()
    ended_at = hold.ended_at or tools.now()

    async def finish() -> None:
        ago = tools.now() - ended_at
        told = outcome if ago < REPORTED_AT_ONCE else replace(outcome, ago=ago)
        await tools.queue.finish(claim, told, retry_in=retry_in)

    if await _forgiving(claim, answered("finish", finish)):
        hold.retry_in = retry_in
        events.attempt_ended(claim, outcome, phases, retry_in)
        tools.ended(outcome, phases)


async def _clear(hold: Hold, launcher: Launcher) -> None:
    """End and remove what may be left of an attempt that is nobody's business any more."""
    await _stop(launcher, _ref(hold))
    await _remove(launcher, _ref(hold))


async def _stop(launcher: Launcher, ref: str) -> bool:
    """End what runs of it, before anybody is told that it has ended; whether that could be seen to."""
    try:
        await launcher.stop(ref, 0)
    except Exception as error:  # noqa: BLE001 - as above
        events.remains_left(ref, error)
        return False
    return True


async def _hand_over(hold: Hold, launcher: Launcher, tools: Tools, why: str = "its agent stopped") -> None:
    """Give the attempt back as it is; what it writes is read on by whoever takes it over."""
    claim, detail = hold.claim, f"handed over: {why}, and its attempt goes on"
    if await _forgiving(claim, answered("release", lambda: tools.queue.release(claim, detail=detail))):
        events.run_handed_over(claim, _ref(hold))
    if is_remote(launcher):
        launcher.hand_over(_ref(hold))


def _ref(hold: Hold) -> str:
    """Where an attempt of this claim would be, whether it was created or not."""
    return hold.ref or workspace.spool_name(hold.claim.run.id, hold.claim.number)


async def _remove(launcher: Launcher, ref: str) -> None:
    try:
        await launcher.remove(ref)
    except Exception as error:  # noqa: BLE001 - as above
        events.remains_left(ref, error)


async def _forgiving(claim: Claim, write: Awaitable[object]) -> bool:
    """Whether the write was taken; a lost claim is told, and whoever has the run now reports it."""
    try:
        await write
    except ClaimLost as lost:
        events.claim_lost(claim, str(lost))
        return False
    return True
