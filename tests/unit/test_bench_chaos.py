"""The judge of the chaos test finds what it is there for: each history here has one fault, and it is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

from chaos_history import Event
from chaos_judge import judge
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
    return Event("changed", "a", claim=claim, current=current, before=before, after=after, attempt=attempt)


def line(claim, attempt, seq, source="flow", state="running", kind="line") -> Event:
    return Event(kind, "a", claim=claim, current=claim, after=state, attempt=attempt, source=source, seq=seq)


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


def faults(history=HISTORY, told=TOLD, signs=SIGNS, submitted=("a",)) -> list[str]:
    return judge(set(submitted), {"a": told} if told else {}, read_signs(signs), history)


def test_a_run_that_lost_an_agent_and_did_all_it_should_has_no_fault():
    assert faults() == []


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
