"""What Job and pod say of an attempt whose own words are missing, or are not all; in the cluster's words."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from flow_agent.errors import LaunchError
from flow_agent.launchers.kubernetes_job import CONTAINER
from flow_agent.launchers.kubernetes_watch import Sight
from flow_agent.model import Ending
from flow_agent.redact import known

_BY_SIGNAL = 128
OUT_OF_MEMORY = "the kernel killed its container because that ran out of its memory (OOMKilled)"
NEVER_STARTS = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
"""Reasons of a terminated container whose program never ran."""
HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons of a waiting container that no time will better."""
IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})
_OF_NODES = frozenset({"NodeLost", "NodeShutdown", "Terminated", "Shutdown"})
"""Reasons of a pod whose node went away or was shut down."""
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted",
    "TerminationByKubelet": "evicted by its node",
    "PreemptionByScheduler": "preempted for another pod",
    "PreemptionByKubeScheduler": "preempted for another pod",
    "DeletionByTaintManager": "deleted because its node was lost or tainted",
    "DeletionByPodGC": "deleted because its node is gone",
}


def container(pod: Mapping[str, Any] | None, name: str = CONTAINER) -> Mapping[str, Any]:
    """The status of one container of the pod; empty while there is none."""
    status = (pod or {}).get("status") or {}
    all_of_them = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return next((each for each in all_of_them if each.get("name") == name), {})


def state(sight: Sight) -> str:
    """``waits`` until the container runs, ``runs``, or ``ended``, when nothing of the attempt can be running."""
    if sight.pod_gone:
        return "ended"
    if sight.pod is not None:
        now = container(sight.pod).get("state") or {}
        phase = (sight.pod.get("status") or {}).get("phase")
        if now.get("terminated") or phase in {"Failed", "Succeeded"}:
            return "ended"
        return "runs" if now.get("running") else "waits"
    over = sight.job_gone or any(condition(sight.job, kind) for kind in ("Failed", "Complete"))
    return "ended" if over else "waits"


def condition(found: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """The condition of that type, if it is True."""
    conditions = ((found or {}).get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind and each.get("status") == "True"), {})


def told(sight: Sight) -> bool:
    """Whether the cluster has said of the Job and of its pod how they ended."""
    if sight.job_gone:
        return True
    ended = (container(sight.pod).get("state") or {}).get("terminated")
    return bool(condition(sight.job, "Failed")) and (sight.pod_gone or bool(ended))


def lost_node(sight: Sight) -> bool:
    """Whether the pod is on a node that nobody hears of any more, and was given up by the cluster."""
    if sight.pod is None or not sight.pod["metadata"].get("deletionTimestamp"):
        return False
    status = sight.pod.get("status") or {}
    by = condition(sight.pod, "DisruptionTarget").get("reason")
    return status.get("reason") == "NodeLost" or by == "DeletionByTaintManager"


def waits_for(sight: Sight) -> tuple[str, bool]:
    """What an attempt waits for, in the cluster's words, and whether it waits in vain."""
    if sight.pod is None:
        return "the Job has no pod yet", False
    status = sight.pod.get("status") or {}
    conditions = status.get("conditions") or ()
    scheduled: Mapping[str, Any] = next((each for each in conditions if each.get("type") == "PodScheduled"), {})
    if scheduled.get("status") == "False":
        return _words(scheduled, "it is not scheduled"), False
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if waiting := (each.get("state") or {}).get("waiting"):
            if waiting.get("reason") == "PodInitializing":
                continue
            return _words(waiting, f"container {each.get('name')} waits"), waiting.get("reason") in HOPELESS
    return f"its pod is {status.get('phase', 'Pending')}", False


def not_started(sight: Sight, seconds: float | None, words: str = "") -> LaunchError:
    """The error of an attempt that waited in vain, for ``seconds``; ``words`` are further ones of the cluster."""
    found = waits_for(sight)[0]
    reason = found.partition(":")[0]
    what = "its image could not be pulled" if reason in IMAGE else "it was never started"
    hint = "see the image's name, its registry, and image_pull_secrets" if reason in IMAGE else None
    if reason == "Unschedulable":
        what, hint = "no node could take it", "ask for less, or let the cluster have more or other nodes"
    if "exceeded quota" in words:
        what, hint = "the quota of its namespace is used up", "ask for less, or raise the quota"
    waited = f" within {seconds:g} s (kubernetes.pending)" if seconds is not None else ""
    said = "; ".join(part for part in (found, words) if part)
    return LaunchError(known.text(f"{what}{waited}: {said}"), hint=hint)


