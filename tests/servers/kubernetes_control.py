"""The stand-in's controllers: from Jobs to pods and back, and what is deleted with what."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from servers.kubernetes_kubelet import SCRIPTS, Kubelet
from servers.kubernetes_scripts import play
from servers.kubernetes_store import Object, Store, now

FOREGROUND = "foregroundDeletion"


class Control:
    def __init__(self, store: Store, kubelet: Kubelet) -> None:
        self.store, self.kubelet = store, kubelet
        self.quota: str | None = None
        """Why no pod can be made, if none can."""
        self._deadlines: set[str] = set()

    async def run(self) -> None:
        """Bring everything to where it should be, whenever something changed."""
        while True:
            changed = self.store._changed
            for key in [key for key in self.store.objects if key[0] == "jobs"]:
                if (job := self.store.objects.get(key)) is not None:
                    self._see_to(job)
            await changed.wait()

    def pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [
            pod
            for (kind, _, _), pod in self.store.objects.items()
            if kind == "pods" and any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or ())
        ]

    def _see_to(self, job: Object) -> None:
        conditions = (job.get("status") or {}).get("conditions") or []
        if any(each["type"] in {"Failed", "Complete"} and each["status"] == "True" for each in conditions):
            return
        pods = self.pods_of(job)
        if job["spec"].get("suspend"):
            for pod in pods:
                if (pod.get("status") or {}).get("phase") in {"Pending", "Running"}:
                    self.delete_pod(pod, None)
            return
        annotations = job["metadata"].setdefault("annotations", {})
        if not pods and "stand-in/pod-made" not in annotations:
            self._begin(job)
        elif not pods:
            self._condition(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        else:
            phase = (pods[0].get("status") or {}).get("phase")
            if phase == "Succeeded":
                self._condition(job, "Complete", "CompletionsReached", "")
            elif phase == "Failed":
                self._condition(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _begin(self, job: Object) -> None:
        metadata = job["metadata"]
        if self.quota is not None:
            self._complain(job, self.quota)
            return
        template = copy.deepcopy(job["spec"]["template"])
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        pod = {
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "labels": template["metadata"]["labels"],
                "annotations": template["metadata"].get("annotations") or {},
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        changed = copy.deepcopy(job)
        changed["metadata"]["annotations"]["stand-in/pod-made"] = "true"
        changed["status"] = {"active": 1, "startTime": now()}
        self.store.save("jobs", changed)
        made = self.store.create("pods", metadata["namespace"], pod)
        script = (job["metadata"].get("labels") or {}).get(SCRIPTS)
        self.kubelet.spawn(play(script, made, self, self.kubelet) if script else self.kubelet.run(made))
        seconds = job["spec"].get("activeDeadlineSeconds")
        if seconds:
            self.kubelet.spawn(self._deadline(changed, seconds))

    async def _deadline(self, job: Object, seconds: float) -> None:
        await asyncio.sleep(seconds)
        metadata = job["metadata"]
        found = self.store.objects.get(("jobs", metadata["namespace"], metadata["name"]))
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            return
        for pod in self.pods_of(found):
            self.delete_pod(pod, None)
        self._condition(found, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    def _complain(self, job: Object, message: str) -> None:
        metadata = job["metadata"]
        name = f"{metadata['name']}.quota"
        if ("events", metadata["namespace"], name) in self.store.objects:
            return
        involved = {"kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        event = {"metadata": {"name": name}, "involvedObject": involved, "type": "Warning", "reason": "FailedCreate"}
        self.store.create("events", metadata["namespace"], {**event, "message": message})

    def _condition(self, job: Object, kind: str, reason: str, message: str) -> None:
        changed = copy.deepcopy(job)
        status = changed.setdefault("status", {})
        told: dict[str, Any] = {"type": kind, "status": "True", "reason": reason, "message": message}
        status["conditions"] = [*(status.get("conditions") or []), told]
        status["active"] = 0
        self.store.save("jobs", changed)

    # Deleting

    def delete_pod(self, pod: Object, grace: float | None) -> None:
        metadata = pod["metadata"]
        seconds = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
        if seconds == 0:
            self.kubelet.end(pod, 0)
            self.store.remove("pods", pod)
            return
        before = metadata.get("deletionGracePeriodSeconds")
        if before is not None and before <= seconds:
            return
        changed = copy.deepcopy(pod)
        changed["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": seconds}
        self.store.save("pods", changed)
        self.kubelet.end(changed, seconds)

    def delete_job(self, job: Object, policy: str) -> None:
        self.store.remove("jobs", job)
        if policy == "Orphan":
            return
        uid = job["metadata"]["uid"]
        for (kind, _, _), found in list(self.store.objects.items()):
            if any(owner["uid"] == uid for owner in found["metadata"].get("ownerReferences") or ()):
                if kind == "pods":
                    self.delete_pod(found, None)
                else:
                    self.store.remove(kind, found)
