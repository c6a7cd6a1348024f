"""What an ending means: pure, and the only place that turns exit codes, signals and receipts into an outcome."""

from __future__ import annotations

import signal

from flow_agent.model import MORE_CALLS, RETRIED, Claim, Ending, Outcome, Reason, State

RECEIPT_REASONS = {
    Reason.RAISED,
    Reason.EXITED,
    Reason.PYTHON_MISMATCH,
    Reason.FLOW_NOT_FOUND,
    Reason.PARAMETERS_INVALID,
    Reason.RESULT_FAILED,
    Reason.CANCELLED,
    Reason.OUT_OF_MEMORY,
    Reason.LAUNCH_FAILED,
}
"""What a runner may say of its own end; an attempt that writes another word into its receipt is not believed."""
WORDLESS = {Reason.EXITED, Reason.OUT_OF_MEMORY}
"""Those whose detail says nothing of what the flow was at; of an exception, the last line of its traceback does."""

LONGEST_DETAIL = 4000


def judge(ending: Ending, why: Reason | None, timeout: float | None) -> Outcome:  # noqa: PLR0911 - a list of cases
    """The outcome of an attempt that ended so; ``why`` is the reason for which we asked it to end, if we did.

    Success needs exit code 0 *and* the runner's receipt. What ended before our asking reached it ended by itself.
    """
    code = ending.code if ending.signal is None else 128 + ending.signal
    if ending.lost is not None:
        return _failed(Reason.AGENT_LOST, ending.lost, code)
    if ending.ended_by == "deadline":
        text = (
            "its lease ended before an agent extended it, and it was stopped so that no second one could run beside it"
        )
        return _failed(Reason.AGENT_LOST, text, code)
    if ending.memory is not None:
        return _failed(Reason.OUT_OF_MEMORY, ending.memory + _last_lines(ending.tail), code)
    if ending.ended_by is not None:
        return _stopped(_why_stopped(ending.ended_by, why), timeout, ending.tail, code)
    receipt = ending.receipt
    if receipt is not None and not receipt.get("ok") and receipt.get("reason") in RECEIPT_REASONS:
        reason, detail = Reason(receipt["reason"]), str(receipt.get("detail", ""))
        if reason is Reason.CANCELLED:  # a flow of another framework says that of itself
            return Outcome(state=State.CANCELLED, reason=reason, detail=detail[:LONGEST_DETAIL], exit_code=code)
        return _failed(reason, detail + (_last_lines(ending.tail) if reason in WORDLESS else ""), code)
    if ending.cpu is not None:
        return _failed(Reason.TIMED_OUT, ending.cpu + _last_lines(ending.tail), code)
    if ending.signal is not None:
        return _failed(Reason.KILLED, _killed(ending.signal, ending.tail) + _last_lines(ending.tail), code)
    if ending.code != 0:
        text = f"exited with code {ending.code}{' after the flow had returned' if receipt else ''}"
        return _failed(Reason.EXITED, text + _last_lines(ending.tail), code)
    if receipt is None or not receipt.get("ok"):
        text = "exited with code 0 before the flow returned, so nobody knows whether its work is done"
        return _failed(Reason.EXITED, text + _last_lines(ending.tail), code)
    return Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED, exit_code=0)


def retry_delay(claim: Claim, outcome: Outcome) -> float | None:
    """Seconds until the run is tried again, None if it is not: ``retries`` count attempts that were started."""
    registration = claim.registration
    if outcome.state is not State.FAILED or outcome.reason not in RETRIED or claim.attempt > registration.retries:
        return None
    return registration.retry_delay


def _why_stopped(ended_by: str, why: Reason | None) -> Reason:
    """``ended_by`` is the keeper's word for it: it holds the time limit itself, and may be ended by anybody."""
    if ended_by == "timeout":
        return Reason.TIMED_OUT
    return why or (Reason.KILLED if ended_by == "keeper" else Reason.AGENT_STOPPING)


def _stopped(why: Reason, timeout: float | None, tail: str, code: int | None) -> Outcome:
    if why is Reason.CANCELLED:
        return Outcome(state=State.CANCELLED, reason=why, detail="cancelled on request", exit_code=code)
    if why is Reason.TIMED_OUT:
        return _failed(why, f"ran longer than its time limit of {timeout:g} s{_last_lines(tail)}", code)
    if why is Reason.LEASE_LOST:
        return _failed(why, "another agent holds this run now", code)
    if why is Reason.KILLED:
        text = "its keeper was told to end (SIGTERM), by somebody other than its agent"
        return _failed(why, text + _last_lines(tail), code)
    return _failed(why, "the agent was told to stop at once", code)


def _killed(number: int, tail: str) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return f"killed by {name}, perhaps out of memory"
    if number in {signal.SIGSEGV, signal.SIGBUS} and f"\n{MORE_CALLS}" in tail:
        return f"killed by {name}, at least a hundred calls deep: perhaps its stack overflowed"
    return f"killed by {name}"


def _last_lines(tail: str) -> str:
    return f"; last output:\n{tail}" if tail else ""


def _failed(reason: Reason, detail: str, code: int | None) -> Outcome:
    return Outcome(state=State.FAILED, reason=reason, detail=detail[:LONGEST_DETAIL], exit_code=code)