def ending(sight: Sight, *, stopped: bool, tail: str, said: str) -> Ending:  # noqa: PLR0911 - a list of cases
    """The ending of an attempt that left no words of its own; ``said`` is what else stood in its output.

    Raises LaunchError: its program never ran.
    """
    found = container(sight.pod).get("state", {}).get("terminated") or {}
    code = found.get("exitCode")
    number = code - _BY_SIGNAL if code is not None and _BY_SIGNAL < code < 2 * _BY_SIGNAL - 1 else None
    how: dict[str, Any] = {"code": None if number else code, "signal": number}
    how |= {"at": _moment(found.get("finishedAt")), "tail": tail}
    if stopped:
        return Ending(**{**how, "code": None, "signal": number or signal.SIGKILL}, ended_by="stop")
    if found.get("reason") == "OOMKilled":
        return Ending(**how, memory=OUT_OF_MEMORY)
    if found.get("reason") in NEVER_STARTS:
        raise LaunchError(
            known.text(f"its container could not be started: {_words(found, 'no reason is given')}"),
            hint="see that the image has what runs the flow: `flow-agent`, or python3 where kubernetes.agent_image"
            " is set",
        )
    if (deadline := _deadline(sight)) is not None:
        return Ending(**how, cpu=deadline)
    if (why := _disrupted(sight)) is not None:
        return Ending(**how, lost=why)
    if (init := _failed_init(sight.pod)) is not None:
        raise LaunchError(known.text(init), hint="see kubernetes.agent_image")
    if sight.pod is None and (failed := condition(sight.job, "Failed")):
        return Ending(lost=known.text(f"its Job failed without a pod that we saw: {_words(failed, '')}"), tail=tail)
    if sight.job_gone:
        return Ending(**how, lost="its Job was deleted, by somebody other than its agent")
    if sight.pod_gone and not found:
        return Ending(lost="its pod was deleted, by somebody other than its agent", tail=tail)
    text = f"its container ended without a word of what it started (exit code {code}"
    text += f", {found['reason']})" if found.get("reason") else ")"
    return Ending(**how, lost=known.text(f"{text}: {said}" if said else text))


def disturbed(sight: Sight) -> str:
    """Why an attempt that we did not stop was asked to end."""
    return (
        _deadline(sight)
        or _disrupted(sight)
        or (
            "its Job was deleted, by somebody other than its agent"
            if sight.job_gone
            else "its pod was asked to end, by somebody other than its agent: it was deleted, or its node was drained"
        )
    )


def corrected(told: Ending, sight: Sight, *, stopped: bool) -> Ending:
    """What the attempt tells of its own end, with what only the cluster knows of it."""
    if told.ended_by == "stop" and not stopped:
        if (deadline := _deadline(sight)) is not None:
            return replace(told, ended_by=None, cpu=deadline, receipt=None)
        return replace(told, ended_by=None, lost=disturbed(sight))
    out = (container(sight.pod).get("state") or {}).get("terminated", {}).get("reason") == "OOMKilled"
    if out and told.code != 0 and told.memory is None and told.ended_by is None:
        return replace(told, memory=OUT_OF_MEMORY)
    return told


def _deadline(sight: Sight) -> str | None:
    failed = condition(sight.job, "Failed") or condition(sight.job, "FailureTarget")
    if failed.get("reason") == "DeadlineExceeded":
        return known.text(f"its Job ran longer than its activeDeadlineSeconds: {_words(failed, '')}")
    status = (sight.pod or {}).get("status") or {}
    if status.get("reason") == "DeadlineExceeded":
        return known.text(f"its pod ran longer than its activeDeadlineSeconds: {_words(status, '')}")
    return None


def _disrupted(sight: Sight) -> str | None:
    status = (sight.pod or {}).get("status") or {}
    if target := condition(sight.pod, "DisruptionTarget"):
        what = _DISRUPTIONS.get(str(target.get("reason")), "disrupted")
        return known.text(f"its pod was {what}: {_words(target, '')}")
    if status.get("reason") == "Evicted":
        return known.text(f"its pod was evicted: {_words(status, '')}")
    if status.get("reason") in _OF_NODES or status.get("phase") == "Unknown":
        return known.text(f"its node was lost: {_words(status, 'no word of it')}")
    return None


def _failed_init(pod: Mapping[str, Any] | None) -> str | None:
    for each in ((pod or {}).get("status") or {}).get("initContainerStatuses") or ():
        ended = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"its init container {each.get('name')} ended with code {ended['exitCode']}: {_words(ended, '')}"
    return None


def _words(found: Mapping[str, Any], otherwise: str) -> str:
    return ": ".join(str(found[name]).strip() for name in ("reason", "message") if found.get(name)) or otherwise


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
