"""The Jobs that an agent has to do with, and what it asks the API about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc

from flow_agent import events, retry
from flow_agent.cluster.client import Cluster, forbidden
from flow_agent.errors import ClusterError, LaunchError
from flow_agent.launchers import kubernetes_job as jobs
from flow_agent.launchers.kubernetes_watch import KINDS, Sight, Watch

REPLACED_WITHIN = 60.0
"""Seconds until the name of an earlier Job must be free."""
LOOK = 0.5
CONFLICT = 409


@dataclass
class Held:
    """One attempt's Job. ``went``: it may have been let go; ``stopped``: we have it end; ``settled``: that is done, and
    nothing of it runs; ``over``: its end was seen; ``failed``: that was no success."""

    ref: str
    nonce: str
    sight: Sight
    going: bool = False
    went: bool = False
    stopped: bool = False
    settled: bool = False
    over: bool = False
    failed: bool = False
    forgotten: bool = False
    failure: LaunchError | None = None
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def namespace(self) -> str:
        """That of the Job."""
        return self.ref.split("/")[0]

    @property
    def name(self) -> str:
        """That of the Job."""
        return self.ref.split("/")[1]

    @property
    def uid(self) -> str:
        """That of the Job."""
        return self.ref.split("/")[2]


def ref_of(job: Mapping[str, Any]) -> str:
    """The ref of an attempt by its Job."""
    return "/".join(job["metadata"][name] for name in ("namespace", "name", "uid"))


class Jobs:
    """Those of one launcher; ``tasks`` is where its namespaces are watched."""

    def __init__(self, cluster: Cluster, tasks: anyio.abc.TaskGroup) -> None:
        self._cluster, self._tasks = cluster, tasks
        self._held: dict[str, Held] = {}
        self._watches: dict[str, Watch] = {}
        self._learning: dict[str, anyio.Lock] = {}

    def watch(self, namespace: str) -> Watch:
        """The watch of a namespace, which begins when it is first asked for."""
        if namespace not in self._watches:
            self._watches[namespace] = Watch(self._cluster, namespace)
            self._tasks.start_soon(self._watches[namespace].run, name=f"watch of {namespace}")
        return self._watches[namespace]

    @property
    def namespaces(self) -> list[str]:
        """Those that are watched."""
        return list(self._watches)

    def hold(self, job: Mapping[str, Any]) -> Held:
        """From now on this Job is ours to see to."""
        metadata, ref = job["metadata"], ref_of(job)
        notes = metadata.get("annotations") or {}
        held = Held(
            ref=ref,
            nonce=notes.get(jobs.NONCE, ""),
            sight=Sight(uid=metadata["uid"], job=job),
            went=jobs.WENT in notes,
            stopped=jobs.STOPPED in notes,
        )
        self._held[ref] = held
        self.watch(held.namespace).sights[held.name] = held.sight
        return held

    def forget(self, ref: str) -> Held | None:
        """It is ours no more."""
        held = self._held.pop(ref, None)
        if held is not None:
            held.forgotten = True
            sights = self.watch(held.namespace).sights
            if sights.get(held.name) is held.sight:
                del sights[held.name]
        return held

    async def known(self, ref: str) -> Held | None:
        """What is known of it; of a Job that another agent made the cluster is asked. None: that is no ref of ours."""
        if ref in self._held or ref.count("/") != 2:
            return self._held.get(ref)
        lock = self._learning.setdefault(ref, anyio.Lock())
        async with lock:
            if ref not in self._held:
                await self._learn(ref)
        self._learning.pop(ref, None)
        return self._held[ref]

    async def _learn(self, ref: str) -> None:
        namespace, name, uid = ref.split("/")
        path = f"{KINDS['jobs'].format(namespace)}/{name}"
        pods = partial(
            self._cluster.call, "GET", KINDS["pods"].format(namespace), f"pods of {name}",
            query={"labelSelector": f"{jobs.JOB}={name}"},
        )  # fmt: skip
        try:
            job = await self._patient(ref, partial(self._cluster.call, "GET", path, f"looking at the Job {name}"))
        except ClusterError as error:
            if not error.missing:
                raise LaunchError(str(error), hint=error.hint) from error
            job = {}
        if not job or job["metadata"]["uid"] != uid:
            gone = {"metadata": {"namespace": namespace, "name": name, "uid": uid, "annotations": {jobs.WENT: "true"}}}
            self.hold(gone).sight.take("jobs", None)
            return
        held = self.hold(job)
        for pod in (await self._patient(ref, pods)).get("items") or ():
            if any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences") or ()):
                held.sight.take("pods", pod)
                break

    async def _patient(self, ref: str, call: Callable[[], Any]) -> dict[str, Any]:
        found: dict[str, Any] = await retry.reached(call, partial(events.cluster_waits, ref), refused=forbidden)
        return found

    # Making

    async def make(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Make the Job; one that an earlier claim of the same attempt left is replaced.

        Raises ClusterError. LaunchError: another's Job has that name.
        """
        metadata = job["metadata"]
        name, what = metadata["name"], f"making the Job {metadata['name']}"
        path = KINDS["jobs"].format(metadata["namespace"])
        until = anyio.current_time() + REPLACED_WITHIN
        while True:
            try:
                return await self._tried(name, partial(self._cluster.call, "POST", path, what, body=job))
            except ClusterError as error:
                if error.reason != "AlreadyExists" or anyio.current_time() > until:
                    raise
            found = await self._there(f"{path}/{name}")
            if found is None:
                continue
            notes = found["metadata"].get("annotations") or {}
            if notes.get(jobs.NONCE) == metadata["annotations"][jobs.NONCE]:
                return found  # the answer to our own request was lost
            labels = found["metadata"].get("labels") or {}
            if labels.get(jobs.RUN) != metadata["labels"][jobs.RUN]:
                raise LaunchError(
                    f"there is a Job {name} in namespace {metadata['namespace']} that flow-agent did not make",
                    hint="delete or rename it",
                )
            if int(labels.get(jobs.CLAIM) or 0) > int(metadata["labels"][jobs.CLAIM]):
                raise LaunchError(f"the Job {name} was made under a newer claim of the same run")
            if not found["metadata"].get("deletionTimestamp"):
                await self.delete(f"{metadata['namespace']}/{name}/{found['metadata']['uid']}")
            await anyio.sleep(LOOK)

    async def make_secret(self, secret: Mapping[str, Any]) -> None:
        """Make the Secret; one of an earlier Job of that name is replaced.

        Raises ClusterError.
        """
        metadata = secret["metadata"]
        path, name = f"/api/v1/namespaces/{metadata['namespace']}/secrets", metadata["name"]
        make = partial(self._cluster.call, "POST", path, f"making the Secret {name}", body=secret)
        try:
            await self._tried(name, make)
        except ClusterError as error:
            if error.reason != "AlreadyExists":
                raise
            with contextlib.suppress(ClusterError):
                await self._cluster.call("DELETE", f"{path}/{name}", f"replacing the Secret {name}")
            await self._tried(name, make)

    async def _there(self, path: str) -> dict[str, Any] | None:
        try:
            return await self._cluster.call("GET", path, "looking at a Job")
        except ClusterError as error:
            if error.missing:
                return None
            raise

    async def _tried(self, name: str, call: Callable[[], Any]) -> dict[str, Any]:
        async def on_wait(_: int, wait: float, error: BaseException) -> None:
            events.cluster_waits(name, wait, error)

        found: dict[str, Any] = await retry.fetching(retry.Policy(), call, on_wait)
        return found

    # Changing and removing

    async def patch(self, held: Held, patch: dict[str, Any], give_up: Callable[[], bool]) -> None:
        """Change the Job, again and again while the server is away; not another one of that name.

        Raises ClusterError.
        """
        path = f"{KINDS['jobs'].format(held.namespace)}/{held.name}"
        body = {**patch, "metadata": {**patch.get("metadata", {}), "uid": held.uid}}
        call = partial(self._cluster.call, "PATCH", path, f"changing the Job {held.name}", body=body)

        async def changed() -> None:
            try:
                await call()
            except ClusterError as error:
                if (
                    error.status != CONFLICT
                    or ((await self._there(path)) or {}).get("metadata", {}).get("uid") != held.uid
                ):
                    raise
                raise ClusterError(str(error), transient=True, status=CONFLICT) from error  # others changed it, too

        await retry.reached(changed, partial(events.cluster_waits, held.ref), give_up)

    async def delete_pod(self, held: Held, grace: int) -> None:
        """Have the pod end within ``grace`` seconds; 0: the cluster forgets it at once.

        Raises ClusterError.
        """
        if (pod := held.sight.pod) is None:
            return
        path = f"{KINDS['pods'].format(held.namespace)}/{pod['metadata']['name']}"
        options = {"gracePeriodSeconds": grace, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._delete(path, f"ending the pod {pod['metadata']['name']}", options)

    async def delete(self, ref: str) -> None:
        """Delete the Job, and with it what belongs to it.

        Raises ClusterError: the server is away, or refuses.
        """
        namespace, name, uid = ref.split("/")
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._delete(f"{KINDS['jobs'].format(namespace)}/{name}", f"removing the Job {name}", options)

    async def delete_secret(self, ref: str) -> None:
        """Delete the Secret of a Job that stays.

        Raises ClusterError: the server is away, or refuses.
        """
        namespace, name, _ = ref.split("/")
        await self._delete(f"/api/v1/namespaces/{namespace}/secrets/{name}", f"removing the Secret {name}", {})

    async def _delete(self, path: str, what: str, options: dict[str, Any]) -> None:
        kind = {"apiVersion": "v1", "kind": "DeleteOptions"}
        try:
            await self._tried(what, partial(self._cluster.call, "DELETE", path, what, body=kind | options))
        except ClusterError as error:
            if not error.missing and error.status != 409:  # gone, or another one by now
                raise

    # Looking

    async def complaints(self, held: Held) -> str:
        """What the cluster says of the Job in its events: why there is no pod, for one. Empty if nothing."""
        path = f"/api/v1/namespaces/{held.namespace}/events"
        query = {"fieldSelector": f"involvedObject.uid={held.uid}", "limit": 50}
        try:
            found = await self._cluster.call("GET", path, "reading events", query=query)
        except ClusterError:  # perhaps it may not: what the pod says is all then
            return ""
        said = [str(each.get("message", "")) for each in found.get("items") or () if each.get("type") == "Warning"]
        return said[-1] if said else ""

    async def others(self, namespace: str) -> list[dict[str, Any]]:
        """The Jobs of a namespace that agents have made, and that are not ours to see to. Raises ClusterError."""
        query: dict[str, Any] = {"labelSelector": jobs.SELECTOR, "limit": 500}
        found: list[dict[str, Any]] = []
        while True:
            page = await self._cluster.call("GET", KINDS["jobs"].format(namespace), "listing jobs", query=query)
            found += [job for job in page.get("items") or () if ref_of(job) not in self._held]
            if not (following := page["metadata"].get("continue")):
                return found
            query["continue"] = following
