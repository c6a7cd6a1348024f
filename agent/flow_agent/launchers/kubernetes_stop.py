"""How a Job is ended: suspended, so that no other pod comes, and its pod with it; and how it is removed."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import anyio

from flow_agent import events
from flow_agent.errors import ClusterError
from flow_agent.launchers import kubernetes_ends as ends
from flow_agent.launchers import kubernetes_job as jobs
from flow_agent.launchers.kubernetes_held import Held, Jobs, ref_of

HUNG = 15.0
"""Seconds after its grace at which a pod that has not ended is taken from the cluster."""
SWEEP = 15.0
"""Seconds between two tries to remove what could not be removed."""
ABANDONED = 7200.0
"""Seconds after which nobody means to let a suspended Job go any more."""
LOOK_AROUND = 900.0
"""Seconds between two looks for Jobs that were never let go."""
LAST_TRY = 5.0
"""Seconds for which an agent that ends tries it once more."""
REMOVED_WITHIN = 30.0
"""Seconds for which whoever removes a Job waits for that."""
NO_POD = 2.0
"""Seconds after which a suspended Job without a pod will have none."""


class Stop:
    """Ends Jobs of ``jobs``."""

    def __init__(self, held: Jobs) -> None:
        self._jobs = held

    async def stop(self, held: Held, grace: float) -> None:
        """Ask, wait up to ``grace`` seconds, kill."""
        held.stopped = True
        held.sight.tell()
        try:
            async with held.lock:  # else what lets it go could come in behind us
                if not held.went:
                    return
                patch = {"metadata": {"annotations": {jobs.STOPPED: "true"}}, "spec": {"suspend": True}}
                await self._jobs.patch(held, patch, lambda: held.over or ends.state(held.sight) == "ended")
            pod = held.sight.pod
            if pod is not None and grace < (pod["spec"].get("terminationGracePeriodSeconds") or 30):
                await self._jobs.delete_pod(held, max(1, math.ceil(grace)))
            if not await self._ended(held, grace + HUNG):
                await self._jobs.delete_pod(held, 0)
                await self._ended(held, HUNG)
        except ClusterError as error:
            if not error.missing and error.status not in {409, 422}:  # it is gone, or another one
                events.cluster_waits(held.ref, 0.0, error)
        held.settled = True
        held.sight.tell()

    async def give_up(self, held: Held) -> None:
        """Take a pod from the cluster that is on a lost node: nobody else will say that it has ended."""
        try:
            await self._jobs.delete_pod(held, 0)
        except ClusterError as error:
            events.cluster_waits(held.ref, 0.0, error)

    @staticmethod
    async def _ended(held: Held, seconds: float) -> bool:
        """Whether nothing of it runs, within so many seconds."""
        with anyio.move_on_after(seconds):
            while not held.over and ends.state(held.sight) != "ended":
                changed = held.sight.changed
                with anyio.move_on_after(NO_POD if held.sight.pod is None else None) as quiet:
                    await changed.wait()
                if quiet.cancelled_caught:
                    return True
            return True
        return False


class Remains:
    """What is left of attempts that have ended."""

    def __init__(self, held: Jobs) -> None:
        self._jobs = held
        self._left: dict[str, bool] = {}
        """Refs of what could not be removed, and whether the Job itself is to stay."""

    async def remove(self, ref: str, *, stays: bool) -> None:
        """Delete the Job, or, if that ``stays``, only its Secret; what cannot be done now is done later."""
        try:
            with anyio.fail_after(REMOVED_WITHIN):
                await (self._jobs.delete_secret if stays else self._jobs.delete)(ref)
        except (ClusterError, TimeoutError) as error:
            self._left[ref] = stays
            events.job_left(ref, error)
        else:
            self._left.pop(ref, None)

    async def clear(self, namespace: str, refs: Collection[str]) -> None:
        """Remove the Jobs of a namespace, other than ``refs``, that nobody can mean to let go any more."""
        try:
            left = [ref_of(job) for job in await self._jobs.others(namespace) if _abandoned(job)]
            for ref in left:
                if ref not in refs:
                    await self.remove(ref, stays=False)
        except ClusterError as error:
            events.cluster_waits("Jobs that were never let go", 0.0, error)

    async def sweep(self) -> None:
        """Try again what could not be done, and look for what nobody lets go any more; until cancelled, with a last
        try."""
        looked = anyio.current_time()
        try:
            while True:
                await anyio.sleep(SWEEP)
                if anyio.current_time() - looked >= LOOK_AROUND:
                    for namespace in self._jobs.namespaces:
                        await self.clear(namespace, ())
                    looked = anyio.current_time()
                await self._again()
        finally:
            with anyio.move_on_after(LAST_TRY, shield=True):
                await self._again()

    async def _again(self) -> None:
        for ref, stays in list(self._left.items()):
            await self.remove(ref, stays=stays)


def _abandoned(job: Mapping[str, Any]) -> bool:
    """Whether it was made long ago, and never let go."""
    metadata = job["metadata"]
    made = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    parked = job["spec"].get("suspend") and jobs.WENT not in (metadata.get("annotations") or {})
    return bool(parked) and time.time() - made > ABANDONED
