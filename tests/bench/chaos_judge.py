"""Whether the history of all runs is one that the promises allow. It knows nothing but what was written down.

Beside what the judge of the soak finds (runs that were lost, attempts that overlap, lines that are missing or mixed,
ends that are not true), it looks at every single write: none to a run that has ended, no state that does not follow
from the one before, no start or end of an attempt and no line of an agent under a claim that is not the current one,
and no change or line of a run that nobody holds but where the promises allow it. What a row does not say of its claim,
and so is not looked at, is in ``chaos_history.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from chaos_history import Event
from soak_judge import Hits, Signed, Told
from soak_judge import judge as judge_ends

RUNS = 30
"""So many at least must have ended in each minute."""
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
    *,
    cancelled: Collection[str] = (),
    clocks: float = 0.0,
) -> list[str]:
    """Every fault, in words; none if all is as it should be.

    ``cancelled`` are the runs that somebody asked to cancel; ``clocks`` is what the database's clock shows more than
    that of the signs.
    """
    everything = set(told)
    # Anything may have been done to any of them: what a frozen database does to attempts cannot be told from the rest.
    faults = judge_ends(submitted, told, signs, Hits(everything, everything, set(cancelled)))
    runs: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        runs[event.run].append(event)
    faults += [f"{run}: nothing is written of it" for run in submitted if run not in runs]
    # A submit whose answer was lost is repeated with the same keys.
    faults += [f"{run}: it was made, and nobody was told of it" for run in sorted(everything - set(submitted))]
    for run, events in runs.items():
        for check in (_states, _claims, _holders, _writes, _ends, _held, _lines):
            faults += [f"{run}: {fault}" for fault in check(events)]
        if run in told and (last := _last_state(events)) != told[run].state:
            faults.append(f"{run}: it is {told[run].state}, and was last written as {last}")
        faults += [f"{run}: {fault}" for fault in _after(events, signs.get(run, {}), clocks)]
    return faults


def shortcomings(
    minutes: float,
    done: Mapping[str, int],
    kinds: Iterable[str],
    told: Mapping[str, Told],
    signs: Mapping[str, Mapping[int, Signed]],
    lease: float,
) -> list[str]:
    """What a chaos of so many minutes should have done and did not, so that it shows less than it says."""
    found = [f"it never happened: {kind}" for kind in kinds if not done.get(kind)]
    ended = sum(each.state in ENDED for each in told.values())
    if ended < RUNS * minutes:
        found.append(f"{ended} runs ended, expected at least {RUNS * minutes:g}")
    if not any(one.last - one.first > lease for its in signs.values() for one in its.values()):
        found.append(f"no attempt lived longer than a lease of {lease:g} s")
    return found


def _after(events: Sequence[Event], signed: Mapping[int, Signed], clocks: float) -> Iterator[str]:
    """Nothing of a run goes on once its end is written."""
    end = next((event for event in _changes(events) if event.after in ENDED), None)
    for number, one in signed.items():
        if end is not None and one.last + clocks > end.at:
            yield f"attempt {number} went on {one.last + clocks - end.at:.2f} s after {end.after} was written"


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


def _holders(events: list[Event]) -> Iterator[str]:
    """Only a new claim makes somebody the holder, and it is won of a run that waits or goes on elsewhere."""
    claim, holder = 0, ""
    for event in _changes(events):
        won = event.current != claim
        if won and (event.before, event.after) not in {("queued", "claimed"), ("running", "running")}:
            yield f"claim {event.current} was won as it went from {event.before} to {event.after}"
        if won and not event.holder:
            yield f"claim {event.current} was won, and nobody holds it"
        if not won and event.holder not in {"", holder}:
            yield f"{event.holder} holds it under claim {claim}, which was won by {holder or 'one that had let it go'}"
        if not won and not holder and event.before == "running" and event.after != "running":
            yield f"it went from running to {event.after} while nobody held it"
        if not won and event.after == "claimed" and event.before != "claimed":
            yield f"it went from {event.before} to claimed without a new claim"
        claim, holder = event.current, event.holder


def _writes(events: list[Event]) -> Iterator[str]:
    """Nothing is written under a claim that is not the current one, as far as it says its claim."""
    for event in events:
        stale = event.claim != event.current
        if stale and event.kind in {"line", "stale line"}:
            yield f"{event.source} wrote while claim {event.current} was the current one"
        elif stale and event.kind in {"started", "won"}:
            yield f"claim {event.claim} {event.kind} while claim {event.current} was the current one"
        elif stale and event.kind == "said":
            yield f"an end was told under claim {event.claim} while claim {event.current} was the current one"


def _ends(events: list[Event]) -> Iterator[str]:
    """No claim ends twice, and a success was told under the claim that was the current one."""
    ended: set[int] = set()
    for event in events:
        if event.kind == "said":
            if event.claim in ended:
                yield f"claim {event.claim} was ended twice"
            ended.add(event.claim)
    for event in events:
        if event.kind == "changed" and event.after == "succeeded" and event.current not in ended:
            yield f"it succeeded, and nobody told that under claim {event.current}"


def _held(events: list[Event]) -> Iterator[str]:
    """Lines are written of the current attempt, while somebody holds the run."""
    for event in events:
        if event.kind == "stale line":
            yield f"a line of attempt {event.attempt} was written while another attempt was the current one"
        elif event.kind == "line" and event.after not in {"claimed", "running"}:
            yield f"line {event.seq} of {event.source} was written while it was {event.after}"
        elif event.kind == "line" and not event.holder:
            yield f"line {event.seq} of {event.source} was written while nobody held the run"


def _lines(events: list[Event]) -> Iterator[str]:
    """The lines of each source come once, in order, and without a gap."""
    expected: dict[tuple[int, str], int] = defaultdict(lambda: 1)
    for event in events:
        if event.kind in {"line", "stale line"}:
            key = (event.attempt, event.source)
            if event.seq != expected[key]:
                yield f"line {event.seq} of {event.source}, attempt {event.attempt}, came where {expected[key]} was due"
            expected[key] = event.seq + 1
