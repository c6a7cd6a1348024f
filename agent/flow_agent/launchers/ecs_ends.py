"""What ECS says of an attempt whose own words are missing, or are not all; in its own words."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from flow_agent.errors import LaunchError
from flow_agent.launchers.handed import FAILED, WORDLESS
from flow_agent.model import Ending, Reason
from flow_agent.redact import known

_BY_SIGNAL = 128
_CAPACITY = ("Capacity is unavailable", "RESOURCE:", "no container instance met all", "insufficient capacity")
_WAITING = frozenset({"PROVISIONING", "PENDING", "ACTIVATING"})
_IMAGE = ("CannotPull", "CannotInspectContainerError", "ImageNotFound", "manifest unknown")
_SECRET = ("ResourceInitializationError", "unable to pull secrets", "AccessDenied")


def state(task: Mapping[str, Any] | None) -> str:
    """``waits`` until its container runs, ``runs``, or ``ended``, when nothing of the attempt can be running."""
    if task is None:
        return "waits"
    if task.get("gone") or task.get("lastStatus") == "STOPPED":
        return "ended"
    return "waits" if task.get("lastStatus") in _WAITING else "runs"


def container(task: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """What ECS says of one container of the task."""
    return next((each for each in (task or {}).get("containers") or () if each.get("name") == name), {})


def is_capacity(reason: str) -> bool:
    """Whether ``reason`` says that there is no room now."""
    return any(word.lower() in reason.lower() for word in _CAPACITY)


def words(task: Mapping[str, Any] | None, name: str) -> str:
    """What ECS says of the end."""
    found = [str((task or {}).get("stoppedReason") or ""), str(container(task, name).get("reason") or "")]
    return known.text(": ".join(part for part in found if part)) or "ECS gives no reason"


def not_started(task: Mapping[str, Any] | None, name: str) -> LaunchError:
    """The error of a task whose container never ran."""
    said = words(task, name)
    if any(word in said for word in _IMAGE):
        return LaunchError(
            f"its image could not be pulled: {said}",
            hint="see the image's name, ecs.execution_role, and that the subnets reach the registry",
        )
    if is_capacity(said):
        return LaunchError(
            f"there was no capacity for its task: {said}",
            hint="give other subnets, or ask for less cpu and memory",
            reason=Reason.AGENT_LOST,  # it was started, so that another try is another attempt
        )
    if any(word in said for word in _SECRET):
        return LaunchError(f"its task could not be prepared: {said}", hint="see what ecs.execution_role may read")
    return LaunchError(f"its task could not be started: {said}")


def ending(  # noqa: PLR0911 - a list of cases
    task: Mapping[str, Any], name: str, *, stopped: bool, tail: str, said: str, heard: bool, ours: bool
) -> Ending:
    """The ending of an attempt whose last word was not read; ``said`` is what else stood in its output, ``heard``
    whether there is an output that can be read, ``ours`` whether the exit code is for certain that of ``inside``, which
    ends with 0 only once it has its receipt.

    Raises LaunchError: the flow never began.
    """
    found = container(task, name)
    code = found.get("exitCode")
    number = code - _BY_SIGNAL if code is not None and _BY_SIGNAL < code < 2 * _BY_SIGNAL - 1 else None
    how: dict[str, Any] = {"code": None if number else code, "signal": number, "at": _moment(task), "tail": tail}
    if stopped:
        return Ending(**{**how, "code": None, "signal": number or signal.SIGKILL}, ended_by="stop")
    if task.get("gone"):
        return Ending(lost="ECS knows nothing of its task any more", tail=tail)
    if ours and code == 0:
        return Ending(**how, receipt={"ok": True}, stored={"result": None})
    if (memory := out_of_memory(task, name)) is not None:
        return Ending(**how, memory=memory)
    if task.get("stopCode") == "TaskFailedToStart" or (code is None and not task.get("startedAt")):
        raise not_started(task, name)
    if (why := disturbed(task, name)) is not None:
        return Ending(**how, lost=why)
    if code == FAILED:
        raise LaunchError(f"what prepares the flow in its container failed: {said or 'it says nothing that is read'}")
    if not heard and code == 0:
        return Ending(**how, receipt={"ok": True}, stored={"result": None})
    if (ours or not heard) and code == WORDLESS:
        return Ending(**{**how, "code": 0})
    if not heard and code is not None:
        return Ending(**how)
    text = f"its container ended without a word of what it started (exit code {code}; {words(task, name)})"
    return Ending(**how, lost=known.text(f"{text}: {said}" if said else text))


def out_of_memory(task: Mapping[str, Any], name: str) -> str | None:
    """What shows that memory ran out."""
    reason = str(container(task, name).get("reason") or "")
    if "OutOfMemory" in reason:
        return known.text(f"the kernel killed its container because that ran out of its memory: {reason}")
    return None


def disturbed(task: Mapping[str, Any], name: str) -> str | None:
    """Why an attempt that we did not stop was ended from outside; None: it was not."""
    kind, said = task.get("stopCode"), words(task, name)
    if kind == "UserInitiated":
        return f"its task was stopped by somebody other than its agent: {said}"
    if kind == "SpotInterruption" or "spot" in said.lower():
        return f"its task was interrupted, as spot capacity is: {said}"
    if kind in {"TerminationNotice", "ServiceSchedulerInitiated"} or "Host EC2" in said:
        return f"its host went away: {said}"
    return None


def corrected(told: Ending, task: Mapping[str, Any] | None, name: str, *, stopped: bool) -> Ending:
    """What the attempt tells of its own end, with what only ECS knows of it."""
    if task is None:
        return told
    if told.ended_by == "stop" and not stopped:
        why = (
            disturbed(task, name) or f"its task was asked to end, by somebody other than its agent: {words(task, name)}"
        )
        return replace(told, ended_by=None, lost=why)
    memory = out_of_memory(task, name)
    if memory is not None and told.code != 0 and told.memory is None and told.ended_by is None:
        return replace(told, memory=memory)
    return told


def _moment(task: Mapping[str, Any]) -> float | None:
    at = task.get("executionStoppedAt") or task.get("stoppedAt")
    return at.timestamp() if isinstance(at, datetime) else None
