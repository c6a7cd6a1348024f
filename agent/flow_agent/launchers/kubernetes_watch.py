"""One list-then-watch loop for all Jobs and pods of an agent in one namespace, however many runs there are.

A list gives everything and the version from which a watch goes on. A watch that ends in order goes on from its last
version; after anything else there is a list again: what was forgotten meanwhile (410), what a server that was killed or
frozen never said. So nothing is learned from an event alone that a list would not tell.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from flow_agent import events, retry
from flow_agent.cluster.client import GONE, Cluster
from flow_agent.errors import ClusterError
from flow_agent.launchers.kubernetes_job import JOB, SELECTOR
from flow_agent.launchers.lines import Lines

KINDS = {"jobs": "/apis/batch/v1/namespaces/{}/jobs", "pods": "/api/v1/namespaces/{}/pods"}
PAGE = 500
WATCH_FOR = 60
"""Seconds after which the server ends a watch in order."""
LATE = 15.0
"""Seconds beyond that after which a watch that says nothing has failed: its server is frozen, or out of reach."""
REFUSED = 30.0
"""Seconds before what was refused for good (403) is asked for again: somebody may see to it."""
AGAIN = 1.0
"""Seconds between two lists at least."""

Object = Mapping[str, Any]


@dataclass
class Sight:
    """What is known of one Job and its pod. ``uid`` is the Job's; objects of another of that name are not of ours."""

    uid: str
    job: Object | None = None
    pod: Object | None = None
    job_gone: bool = False
    pod_gone: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)

    def take(self, kind: str, found: Object | None) -> None:
        """Learn how the Job or the pod is now; None: it is there no more."""
        if kind == "jobs":
            self.job, self.job_gone = found or self.job, found is None
        elif found is not None or self.pod is not None:
            self.pod, self.pod_gone = found or self.pod, found is None
        self.tell()

    def tell(self) -> None:
        """Wake who waits for a change."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class Watch:
    """Of the namespace ``namespace``; ``sights`` are by the names of Jobs, others are nobody's business here."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self.sights: dict[str, Sight] = {}
        self.shaken = anyio.Event()
        """Set, and replaced, when a watch was cut off: whoever follows something else there should look, too."""
        self.refusal: ClusterError | None = None
        """Why nothing can be seen at all, while that is so."""

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as group:
            for kind in KINDS:
                group.start_soon(self._kind, kind, name=f"watch of {kind} in {self._namespace}")

    async def _kind(self, kind: str) -> None:
        while True:
            try:
                await retry.reached(partial(self._listed_and_watched, kind), partial(self._waits, kind))
            except ClusterError as error:
                if error.status == GONE:
                    await anyio.sleep(AGAIN)
                    continue
                self.refusal = error
                events.cluster_refuses(f"{kind} in {self._namespace}", REFUSED, error)
                await anyio.sleep(REFUSED)

    def _waits(self, kind: str, wait: float, error: BaseException) -> None:
        events.cluster_waits(f"watching {kind} in {self._namespace}", wait, error)
        shaken, self.shaken = self.shaken, anyio.Event()
        shaken.set()

    async def _listed_and_watched(self, kind: str) -> None:
        """Raises ClusterError: the watch failed, or its version is forgotten (410)."""
        version = await self._list(kind)
        while True:
            began = anyio.current_time()
            version = await self._watched(kind, version)
            if anyio.current_time() - began < AGAIN:  # a server that ends each watch at once is not asked all the time
                await anyio.sleep(AGAIN)

    async def _list(self, kind: str) -> str:
        found: dict[str, Object] = {}
        query: dict[str, Any] = {"labelSelector": SELECTOR, "limit": PAGE}
        while True:
            page = await self._cluster.call("GET", self._path(kind), f"listing {kind}", query=query)
            for each in page.get("items") or ():
                name = _job_of(each)
                if name in self.sights and self._belongs(kind, each, self.sights[name]):
                    found[name] = each
            version = str(page["metadata"].get("resourceVersion", ""))
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        self.refusal = None
        for name, sight in list(self.sights.items()):
            known = sight.job if kind == "jobs" else sight.pod
            if name in found:
                if found[name] != known:
                    sight.take(kind, found[name])
            elif known is not None and _version(known) <= _number(version):
                sight.take(kind, None)
        return version

    async def _watched(self, kind: str, version: str) -> str:
        query = {
            "labelSelector": SELECTOR,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_FOR,
        }
        quiet = WATCH_FOR + LATE
        async with self._cluster.lines(self._path(kind), f"watching {kind}", query=query, quiet=quiet) as pieces:
            async for event in _events(pieces):
                version = self._take(kind, event) or version
        return version

    def _take(self, kind: str, event: Mapping[str, Any]) -> str:
        found = event["object"]
        if event["type"] == "ERROR":
            raise ClusterError(
                f"watching {kind}: {found.get('message')}",
                transient=found.get("code") != GONE,
                status=found.get("code"),
                reason=str(found.get("reason", "")),
            )
        if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
            sight = self.sights.get(_job_of(found))
            if sight is not None and self._belongs(kind, found, sight):
                if event["type"] == "DELETED":
                    sight.take(kind, found)  # its last state
                    sight.take(kind, None)
                else:
                    sight.take(kind, found)
        return str(found["metadata"].get("resourceVersion", ""))

    @staticmethod
    def _belongs(kind: str, found: Object, sight: Sight) -> bool:
        if kind == "jobs":
            return bool(found["metadata"].get("uid") == sight.uid)
        owners = found["metadata"].get("ownerReferences") or ()
        if not any(owner.get("uid") == sight.uid for owner in owners):
            return False
        return sight.pod is None or sight.pod["metadata"]["uid"] == found["metadata"]["uid"]

    def _path(self, kind: str) -> str:
        return KINDS[kind].format(self._namespace)


def _job_of(found: Object) -> str:
    return str((found["metadata"].get("labels") or {}).get(JOB, ""))


def _version(found: Object) -> int:
    return _number(found["metadata"].get("resourceVersion", ""))


def _number(version: str) -> int:
    """Versions are opaque by their contract and numbers in every server; what is none is taken for old."""
    return int(version) if version.isdigit() else 0


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    lines = Lines()
    async for piece in pieces:
        for line in lines.feed(piece):
            if line.strip():
                try:
                    yield dict(json.loads(line))
                except ValueError as error:
                    raise ClusterError("watching: an event is no JSON object", transient=True) from error
