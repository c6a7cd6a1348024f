"""Every ending has one honest outcome."""

from __future__ import annotations

import signal

import pytest

from flow_agent.judge import judge, retry_delay
from flow_agent.model import RETRIED, Claim, Ending, Outcome, Reason, Registration, Run, State

OK = {"ok": True, "result": {"format": "json", "size": 4}}
RAISED = {"ok": False, "reason": "raised", "detail": "ValueError: no"}


@pytest.mark.parametrize(
    ("ending", "why", "state", "reason", "code", "words"),
    [
        (Ending(code=0, receipt=OK), None, State.SUCCEEDED, Reason.COMPLETED, 0, ""),
        (Ending(code=0), None, State.FAILED, Reason.EXITED, 0, "before the flow returned"),
        (Ending(code=3), None, State.FAILED, Reason.EXITED, 3, "exited with code 3"),
        (Ending(code=3, receipt=OK), None, State.FAILED, Reason.EXITED, 3, "after the flow had returned"),
        (Ending(code=1, receipt=RAISED), None, State.FAILED, Reason.RAISED, 1, "ValueError: no"),
        (Ending(code=1, receipt=RAISED | {"reason": "timed_out"}), None, State.FAILED, Reason.EXITED, 1, "code 1"),
        (Ending(code=1, receipt=RAISED | {"reason": "cancelled"}), None, State.CANCELLED, Reason.CANCELLED, 1, "no"),
        (
            Ending(code=1, receipt=RAISED | {"reason": "python_mismatch"}),
            None,
            State.FAILED,
            Reason.PYTHON_MISMATCH,
            1,
            "",
        ),
        (Ending(signal=9, tail="last words"), None, State.FAILED, Reason.KILLED, 137, "perhaps out of memory"),
        (Ending(signal=11), None, State.FAILED, Reason.KILLED, 139, "SIGSEGV"),
        (Ending(signal=44), None, State.FAILED, Reason.KILLED, 172, "signal 44"),
        (Ending(signal=11, receipt=OK), None, State.FAILED, Reason.KILLED, 139, "SIGSEGV"),
        (Ending(signal=15, ended_by="stop"), Reason.CANCELLED, State.CANCELLED, Reason.CANCELLED, 143, "on request"),
        (Ending(signal=15, ended_by="stop"), Reason.TIMED_OUT, State.FAILED, Reason.TIMED_OUT, 143, "limit of 7 s"),
        (Ending(signal=15, ended_by="stop"), Reason.AGENT_STOPPING, State.FAILED, Reason.AGENT_STOPPING, 143, ""),
        (Ending(signal=15, ended_by="stop"), None, State.FAILED, Reason.AGENT_STOPPING, 143, ""),
        (Ending(code=0, receipt=OK), Reason.CANCELLED, State.SUCCEEDED, Reason.COMPLETED, 0, ""),
        (Ending(signal=15, ended_by="timeout"), None, State.FAILED, Reason.TIMED_OUT, 143, "limit of 7 s"),
        (Ending(signal=15, ended_by="keeper"), None, State.FAILED, Reason.KILLED, 143, "keeper was told to end"),
        (Ending(signal=15, ended_by="keeper"), Reason.CANCELLED, State.CANCELLED, Reason.CANCELLED, 143, ""),
        (
            Ending(signal=11, tail="Fatal\n  ..."),
            None,
            State.FAILED,
            Reason.KILLED,
            139,
            "perhaps its stack overflowed",
        ),
        (Ending(signal=9, ended_by="deadline"), None, State.FAILED, Reason.AGENT_LOST, 137, "lease ended"),
        (Ending(signal=24), None, State.FAILED, Reason.KILLED, 152, "SIGXCPU"),
        (Ending(signal=24, cpu="used 2 s"), None, State.FAILED, Reason.TIMED_OUT, 152, "used 2 s"),
        (Ending(signal=9, memory="held 2 bytes"), None, State.FAILED, Reason.OUT_OF_MEMORY, 137, "held 2 bytes"),
        (Ending(lost="the keeper died"), None, State.FAILED, Reason.AGENT_LOST, None, "keeper died"),
    ],
)
def test_an_ending_becomes_an_outcome(ending, why, state, reason, code, words) -> None:
    outcome = judge(ending, why, 7.0)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (state, reason, code)
    assert words in outcome.detail


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        (Ending(signal=signal.SIGKILL, tail="a\nb"), None),
        (Ending(signal=signal.SIGKILL, tail="a\nb", memory="held 2 bytes"), None),
        (Ending(signal=signal.SIGXCPU, tail="a\nb", cpu="used 2 s"), None),
        (Ending(signal=signal.SIGTERM, tail="a\nb", ended_by="stop"), Reason.TIMED_OUT),
        (Ending(code=0, tail="a\nb"), None),
        (Ending(code=3, tail="a\nb"), None),
        (Ending(code=3, tail="a\nb", receipt=RAISED | {"reason": "exited"}), None),
        (Ending(code=1, tail="a\nb", receipt=RAISED | {"reason": "out_of_memory"}), None),
    ],
)
def test_the_last_lines_of_output_stand_in_the_detail(ending: Ending, why: Reason | None) -> None:
    assert judge(ending, why, 7.0).detail.endswith("last output:\na\nb")


def test_the_detail_of_an_exception_is_its_own_last_line() -> None:
    assert judge(Ending(code=1, tail="a\nb", receipt=RAISED), None, None).detail == "ValueError: no"


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize(("attempt", "retries"), [(1, 0), (1, 1), (2, 1), (3, 5)])
def test_retries_cover_the_listed_reasons_and_no_more(reason: Reason, attempt: int, retries: int) -> None:
    registration = Registration(flow="f", kind="script", storage={}, location={}, retries=retries, retry_delay=9.0)
    run = Run(id="r", flow="f", version=1, state=State.RUNNING)
    claim = Claim(run=run, registration=registration, number=1, attempt=attempt, lease=1.0)
    state = {Reason.COMPLETED: State.SUCCEEDED, Reason.CANCELLED: State.CANCELLED}.get(reason, State.FAILED)
    expected = 9.0 if reason in RETRIED and attempt <= retries else None
    assert retry_delay(claim, Outcome(state=state, reason=reason)) == expected
