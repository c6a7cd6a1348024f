"""The judge of the chaos test finds what it is there for: each history here has one fault, and it is told."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

from chaos_history import Event
from chaos_judge import judge, shortcomings
from soak_judge import Told, read_signs

TOLD = Told(
    flow="naps",
    parameters={"lines": 2},
    state="succeeded",
    reason="completed",
    attempts=[(1, "agent_lost"), (2, "completed")],
    lines=[(1, "1 line 0"), (2, "2 line 0"), (2, "2 line 1")],
    value=2,
)
SIGNS = ["begins a 1 7 1.0", "goes-on a 1 7 2.0", "begins a 2 8 3.0", "ends a 2 8 4.0"]


def made() -> Event:
    return Event("made", "a", after="queued")


def changed(before, after, claim, current, attempt) -> Event:
    holder = f"agent-{current}" if after in {"claimed", "running"} else ""
    return Event(
        "changed", "a", claim=claim, current=current, before=before, after=after, attempt=attempt, holder=holder, at=9.0
    )


def line(claim, attempt, seq, source="flow", state="running", kind="line") -> Event:
    named = int(source.removeprefix("agent.")) if source.startswith("agent.") else claim
    return Event(
        kind,
        "a",
        claim=named,
        current=claim,
        after=state,
        attempt=attempt,
        source=source,
        seq=seq,
        holder=f"agent-{claim}",
    )


def said(claim, current, state) -> Event:
    return Event("said", "a", claim=claim, current=current, after=state, attempt=2)


HISTORY = [
    made(),
    changed("queued", "claimed", 0, 1, 0),
    changed("claimed", "running", 1, 1, 1),
    line(1, 1, 1),
    line(1, 1, 1, source="agent.1"),
    changed("running", "running", 1, 1, 1),
    changed("running", "queued", 1, 1, 1),
    changed("queued", "claimed", 1, 2, 1),
    changed("claimed", "running", 2, 2, 2),
    line(2, 2, 1),
    line(2, 2, 2),
    changed("running", "succeeded", 2, 2, 2),
    said(2, 2, "succeeded"),
]
END = HISTORY[-2:]
CANCELLED = replace(
    TOLD,
    state="cancelled",
    reason="cancelled",
    attempts=[(1, "agent_lost"), (2, "cancelled")],
    lines=TOLD.lines[:-1],
    value=None,
)
CANCELLING = [*HISTORY[:-3], changed("running", "cancelled", 2, 2, 2), said(2, 2, "cancelled")]


def faults(history=HISTORY, told=TOLD, signs=SIGNS, submitted=("a",), cancelled=(), clocks=0.0) -> list[str]:
    told = {"a": told} if told else {}
    return judge(set(submitted), told, read_signs(signs), history, cancelled=cancelled, clocks=clocks)


def test_a_run_that_lost_an_agent_and_did_all_it_should_has_no_fault():
    assert faults() == []


def test_a_run_that_was_cancelled_when_somebody_asked_for_it_has_no_fault():
    assert faults(CANCELLING, CANCELLED, SIGNS[:-1], cancelled={"a"}) == []
    assert faults(cancelled={"a"}) == []  # it had reached its end before
    waited = replace(CANCELLED, attempts=[], lines=[])
    assert faults([made(), changed("queued", "cancelled", 0, 0, 0)], waited, [], cancelled={"a"}) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cancelled": ()}, "it is cancelled"),
        ({"told": replace(CANCELLED, reason="agent_lost")}, "it was cancelled, with the reason agent_lost"),
        ({"told": replace(CANCELLED, attempts=TOLD.attempts)}, "its last attempt with completed"),
        ({"history": [*CANCELLING, changed("cancelled", "queued", 2, 2, 2)]}, "it had cancelled, and was changed"),
        ({"signs": [*SIGNS[:-1], "goes-on a 2 8 9.5"]}, "attempt 2 went on 0.50 s after cancelled was written"),
        ({"clocks": 7.0}, "attempt 2 went on 1.00 s after cancelled was written"),
    ],
)
def test_a_run_that_was_cancelled_by_nobody_or_goes_on_after_it_is_told(changes, says):
    usual = {"history": CANCELLING, "told": CANCELLED, "signs": SIGNS[:-1], "cancelled": {"a"}}
    assert says in "\n".join(faults(**{**usual, **changes}))


def test_two_attempts_that_sign_side_by_side_are_told_also_if_the_first_outlives_its_lease_only_a_moment():
    lines = [(1, "1 line 0"), *((2, f"2 line {number}") for number in range(100))]
    long = replace(TOLD, flow="stays", parameters={"lines": 100}, lines=lines, value=100)
    first = ["begins a 1 7 1.0", *(f"goes-on a 1 7 {1 + number * 0.2}" for number in range(1, 61))]
    second = ["begins a 2 8 {}", "goes-on a 2 8 14.0", "ends a 2 8 30.0"]
    history = [replace(event, at=31.0) for event in HISTORY]
    apart = [*first, second[0].format(13.1), *second[1:]]
    beside = [*first, second[0].format(12.9), *second[1:]]
    assert faults(history, long, apart) == []
    assert faults(history, long, beside) == ["a (stays): attempt 1 was still running when a later one had begun"]


def test_a_run_that_was_made_by_a_submit_whose_answer_was_lost_and_was_not_repeated_is_told():
    assert "a: it was made, and nobody was told of it" in faults(submitted=())


def without(*events: Event) -> list[Event]:
    return [event for event in HISTORY if event not in events]


@pytest.mark.parametrize(
    ("what", "history", "says"),
    [
        ("lost", [made()], "a: it is succeeded, and was last written as queued"),
        ("never stored", [], "a: nothing is written of it"),
        ("removed", [*HISTORY, replace(END[0], kind="removed", before="succeeded", after="")], "was removed as succ"),
        ("ended and changed", [*HISTORY, changed("succeeded", "failed", 2, 2, 2)], "it had succeeded, and was changed"),
        ("ended and run", [*HISTORY, changed("succeeded", "queued", 2, 2, 2)], "it had succeeded, and was changed"),
        ("ended and written", [*HISTORY, changed("succeeded", "succeeded", 2, 2, 2)], "it had succeeded, and was"),
        ("a jump", [made(), changed("queued", "running", 0, 1, 1), *HISTORY[3:]], "it was queued, and then running"),
        ("a change unseen", without(HISTORY[7]), "it was written as queued, and then was claimed"),
        (
            "a claim twice",
            [*HISTORY[:7], changed("queued", "claimed", 1, 3, 1), *HISTORY[8:]],
            "claim 3 follows",
        ),
        (
            "an attempt too many",
            [*HISTORY[:8], changed("claimed", "running", 2, 2, 3), *HISTORY[9:]],
            "attempt 3",
        ),
        ("a stale end", [*HISTORY[:9], said(1, 2, "running"), *HISTORY[9:]], "told under claim 1 while claim 2 was"),
        ("an end twice", [*HISTORY, said(2, 2, "succeeded")], "claim 2 was ended twice"),
        (
            "a stale line",
            [*HISTORY[:9], line(2, 1, 2, kind="stale line"), *HISTORY[9:]],
            "a line of attempt 1",
        ),
        (
            "a stale start",
            [*HISTORY[:9], Event("started", "a", claim=1, current=2, after="running"), *HISTORY[9:]],
            "claim 1 started while claim 2",
        ),
        (
            "a claim that is not the run's",
            [*HISTORY[:9], Event("won", "a", claim=3, current=2, after="running"), *HISTORY[9:]],
            "claim 3 won while claim 2",
        ),
        ("a success that nobody told", HISTORY[:-1], "nobody told that under claim 2"),
        ("a success under another claim", [*HISTORY[:-1], said(1, 2, "succeeded")], "nobody told that under claim 2"),
        (
            "another holder, no other claim",
            [*HISTORY[:9], replace(HISTORY[8], before="running", holder="agent-1"), *HISTORY[9:]],
            "agent-1 holds it under claim 2, which was won by agent-2",
        ),
        (
            "held again after its lease",
            [
                *HISTORY[:9],
                replace(changed("running", "running", 2, 2, 2), holder=""),
                changed("running", "running", 2, 2, 2),
                *HISTORY[9:],
            ],
            "agent-2 holds it under claim 2, which was won by one that had let it go",
        ),
        (
            "told after its lease",
            [*HISTORY[:11], replace(changed("running", "running", 2, 2, 2), holder=""), *END],
            "it went from running to succeeded while nobody held it",
        ),
        (
            "a claim of what had ended",
            [*HISTORY[:7], changed("queued", "cancelled", 1, 2, 1)],
            "claim 2 was won as it went from queued to cancelled",
        ),
        (
            "claimed without a claim",
            [*HISTORY[:7], replace(HISTORY[7], current=1, holder=""), *HISTORY[8:]],
            "it went from queued to claimed without a new claim",
        ),
        ("a claim for nobody", [*HISTORY[:7], replace(HISTORY[7], holder=""), *HISTORY[8:]], "and nobody holds it"),
        (
            "a line while nobody holds it",
            [*HISTORY[:9], replace(HISTORY[9], holder=""), *HISTORY[10:]],
            "line 1 of flow was written while nobody held the run",
        ),
        ("a stale agent", [*HISTORY[:9], line(2, 2, 1, source="agent.1"), *HISTORY[9:]], "agent.1 wrote while claim 2"),
        ("a line after the end", [*HISTORY, line(2, 2, 3, state="succeeded")], "was written while it was succeeded"),
        (
            "a line twice",
            [*HISTORY[:10], line(2, 2, 1), *HISTORY[10:]],
            "line 1 of flow, attempt 2, came where 2",
        ),
        ("a line missing", without(HISTORY[9]), "line 2 of flow, attempt 2, came where 1 was due"),
        ("lines in disorder", [*HISTORY[:9], HISTORY[10], HISTORY[9], *END], "line 2 of flow, attempt 2, came where 1"),
    ],
)
def test_a_history_that_no_promise_allows_is_told(what, history, says):
    assert says in "\n".join(faults(history)), what


@pytest.mark.parametrize(
    ("what", "changes", "says"),
    [
        ("lost", {"told": None}, "a: submitted, and the queue does not know it"),
        ("nobody's", {"submitted": ()}, "a: nobody submitted it"),
        (
            "two attempts at a time",
            {"signs": [*SIGNS, "goes-on a 1 7 3.5"]},
            "attempt 1 was still running",
        ),
        ("one attempt twice", {"signs": [*SIGNS, "begins a 2 9 3.1"]}, "attempt 2 began 2 times"),
        ("an attempt untold", {"signs": [*SIGNS, "begins a 3 9 5.0"]}, "attempt 3 ran, and the queue has none"),
        ("success without an end", {"signs": SIGNS[:-1]}, "attempt 2 never came to its end"),
        ("a line twice", {"told": replace(TOLD, lines=[*TOLD.lines, (2, "2 line 1")])}, "has 3 lines, expected 2"),
        ("a line missing", {"told": replace(TOLD, lines=TOLD.lines[:-1])}, "attempt 2 (completed) printed"),
        ("lines in disorder", {"told": replace(TOLD, lines=TOLD.lines[::-1])}, "mixed"),
        ("no end", {"told": replace(TOLD, state="running", reason=None)}, "it is running"),
    ],
)
def test_a_run_that_was_lost_doubled_or_told_wrongly_is_told(what, changes, says):
    assert says in "\n".join(faults(**changes)), what


KINDS = ("kill", "freeze")
LONG = read_signs(["begins a 1 7 1.0", "goes-on a 1 7 14.0"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"done": Counter(kill=3)}, ["it never happened: freeze"]),
        ({"done": {}}, ["it never happened: kill", "it never happened: freeze"]),
        ({"told": {"a": TOLD}}, ["1 runs ended, expected at least 60"]),
        ({"told": {}}, ["0 runs ended, expected at least 60"]),
        ({"told": {str(n): replace(TOLD, state="queued") for n in range(60)}}, ["0 runs ended, expected at least 60"]),
        ({"signs": read_signs(SIGNS)}, ["no attempt lived longer than a lease of 12 s"]),
    ],
)
def test_a_chaos_that_did_not_do_what_it_is_for_says_what(changes, says):
    usual = {"done": Counter(kill=1, freeze=1), "told": {str(n): TOLD for n in range(60)}, "signs": LONG}
    assert shortcomings(2, kinds=KINDS, lease=12, **{**usual, **changes}) == says
