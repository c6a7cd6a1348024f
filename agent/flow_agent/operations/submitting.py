"""Registering flows and submitting runs of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

import anyio

from flow_agent.asked import check_due, check_key, check_priority
from flow_agent.errors import InvalidInput, ParametersInvalid, RegistrationError
from flow_agent.labels import checked
from flow_agent.model import Json, Registration, Run, Submission
from flow_agent.plugins import load
from flow_agent.ports import Queue, SecretResolver

MOST_AT_ONCE = 100_000
"""Runs of one submission: they are one transaction, which keeps other writers waiting."""

_TIDYING = 10.0
"""Seconds for removing what was stored for a registration that came to nothing."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


async def register(
    queue: Queue,
    targets: Sequence[str],
    *,
    labels: Iterable[str] = (),
    on_output: Callable[[str], None],
    secrets_of: Callable[[], AbstractAsyncContextManager[SecretResolver]],
) -> list[Registration]:
    """Register the flows of all ``targets`` in one transaction: ``FILE_OR_MODULE[:FLOW]``, or a place.

    ``labels`` are added to each flow's own. ``on_output`` gets what the files print, a line at a time.
    ``secrets_of`` this machine a place is looked at with.

    Raises RegistrationError: a file raises or holds no flow, or two targets define the same flow; nothing was
    registered. InvalidInput: a label is none.
    """
    from flow_agent.collect import collect  # noqa: PLC0415 - most verbs do not register
    from flow_agent.places import place_of, registered_in_place  # noqa: PLC0415 - as above

    wanted = tuple(sorted(checked(labels)))
    stored: list[Registration] = []
    defined_by: dict[str, str] = {}
    try:
        for target in targets:
            if (place := place_of(target)) is not None:
                found = await registered_in_place(place, labels=wanted, on_output=on_output, secrets_of=secrets_of)
            else:
                found = await collect(target, labels=wanted, on_output=on_output)
            stored += found
            for registration in found:
                _refuse_twin(registration.flow, defined_by, target)
    except BaseException:
        with anyio.move_on_after(_TIDYING, shield=True):
            await anyio.to_thread.run_sync(_discard, stored, abandon_on_cancel=True)
        raise
    # From here on the queue may have them, whatever it answers.
    return await queue.register(stored)


def _refuse_twin(flow: str, defined_by: dict[str, str], target: str) -> None:
    if flow in defined_by:
        raise RegistrationError(
            f"flow {flow!r} is defined by {defined_by[flow]} and by {target}",
            hint="give one of them another name, or register them one after the other",
        )
    defined_by[flow] = target


def _discard(registrations: Sequence[Registration]) -> None:
    from flow_agent.registration import discard  # noqa: PLC0415 - most verbs do not register

    for registration in registrations:
        storage = load("storages", registration.storage["type"])
        discard(registration, storage.from_description(registration.storage))


async def submit_runs(
    queue: Queue,
    flow: str,
    parameters: Mapping[str, Json],
    *,
    labels: Iterable[str] = (),
    priority: int = 0,
    at: float | None = None,
    key: str | None = None,
    count: int = 1,
) -> tuple[list[Run], str]:
    """Submit ``count`` equal runs of the newest version of ``flow``: the runs, and a warning (empty if none).

    ``at`` is when they are due, in seconds since the epoch; None or the past means now.

    Raises NotFound: no such flow. ParametersInvalid: they do not fit; for a script that follows its source that is
    the warning, since the attempt may load another signature. InvalidInput: a label, count, key, priority or due
    time cannot be, or no launcher such as the run config asks for can start what the storage holds.
    """
    from flow_agent.registration import check_parameters  # noqa: PLC0415 - most verbs do not submit

    if not 1 <= count <= MOST_AT_ONCE:
        raise InvalidInput(f"count is {count}, expected 1 to {MOST_AT_ONCE}")
    if key is not None and count > 1:
        raise InvalidInput(
            f"count is {count} and a key is given, which names one run only", hint="leave one of them out"
        )
    check_key(key)
    check_priority(priority)
    if at is not None:
        check_due(at, f"{at:g} seconds since the epoch")
    wanted = checked(labels)
    registration = await queue.registration(flow)
    refuse_impossible(registration)
    warning = ""
    try:
        check_parameters(registration, parameters)
    except ParametersInvalid as error:
        if registration.pinned:
            raise
        warning = f"{error}; submitted all the same, since the flow follows its source and may have changed"
    submission = Submission(
        flow=registration.flow,
        version=registration.version,
        parameters=dict(parameters),
        labels=wanted,
        priority=priority,
        due_at=at,
        key=key,
    )
    return await queue.submit([submission] * count), warning


_ELSEWHERE = frozenset({"kubernetes", "ecs"})
"""Launchers whose attempts fetch their flow themselves, on machines of their own."""


def refuse_impossible(registration: Registration) -> None:
    """See that there can be an attempt of the flow at all, wherever agents are.

    Raises InvalidInput: its storage and its launcher do not fit each other.
    """
    storage = registration.storage["type"]
    if storage == "Docker" and registration.launcher == "process":
        raise InvalidInput(
            f"flow {registration.flow!r} lies in an image (Docker storage), and its run config"
            f" {registration.run_config.get('type', 'LocalRun')} starts processes, which cannot see into one",
            hint="give it a run config DockerRun() or none, or another storage, and register it again",
        )
    if storage == "Local" and registration.launcher in _ELSEWHERE:
        raise InvalidInput(
            f"flow {registration.flow!r} lies on the machine that registered it (Local storage), and its run config"
            f" {registration.run_config.get('type')} runs it where that cannot be reached",
            hint="register it with another storage, such as S3 or a git host",
        )


async def retry_run(queue: Queue, run_id: str) -> Run:
    """A new run like the ended one: same version of the flow, parameters, labels, priority; it names the old one.

    Raises NotFound; InvalidInput: the run has not ended.
    """
    run = await queue.get(run_id)
    if not run.state.terminal:
        raise InvalidInput(
            f"run {run.id} is {run.state}, expected one that has ended", hint=f"`flow-agent cancel {run.id}` ends it"
        )
    (again,) = await queue.submit(
        [
            Submission(
                flow=run.flow,
                version=run.version,
                parameters=run.parameters,
                labels=run.labels,
                priority=run.priority,
                retry_of=run.id,
            )
        ]
    )
    return again


def parse_time(text: str, *, now: float | None = None) -> float:
    """Seconds since the epoch: ISO 8601 (local time where no offset is given), or ``+30s``, ``+5m``, ``+2h``, ``+1d``.

    Raises InvalidInput: it is neither, or later than LATEST.
    """
    if match := re.fullmatch(r"\+(\d+(?:\.\d+)?)([smhd])", text.strip()):
        seconds = float(match[1]) * _UNITS[match[2]]
        return check_due((time.time() if now is None else now) + seconds, repr(text))
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no time", hint="expected ISO 8601, as 2030-01-31T08:00:00Z, or +30s, +5m, +2h, +1d"
        ) from None
    return due_time(when)


def due_time(when: datetime) -> float:
    """Seconds since the epoch; local time where ``when`` has no zone.

    Raises InvalidInput: it is later than LATEST.
    """
    try:
        return check_due(when.timestamp(), f"{when}")
    except (ValueError, OverflowError, OSError):  # a local time at an end of the calendar
        return check_due(when.replace(tzinfo=UTC).timestamp(), f"{when}")
