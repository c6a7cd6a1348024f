"""Whether anything was lost, doubled or told wrongly, from what the flows signed and what the queue says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SECRET = "soak-secret-8f4c1d"
RETRIES = {"nothing": 3, "talks": 3, "naps": 3, "stays": 3, "stumbles": 4, "once": 0, "returns": 3, "whispers": 3}
LOST_BEFORE_IT_STARTED = "agent_error"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the queue tells of one run. ``attempts`` are (number, reason); ``lines`` are (attempt, text) of the flow's
    own output; ``value`` is what was read back of its result, where it has one."""

    flow: str
    parameters: Mapping[str, Any]
    state: str
    reason: str | None
    attempts: Sequence[tuple[int, str | None]]
    lines: Sequence[tuple[int, str]]
    value: Any = None


@dataclass
class Signed:
    """What one attempt signed: how often it began and ended, and its first and last moment (seconds, monotonic)."""

    begins: int = 0
    ends: int = 0
    first: float = float("inf")
    last: float = float("-inf")


@dataclass
class Hits:
    """The runs of which something was killed, and those that somebody asked to cancel."""

    keepers: set[str] = field(default_factory=set)
    attempts: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)


def read_signs(lines: Iterable[str]) -> dict[str, dict[int, Signed]]:
    """What each attempt of each run signed."""
    found: dict[str, dict[int, Signed]] = defaultdict(lambda: defaultdict(Signed))
    for line in lines:
        word, run, attempt, _, moment = line.split()
        signed = found[run][int(attempt)]
        signed.begins += word == "begins"
        signed.ends += word == "ends"
        signed.first, signed.last = min(signed.first, float(moment)), max(signed.last, float(moment))
    return found


def judge(
    submitted: Collection[str], told: Mapping[str, Told], signs: Mapping[str, Mapping[int, Signed]], hits: Hits
) -> list[str]:
    """Every fault, in words; none if all is as it should be."""
    faults = [f"{run}: submitted, and the queue does not know it" for run in submitted if run not in told]
    faults += [f"{run}: nobody submitted it" for run in told if run not in submitted]
    faults += [f"{run}: signed, and the queue does not know it" for run in signs if run not in told]
    for run, its in told.items():
        signed = signs.get(run, {})
        for check in (_starts, _order, _end, _reasons, _output, _value):
            faults += [f"{run} ({its.flow}): {fault}" for fault in check(run, its, signed, hits)]
    return faults


def _starts(run: str, told: Told, signed: Mapping[int, Signed], hits: Hits) -> Iterator[str]:
    """User code of one attempt runs once, and only of attempts that count."""
    numbers = [number for number, _ in told.attempts]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its attempts are numbered {numbers}"
    for number, one in signed.items():
        if one.begins != 1 or one.ends > 1:
            yield f"attempt {number} began {one.begins} times and ended {one.ends} times"
        if number not in numbers:
            yield f"attempt {number} ran, and the queue has none of that number"


def _order(run: str, told: Told, signed: Mapping[int, Signed], hits: Hits) -> Iterator[str]:
    """No two attempts run at the same time."""
    for number in sorted(signed):
        later = [one.first for other, one in signed.items() if other > number]
        if later and min(later) <= signed[number].last:
            yield f"attempt {number} was still running when a later one had begun"


def _end(run: str, told: Told, signed: Mapping[int, Signed], hits: Hits) -> Iterator[str]:
    """It has ended, and what it ended with is true."""
    last = told.attempts[-1] if told.attempts else (0, None)
    if told.state == "succeeded":
        if told.reason != "completed" or last[1] != "completed":
            yield f"it succeeded, with the reason {told.reason}, its last attempt with {last[1]}"
        elif last[0] not in signed or not signed[last[0]].ends:
            yield f"it succeeded, and attempt {last[0]} never came to its end"
    elif told.state == "cancelled" and run in hits.cancelled:
        if told.reason != "cancelled" or last[1] == "completed":
            yield f"it was cancelled, with the reason {told.reason}, its last attempt with {last[1]}"
    elif told.state != "failed":
        yield f"it is {told.state}"
    elif told.reason == LOST_BEFORE_IT_STARTED:
        if last[1] == "completed":
            yield "it failed as one that could not be started, and its last attempt had completed"
    elif last[0] != RETRIES[told.flow] + 1 or told.reason != last[1]:
        yield f"it failed ({told.reason}) after {last[0]} attempts, the last one {last[1]}"


def _reasons(run: str, told: Told, signed: Mapping[int, Signed], hits: Hits) -> Iterator[str]:
    """Each attempt that did not complete has a reason, and that is what had happened."""
    for number, reason in told.attempts:
        happened = (
            reason == "completed"
            or (reason == "raised" and (told.flow, number) == ("stumbles", 1))
            or (reason == "agent_lost" and run in hits.keepers)
            or (reason == "killed" and run in hits.attempts)
            or (reason == "cancelled" and run in hits.cancelled)
        )
        if not happened:
            yield f"attempt {number} ended as {reason}, and nothing was done to it"


def _output(run: str, told: Told, signed: Mapping[int, Signed], hits: Hits) -> Iterator[str]:
    """Each line once and in order; all of them, of an attempt that came to its end."""
    numbers = [attempt for attempt, _ in told.lines]
    if numbers != sorted(numbers):
        yield "lines of its attempts are mixed"
    for number, reason in told.attempts:
        printed = [text for attempt, text in told.lines if attempt == number]
        expected = _expected(told, number)
        if any(SECRET in text for text in printed):
            yield f"attempt {number}: the secret is in the log"
        if told.flow == "whispers":
            expected = printed[:1]
        whole = reason in {"completed", "raised"}
        own = printed[: len(expected)]
        if own != expected[: len(own)] or (whole and len(own) < len(expected)):
            yield f"attempt {number} ({reason}) printed {own[:50]}, expected {expected[:50]}"
        # The traceback of the one that raises is there too, also where its end was not told in time.
        elif len(printed) > len(expected) and (told.flow, number) != ("stumbles", 1):
            yield f"attempt {number} ({reason}) has {len(printed)} lines, expected {len(expected)}"


def _expected(told: Told, attempt: int) -> list[str]:
    return [f"{attempt} line {number}" for number in range(told.parameters.get("lines", 0))]


def _value(run: str, told: Told, signed: Mapping[int, Signed], hits: Hits) -> Iterator[str]:
    """What is read back is what was returned."""
    if told.state != "succeeded":
        return
    wanted: Any = told.parameters.get("lines")
    if told.flow == "returns":
        wanted = "x" * told.parameters["size"]
    elif told.flow == "whispers":
        wanted = len(SECRET)
    if told.value != wanted:
        yield f"its result is {str(told.value)[:50]!r}, expected {str(wanted)[:50]!r}"
