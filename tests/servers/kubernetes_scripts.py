"""States of pods that only a script can bring about here: each as a real cluster was seen to tell of it."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

from flow_agent.launchers.handed import Mark, log_message
from flow_agent.model import LogLine
from servers.kubernetes_kubelet import Kubelet, Log, orders_of
from servers.kubernetes_store import Object, now

if TYPE_CHECKING:
    from servers.kubernetes_control import Control


async def play(script: str, pod: Object, control: Control, kubelet: Kubelet) -> None:  # noqa: C901 - cases
    """Let ``pod`` look as ``script`` says."""

    def say(**status: Any) -> None:
        kubelet.status(pod, **status)

    def condition(kind: str, reason: str, message: str, status: str = "True") -> dict[str, Any]:
        return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}

    match script:
        case "ImagePullBackOff":
            image = pod["spec"]["containers"][0]["image"]
            say(phase="Pending", waiting=("ErrImagePull", f'failed to pull image "{image}": not found'))
            await asyncio.sleep(0.2)
            say(phase="Pending", waiting=("ImagePullBackOff", f'Back-off pulling image "{image}"'))
        case "InvalidImageName":
            say(phase="Pending", waiting=("InvalidImageName", "couldn't parse image name"))
        case "Unschedulable":
            words = "0/3 nodes are available: 3 Insufficient cpu."
            say(phase="Pending", **condition("PodScheduled", "Unschedulable", words, "False"))
        case "OOMKilled":
            _runs(pod, kubelet)
            say(phase="Failed", terminated=(137, "OOMKilled", ""))
            _log(pod, kubelet).end()
        case "StartError":
            words = 'exec: "flow-agent": executable file not found in $PATH'
            say(phase="Failed", terminated=(128, "StartError", words))
            _log(pod, kubelet).end()
        case "Evicted":
            _runs(pod, kubelet)
            await asyncio.sleep(0.2)
            said = condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")
            say(phase="Running", running=True, **said)
            await asyncio.sleep(0.1)
            _gone(pod, control, kubelet)
        case "EvictedByNode":
            _runs(pod, kubelet)
            words = "The node was low on resource: memory."
            say(phase="Failed", terminated=(137, "Error", ""), reason="Evicted", message=words)
            _log(pod, kubelet).end()
        case "NodeLost":
            _runs(pod, kubelet)
            await asyncio.sleep(0.2)
            words = "Taint manager: deleting due to NoExecute taint"
            found = copy.deepcopy(pod)
            found["metadata"]["deletionTimestamp"] = now()
            found["status"] = {"phase": "Running", **condition("DisruptionTarget", "DeletionByTaintManager", words)}
            found["status"]["containerStatuses"] = [{"name": "flow", "state": {"running": {"startedAt": now()}}}]
            control.store.save("pods", found)
        case "DeletedByHand":
            _runs(pod, kubelet)
            await asyncio.sleep(0.2)
            _gone(pod, control, kubelet)
        case "Rotated":
            await _rotated(pod, kubelet)
        case "Quick":
            await _quick(pod, kubelet)
        case "LastWords":
            _runs(pod, kubelet)
            mark = Mark(orders_of(kubelet.store, pod)["nonce"])
            words = mark.line(exit={"code": 0, "receipt": {"ok": True}, "stored": {"result": {"inline": 5}}})
            kubelet.logs.pop((pod["metadata"]["uid"], "flow")).end()
            say(phase="Succeeded", terminated=(0, "Completed", words.decode()))
        case _:
            raise AssertionError(script)


def _log(pod: Object, kubelet: Kubelet) -> Log:
    return kubelet.logs.setdefault((pod["metadata"]["uid"], "flow"), Log())


def _runs(pod: Object, kubelet: Kubelet) -> None:
    _log(pod, kubelet)
    kubelet.status(pod, phase="Running", running=True)


def _gone(pod: Object, control: Control, kubelet: Kubelet) -> None:
    metadata = pod["metadata"]
    found = control.store.objects.get(("pods", metadata["namespace"], metadata["name"]))
    kubelet.logs.pop((metadata["uid"], "flow")).end()
    if found is not None:
        control.store.remove("pods", found)


async def _rotated(pod: Object, kubelet: Kubelet) -> None:
    """Its node dropped lines 3 to 5 before anybody read them."""
    mark, log = Mark(orders_of(kubelet.store, pod)["nonce"]), _log(pod, kubelet)
    for seq in range(1, 8):
        line = LogLine(attempt=1, source="flow", seq=seq, time=1_000.0 + seq, text=f"line {seq}")
        written = mark.line(**log_message(seq, line))
        if seq not in {3, 4, 5}:
            log.add(written)
    log.add(mark.line(exit={"code": 0, "receipt": {"ok": True}, "stored": {"result": None}}))
    log.end()
    kubelet.status(pod, phase="Running", running=True)
    kubelet.status(pod, phase="Succeeded", terminated=(0, "Completed", ""))


async def _quick(pod: Object, kubelet: Kubelet) -> None:
    """What a run does that takes no time, without a process: for measuring the agent alone."""
    mark, log = Mark(orders_of(kubelet.store, pod)["nonce"]), _log(pod, kubelet)
    kubelet.status(pod, phase="Running", running=True)
    await asyncio.sleep(0.3)
    line = LogLine(attempt=1, source="flow", seq=1, time=1_000.0, text="hello")
    log.add(mark.line(**log_message(1, line)))
    log.add(mark.line(exit={"code": 0, "receipt": {"ok": True}, "stored": {"result": {"inline": 5}}}))
    log.end()
    kubelet.status(pod, phase="Succeeded", terminated=(0, "Completed", ""))
