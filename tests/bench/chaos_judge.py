"""Whether the history of all runs is one that the promises allow. It knows nothing but what was written down.

Beside what the judge of the soak finds (runs that were lost, attempts that overlap, lines that are missing or mixed,
ends that are not true), it looks at every single write: none under a claim that is not the current one, none to a run
that has ended, no state that does not follow from the one before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from chaos_history import Event
from soak_judge import Hits, Signed, Told
from soak_judge import judge as judge_ends

ENDED = frozenset({"succeeded", "failed", "cancelled"})
FOLLOWING = {
    "scheduled": {"scheduled", "queued", "cancelled"},
    "queued": {"queued", "claimed", "cancelled"},
    "claimed": {"claimed", "running", "queued", "scheduled", "failed", "cancelled"},
    "running": {"running", "queued", "scheduled", "succeeded", "failed", "cancelled"},
}


def judge(
    submitted: Collection[str],
    told: Mapping[str, Told],
    signs: Mapping[str, Mapping[int, Signed]],
    history: Iterable[Event],
) -> list[str]:
    """Every fault, in words; none if all is as it should be."""
    everything = set(told)
    # Anything may have been done to any of them: what a frozen database does to attempts cannot be told from the rest.
    faults = judge_ends(submitted, told, signs, Hits(keepers=everything, attempts=everything))
    runs: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        runs[event.run].append(event)
    faults += [f"{run}: nothing is written of it" for run in submitted if run not in runs]
    for run, events in runs.items():
        for check in (_states, _claims, _writes, _lines):
            faults += [f"{run}: {fault}" for fault in check(events)]
        if run in told and (last := _last_state(events)) != told[run].state:
            faults.append(f"{run}: it is {told[run].state}, and was last written as {last}")
    return faults


def _changes(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind in {"made", "changed", "removed"}]


def _last_state(events: Iterable[Event]) -> str:
    return next((event.after for event in reversed(_changes(events))), "")


def _states(events: list[Event]) -> Iterator[str]:
    """Each state follows from the one before, and nothing follows an end."""
    state: str | None = None
    for event in _changes(events):
        if event.kind == "removed":
            yield f"it was removed as {event.before}"
        elif event.before != state:
            yield f"it was written as {state}, and then was {event.before}"
        elif event.before in ENDED:
            yield f"it had {event.before}, and was changed to {event.after}"
        elif event.before is not None and event.after not in FOLLOWING[event.before]:
            yield f"it was {event.before}, and then {event.after}"
        state = event.after


def _claims(events: list[Event]) -> Iterator[str]:
    """Claims are counted one by one, and so are attempts."""
    claim, attempt = 0, 0
    for event in _changes(events):
        if event.current not in {claim, claim + 1}:
            yield f"claim {event.current} follows claim {claim}"
        if event.attempt not in {attempt, attempt + 1} and event.kind != "removed":
            yield f"attempt {event.attempt} follows attempt {attempt}"
        claim, attempt = event.current, event.attempt


def _writes(events: list[Event]) -> Iterator[str]:
    """Nothing is written under a claim that is not the current one, and no claim ends twice."""
    ended: set[int] = set()
    for event in events:
        if event.kind == "stale line":
            yield f"a line of attempt {event.attempt} was written while another attempt was the current one"
        elif event.kind == "line":
            if event.after not in {"claimed", "running"}:
                yield f"line {event.seq} of {event.source} was written while it was {event.after}"
            if event.source.startswith("agent.") and event.source != f"agent.{event.current}":
                yield f"{event.source} wrote while claim {event.current} was the current one"
        elif event.kind == "said":
            if event.claim != event.current:
                yield f"an end was told under claim {event.claim} while claim {event.current} was the current one"
            if event.claim in ended:
                yield f"claim {event.claim} was ended twice"
            ended.add(event.claim)


def _lines(events: list[Event]) -> Iterator[str]:
    """The lines of each source come once, in order, and without a gap."""
    expected: dict[tuple[int, str], int] = defaultdict(lambda: 1)
    for event in events:
        if event.kind in {"line", "stale line"}:
            key = (event.attempt, event.source)
            if event.seq != expected[key]:
                yield f"line {event.seq} of {event.source}, attempt {event.attempt}, came where {expected[key]} was due"
            expected[key] = event.seq + 1
