"""What every queue refuses, whoever asks and by whichever way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from flow_agent.errors import InvalidInput
from flow_agent.labels import checked
from flow_agent.model import Json, Registration, Submission

PARAMETER_BYTES = 65_536
NAME_BYTES = KEY_BYTES = 1_000
LABELS_BYTES = 1_500
"""Bytes of the name of a flow and of a key in UTF-8, and of all labels of a run as JSON: what stands in an index of
PostgreSQL is at most 2,704 bytes, and there a name stands beside each of the others."""
PRIORITY_LIMIT = 2**31
"""Priorities lie between minus this and below it: what every queue can keep."""
LARGEST = 2**63 - 1
"""The largest number that every queue can keep."""
LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""The last moment at which a run may be due, in seconds since the epoch: the calendar ends soon after."""


def check_registrations(registrations: Iterable[Registration]) -> None:
    """Raises InvalidInput: not every queue can keep these."""
    for registration in registrations:
        check_text(registration.flow, "the name of a flow", NAME_BYTES)
        check_labels(checked(registration.labels))


def check_labels(labels: Iterable[str]) -> None:
    """Raises InvalidInput: they are too many, or too long, for one run."""
    size = len(json.dumps(sorted(labels)))
    if size > LABELS_BYTES:
        raise InvalidInput(
            f"the labels of a run take {size} bytes as JSON, expected at most {LABELS_BYTES}",
            hint="give fewer or shorter ones; what a run is about belongs into its parameters",
        )


def check_submissions(submissions: Iterable[Submission]) -> None:
    """Raises InvalidInput: there can be no such run."""
    for submission in {id(each): each for each in submissions}.values():  # many may be one object
        checked(submission.labels)
        check_text(submission.flow, "the name of a flow", NAME_BYTES)
        check_key(submission.key)
        check_priority(submission.priority)
        if submission.version is not None and not -LARGEST <= submission.version <= LARGEST:
            raise InvalidInput(f"version {submission.version} of flow {submission.flow!r} cannot be")
        if submission.due_at is not None:
            check_due(submission.due_at, f"{submission.due_at:g} seconds since the epoch")
        check_size(submission.flow, submission.parameters)


def check_key(key: str | None) -> None:
    """Raises InvalidInput: it is empty, as an unset variable in a script is, and all its runs would be one."""
    if key == "":
        raise InvalidInput("the idempotency key is empty", hint="leave it out, or give it a value")
    check_text(key or "", "the idempotency key", KEY_BYTES)


def check_text(text: str, what: str, most: int) -> None:
    """Raises InvalidInput: it holds half of a pair of characters, which no queue can keep, or is more than ``most``
    bytes long."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} {text!r} is no text in UTF-8, as the queue keeps it") from error
    if size > most:
        raise InvalidInput(f"{what} that begins with {text[:40]!r} is {size} bytes long, expected at most {most}")


def check_priority(priority: int) -> None:
    """Raises InvalidInput: not every queue can keep it."""
    if not -PRIORITY_LIMIT <= priority < PRIORITY_LIMIT:
        raise InvalidInput(f"priority is {priority}, expected {-PRIORITY_LIMIT} to {PRIORITY_LIMIT - 1}")


def check_due(when: float, shown: str) -> float:
    """``when``, in seconds since the epoch. Raises InvalidInput: it is later than LATEST."""
    if not math.isfinite(when) or when > LATEST:
        raise InvalidInput(f"{shown} is no time at which a run can be due", hint="give one before 9999-12-31")
    return when


def check_size(flow: str, parameters: Mapping[str, Json]) -> None:
    """Raises InvalidInput: the parameters are no JSON, or more than PARAMETER_BYTES of it."""
    what = f"flow {flow!r}: the parameters"
    try:
        for name in parameters:
            if not isinstance(name, str):
                raise InvalidInput(f"{what} have the name {name!r} ({type(name).__name__}), expected text")
        for name, value in parameters.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidInput(
                    f"{what} are kept as JSON, which {name!r} cannot be: {error}",
                    hint="give text, numbers, true, false, null, lists or tables of them",
                ) from error
        size = len(json.dumps(dict(parameters), ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} hold a character that is half of a pair, which cannot be stored") from error
    if size > PARAMETER_BYTES:
        raise InvalidInput(
            f"{what} take {size} bytes as JSON, expected at most {PARAMETER_BYTES}",
            hint="store large data elsewhere and pass its place",
        )
