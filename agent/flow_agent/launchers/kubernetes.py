"""Attempts in Jobs of a Kubernetes cluster, each in a pod that prepares itself (``inside``).

A Job is made suspended, with a Secret that belongs to it; once the start is written down it is let go. What the pod
writes and how it ends is followed from wherever an agent is; nothing of it depends on that agent, so any agent of this
cluster and namespace goes on with it. The ref of an attempt is ``namespace/name/uid`` of its Job.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from flow_agent import events, retry
from flow_agent.cluster import access
from flow_agent.cluster.client import Cluster, connected, forbidden
from flow_agent.errors import ClusterError, LaunchError
from flow_agent.launchers import kubernetes_ends as ends
from flow_agent.launchers import kubernetes_job as jobs
from flow_agent.launchers.handed import FAILED, ending_of, orders_of, reason_of
from flow_agent.launchers.kubernetes_allow import refuse
from flow_agent.launchers.kubernetes_held import Held, Jobs
from flow_agent.launchers.kubernetes_log import PodLog
from flow_agent.launchers.kubernetes_stop import Remains, Stop
from flow_agent.launchers.kubernetes_watch import Sight
from flow_agent.model import Ending, LaunchSpec
from flow_agent.ports import Sink

TOLD_WITHIN = 10.0
"""Seconds for which whoever lets a Job go waits for that; an API server that is away gets the word later."""
SETTLED = 3.0
"""Seconds that the cluster may take to say why a pod is gone."""
READ_WITHIN = 60.0
"""Seconds for which the output of a container that has ended is asked for: its node may be gone."""
HUNG = 10.0
"""Seconds for which a stream may go on after its container has ended."""


class KubernetesLauncher:
    """Gives each attempt a Job of its own. ``pending``: seconds that a pod may take until its container runs."""

    name = "kubernetes"
    takes_secrets = True

    def __init__(
        self, cluster: Cluster, tasks: anyio.abc.TaskGroup, wishes: jobs.Wishes, *, keep: str, pending: float
    ) -> None:
        self._cluster, self._tasks, self._wishes = cluster, tasks, wishes
        self._keep, self._pending = keep, pending
        self._home = cluster.access.namespace
        self.scope = f"{cluster.access.identity}/{self._home}"
        self._jobs = Jobs(cluster, tasks)
        self._stop = Stop(self._jobs)
        self._remains = Remains(self._jobs)

    async def create(self, spec: LaunchSpec) -> str:
        """Make a suspended Job, and its Secret."""
        namespace = jobs.namespace_of(spec, self._home)
        refuse(spec, self._wishes.allow, namespace=self._home, account=self._wishes.service_account)
        nonce = secrets.token_hex(8)
        made = jobs.job(spec, self._wishes, namespace=namespace, nonce=nonce)
        orders = orders_of(spec, nonce, fetch_for=self._wishes.fetch_for, write_for=self._wishes.write_for)
        try:
            job = await self._jobs.make(made)
            held = self._jobs.hold(job)
            try:
                image = jobs.image_of(spec, self._wishes)
                owned = jobs.secret(spec, orders, namespace=namespace, uid=held.uid, image=image)
                await self._jobs.make_secret(owned)
            except BaseException:
                self._jobs.forget(held.ref)
                with anyio.move_on_after(TOLD_WITHIN, shield=True), contextlib.suppress(ClusterError):
                    await self._jobs.delete(held.ref)
                raise
        except ClusterError as error:
            full = error.status == 403 and "exceeded quota" in str(error)  # the API has no other word for it
            raise LaunchError(str(error), transient=error.transient or full, hint=error.hint) from error
        return held.ref

    async def go(self, ref: str) -> None:
        """Let the Job go; while the API server is away, as soon as it is back. One that was stopped stays so."""
        held = await self._jobs.known(ref)
        if held is None or held.went or held.stopped or held.going:
            return
        held.going = True
        done = anyio.Event()
        self._tasks.start_soon(self._go, held, done, name=f"go of {ref}")
        with anyio.move_on_after(TOLD_WITHIN):
            await done.wait()

    async def _go(self, held: Held, done: anyio.Event) -> None:
        try:
            async with held.lock:
                if held.stopped:
                    return
                held.went = True  # from the first try on it may have gone
                patch = {"metadata": {"annotations": {jobs.WENT: "true"}}, "spec": {"suspend": False}}
                await self._jobs.patch(held, patch, lambda: held.stopped or held.forgotten)
        except ClusterError as error:
            held.failure = LaunchError(f"the Job could not be let go: {error}", hint=error.hint)
        finally:
            done.set()
            held.sight.tell()

    async def extend(self, ref: str, deadline: float) -> None:
        """Nothing: a Job outlives the lease of whoever watches it."""

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        """Follow the Job to its end."""
        held = await self._jobs.known(ref)
        if held is None:
            return Ending(lost=f"there is no such Job as {ref}")
        log = PodLog(self._cluster, ref, held.nonce, attempt=attempt, after=after)
        try:
            ending = await self._ending(held, log, sink)
        except LaunchError:
            held.failed = True
            held.over = ends.state(held.sight) == "ended"
            raise
        held.over = True
        held.failed = not (ending.code == 0 and (ending.receipt or {}).get("ok"))
        return ending

    async def _ending(self, held: Held, log: PodLog, sink: Sink) -> Ending:
        if not await self._begun(held):
            return Ending(signal=9, ended_by="stop")
        while True:
            seen = ends.state(held.sight)
            if seen == "ended":  # of Job and pod, the Job may be told of first
                await self._settled(held, lambda sight: sight.pod is not None or sight.job_gone or sight.pod_gone)
            if held.sight.pod is not None:
                await self._read(held, log, sink, follow=seen == "runs")
            if log.over or seen == "ended":
                break
        if not held.stopped and (not log.over or (log.exit or {}).get("ended_by") == "stop"):
            await self._settled(held, ends.told)
        if not log.over:
            words = ends.container(held.sight.pod).get("state", {}).get("terminated", {}).get("message")
            log.last_words(words or "")
        return self._judged(held, log)

    async def _begun(self, held: Held) -> bool:
        """Whether its container has begun, or the attempt ended before it could; if not, it was stopped.

        Raises LaunchError: it waited in vain.
        """
        sight = held.sight
        until = anyio.current_time() + self._pending
        while ends.state(sight) == "waits":
            if held.failure is not None:
                raise held.failure
            if held.stopped and (not held.went or held.settled):
                return False
            if held.went and ends.waits_for(sight)[1]:
                raise ends.not_started(sight, None)
            changed = sight.changed
            with anyio.move_on_after(until - anyio.current_time() if held.went else None) as scope:
                await changed.wait()
            if scope.cancelled_caught and not held.stopped:
                blind = self._jobs.watch(held.namespace).refusal
                said = str(blind) if blind is not None else await self._jobs.complaints(held)
                raise ends.not_started(sight, self._pending, said)
        return True

    async def _read(self, held: Held, log: PodLog, sink: Sink, *, follow: bool) -> None:
        """Read what there is, and with ``follow`` what comes until its container has ended."""
        pod = held.sight.pod
        assert pod is not None
        read = partial(log.read, held.namespace, pod["metadata"]["name"], sink, follow=follow)

        async def once() -> None:
            if not follow:
                await read()
                return
            failure: Exception | None = None
            async with anyio.create_task_group() as group:
                group.start_soon(self._cut_when_dead, held, group.cancel_scope)
                try:
                    await read()
                except Exception as error:  # noqa: BLE001 - raised again outside: a task group would wrap it
                    failure = error
                group.cancel_scope.cancel()
            if failure is not None:
                raise failure
            if not log.over and ends.state(held.sight) == "runs" and not await self._ends_soon(held):
                raise ClusterError("its output ended, and its container goes on", transient=True)

        until = anyio.current_time() + READ_WITHIN

        def enough() -> bool:
            # Whoever followed it reads what is left; of what has ended for good there is a last word elsewhere.
            return ends.state(held.sight) == "ended" if follow else anyio.current_time() >= until

        try:
            await retry.reached(once, partial(events.cluster_waits, held.ref), enough, forbidden)
        except ClusterError as error:
            if not follow:
                await log.miss(f"what it wrote could not be read: {error}", sink)
            elif ends.state(held.sight) != "ended":
                raise LaunchError(f"the output of the attempt cannot be read: {error}", hint=error.hint) from error

    async def _ends_soon(self, held: Held) -> bool:
        """Whether the watch tells of the end of the container, whose output has ended."""
        await self._settled(held, lambda sight: ends.state(sight) != "runs")
        return ends.state(held.sight) == "ended"

    async def _cut_when_dead(self, held: Held, scope: anyio.CancelScope) -> None:
        """Cut a stream off whose container has ended, or whose server was away."""
        shaken = self._jobs.watch(held.namespace).shaken

        async def when_ended() -> None:
            while ends.state(held.sight) != "ended":
                if ends.lost_node(held.sight):
                    await self._stop.give_up(held)
                await held.sight.changed.wait()
            await anyio.sleep(HUNG)
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(when_ended)
            await shaken.wait()
            scope.cancel()

    async def _settled(self, held: Held, told: Callable[[Sight], bool]) -> None:
        """Wait a little for what the cluster says of the end: of Job and pod one after the other, in any order."""
        with anyio.move_on_after(SETTLED):
            while not told(held.sight):
                await held.sight.changed.wait()

    def _judged(self, held: Held, log: PodLog) -> Ending:
        if log.failed is not None and not held.stopped:
            raise LaunchError(str(log.failed.get("detail", "")), reason=reason_of(log.failed.get("reason")))
        if log.exit is None:
            code = ends.container(held.sight.pod).get("state", {}).get("terminated", {}).get("exitCode")
            if code == FAILED and not held.stopped:
                raise LaunchError(f"what prepares the flow in its container failed: {log.said or 'it says nothing'}")
            return ends.ending(held.sight, stopped=held.stopped, tail=log.tail, said=log.said)
        return ends.corrected(ending_of(log.exit), held.sight, stopped=held.stopped)

    async def stop(self, ref: str, grace: float) -> None:
        """Suspend the Job, which ends its pod; that is killed if it takes longer than ``grace`` seconds."""
        held = await self._jobs.known(ref)
        if held is not None and not held.over:
            await self._stop.stop(held, grace)

    async def remove(self, ref: str) -> None:
        """Delete the Job, unless it is to be kept, and in any case its Secret."""
        held = self._jobs.forget(ref)
        if held is not None:
            wanted = self._keep == "always" or (self._keep == "failed" and held.failed)
            # One that was stopped has no pod left to look at, and never finishes, so no ttl would remove it.
            stays = wanted and held.went and not held.stopped
            await self._remains.remove(ref, stays=stays)

    def hand_over(self, ref: str) -> None:
        """See ``RemoteLauncher.hand_over``."""
        self._jobs.forget(ref)

    async def adopt(self, refs: Collection[str]) -> None:
        """Remove Jobs that were never let go, and that nobody can mean to let go any more."""
        await self._remains.clear(self._home, refs)

    async def sweep(self) -> None:
        """Remove what could not be removed, once that can be. Ends by being cancelled."""
        await self._remains.sweep()


@contextlib.asynccontextmanager
async def open_launcher(
    _home: Path, agent: str, options: Mapping[str, Any] = MappingProxyType({})
) -> AsyncGenerator[KubernetesLauncher]:
    """The launcher of one agent; ``options`` are the settings below ``kubernetes``. Closing it leaves its Jobs alone.

    Raises InvalidInput: the kubeconfig does not fit. ClusterError: there is no cluster.
    """
    where = {name: options[name] for name in ("kubeconfig", "context", "namespace", "cluster") if options.get(name)}
    found = await anyio.to_thread.run_sync(partial(access.found, **where))
    async with connected(found) as cluster, anyio.create_task_group() as tasks:
        launcher = KubernetesLauncher(
            cluster,
            tasks,
            jobs.Wishes.of(agent, options),
            keep=options.get("keep", "never"),
            pending=options.get("pending", 900.0),
        )
        tasks.start_soon(launcher.sweep, name="sweep of Jobs")
        try:
            yield launcher
        finally:
            tasks.cancel_scope.cancel()
