"""The judge of the soak finds what it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.soak_judge import SECRET, Hits, Told, judge, read_signs

NAP = Told(
    flow="naps",
    parameters={"lines": 2},
    state="succeeded",
    reason="completed",
    attempts=[(1, "agent_lost"), (2, "completed")],
    lines=[(1, "1 line 0"), (2, "2 line 0"), (2, "2 line 1")],
    value=2,
)
SIGNS = ["begins a 1 7 1.0", "goes-on a 1 7 2.0", "begins a 2 8 3.0", "goes-on a 2 8 3.1", "ends a 2 8 4.0"]
LOST = Told(
    flow="once",
    parameters={"lines": 1},
    state="failed",
    reason="agent_lost",
    attempts=[(1, "agent_lost")],
    lines=[],
)


def faults(told=NAP, signs=SIGNS, hits=None, submitted=("a",)):
    return judge(set(submitted), {"a": told}, read_signs(signs), hits or Hits(keepers={"a"}))


def test_a_run_that_was_hit_and_did_all_it_should_has_no_fault():
    assert faults() == []
    assert faults(LOST, []) == []
    assert faults(LOST, ["begins a 1 7 1.0"]) == []


def test_a_run_that_the_queue_does_not_know_or_that_nobody_submitted_is_a_fault():
    assert faults(submitted=["a", "b"]) == ["b: submitted, and the queue does not know it"]
    assert faults(submitted=[]) == ["a: nobody submitted it"]
    assert "c: signed, and the queue does not know it" in faults(signs=[*SIGNS, "begins c 1 9 1.0"])


@pytest.mark.parametrize(
    ("told", "signs", "says"),
    [
        (NAP, [*SIGNS, "begins a 2 9 3.05"], "attempt 2 began 2 times"),
        (NAP, [*SIGNS, "ends a 2 8 4.1"], "ended 2 times"),
        (NAP, [*SIGNS, "begins a 3 9 5.0"], "attempt 3 ran, and the queue has none of that number"),
        (NAP, [*SIGNS, "goes-on a 1 7 3.5"], "attempt 1 was still running when a later one had begun"),
        (NAP, SIGNS[:-1], "attempt 2 never came to its end"),
        (NAP, SIGNS[:2], "attempt 2 never came to its end"),
        (replace(NAP, state="running", reason=None), SIGNS, "it is running"),
        (replace(NAP, state="cancelled", reason="cancelled"), SIGNS, "it is cancelled"),
        (replace(NAP, reason="raised"), SIGNS, "it succeeded, with the reason raised"),
        (replace(NAP, attempts=[(1, "agent_lost"), (3, "completed")]), SIGNS, "numbered [1, 3]"),
        (replace(NAP, attempts=[(1, "killed"), (2, "completed")]), SIGNS, "attempt 1 ended as killed"),
        (replace(NAP, attempts=[(1, "raised"), (2, "completed")]), SIGNS, "attempt 1 ended as raised"),
        (replace(NAP, state="failed", reason="agent_lost"), SIGNS, "it failed (agent_lost) after 2 attempts"),
        (replace(NAP, lines=[*NAP.lines, (2, "2 line 1")]), SIGNS, "has 3 lines, expected 2"),
        (replace(NAP, lines=NAP.lines[:-1]), SIGNS, "attempt 2 (completed) printed"),
        (replace(NAP, lines=[NAP.lines[0], NAP.lines[2], NAP.lines[1]]), SIGNS, "attempt 2 (completed) printed"),
        (replace(NAP, lines=[*NAP.lines[1:], NAP.lines[0]]), SIGNS, "mixed"),
        (replace(NAP, value=3), SIGNS, "its result is '3'"),
        (replace(NAP, flow="whispers", parameters={}, lines=[(2, SECRET)], value=len(SECRET)), SIGNS, "the secret"),
        (replace(LOST, reason="agent_error", attempts=[(1, "completed")]), [], "its last attempt had completed"),
    ],
)
def test_what_is_not_as_it_should_be_is_a_fault(told, signs, says):
    assert says in "\n".join(faults(told, signs))


def test_an_attempt_that_is_lost_though_nothing_was_done_to_it_is_a_fault():
    assert faults(hits=Hits()) == ["a (naps): attempt 1 ended as agent_lost, and nothing was done to it"]
    assert faults(hits=Hits(attempts={"a"})) == ["a (naps): attempt 1 ended as agent_lost, and nothing was done to it"]
