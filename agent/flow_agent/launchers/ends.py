"""How the attempt of a container ended: what its keeper wrote down or, where it could not, what the engine knows."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flow_agent.launchers.contained import OUTSIDE
from flow_agent.launchers.spool import SpoolReader
from flow_agent.model import Ending
from flow_agent.redact import known

OUT_OF_MEMORY = "the kernel killed processes of its container because that ran out of its memory"
_BY_SIGNAL = 128


def wants_evidence(record: Mapping[str, Any]) -> bool:
    """Whether the engine may know better why the attempt was killed."""
    killed = record.get("signal") == signal.SIGKILL or record.get("code") == _BY_SIGNAL + signal.SIGKILL
    return killed and record.get("ended_by") is None and record.get("memory") is None


def of_record(record: Mapping[str, Any], reader: SpoolReader, *, out_of_memory: bool, stopped: bool) -> Ending:
    """The ending that the keeper's exit record tells of. ``stopped``: we wanted it to end; then it does not matter that
    somebody else, or its deadline, was there first because the engine was away."""
    by = record.get("ended_by")
    if stopped and by in {OUTSIDE, "deadline"}:
        by = "stop"
    lost = None
    if by == OUTSIDE:
        lost = (
            "its container was told to end (SIGTERM): by somebody else (`docker stop`), by the engine as that was shut"
            " down, or by the flow itself, if it signals process 1"
        )
    return Ending(
        code=record.get("code"),
        signal=record.get("signal"),
        ended_by=None if by == OUTSIDE else by,
        lost=lost,
        at=record.get("at"),
        memory=OUT_OF_MEMORY if out_of_memory else record.get("memory"),
        cpu=record.get("cpu"),
        receipt=reader.receipt,
        tail=reader.tail,
    )


def without_record(state: Mapping[str, Any] | None, away: str | None, *, stopped: bool, tail: str) -> Ending:
    """The ending of a container whose keeper could write no record. ``state`` is what the engine knows of it (None:
    nothing), ``away`` what was wrong with the engine meanwhile, ``stopped`` whether we killed it."""
    found = {} if state is None else state["State"]
    code, at = int(found.get("ExitCode") or 0), _moment(found.get("FinishedAt"))
    number = code - _BY_SIGNAL if _BY_SIGNAL < code < 2 * _BY_SIGNAL - 1 else None
    if stopped:
        return Ending(signal=signal.SIGKILL, ended_by="stop", at=at, tail=tail)
    if found.get("OOMKilled"):
        return Ending(signal=number, code=None if number else code, memory=OUT_OF_MEMORY, at=at, tail=tail)
    if state is None:
        lost = "its container is gone: somebody has removed it"
        if away is not None:
            lost = f"{away}; it did so for longer than the container may run without a word from its agent"
        return Ending(lost=lost, tail=tail)
    if away is not None:
        lost = f"the Docker engine went away while it ran, and its container did not outlive that (exit code {code})"
    elif number == signal.SIGKILL:
        lost = "its container was killed or removed from outside (`docker kill`, `docker rm`), or its engine ended"
    else:
        lost = f"its container ended without a word of its keeper (exit code {code})"
    return Ending(lost=lost, code=code, at=at, tail=tail)


def with_words(ending: Ending, said: str) -> Ending:
    """With the last words of the keeper's stderr."""
    text = known.text(said.strip())
    return replace(ending, lost=f"{ending.lost}: {text.splitlines()[-1]}") if text else ending


def with_result(ending: Ending, result: str | None) -> Ending:
    """With the file of the return value."""
    return replace(ending, result=result)


def _moment(text: object) -> float | None:
    """An engine's time as seconds since the epoch; a year 1 means never."""
    try:
        found = datetime.strptime(str(text)[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return found.timestamp() if found.year > 1 else None


def is_success(ending: Ending) -> bool:
    """Whether the attempt came to its end as it should."""
    return ending.code == 0 and ending.lost is None and bool(ending.receipt and ending.receipt.get("ok"))
