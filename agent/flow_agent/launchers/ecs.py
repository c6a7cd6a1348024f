"""Attempts in tasks of ECS, on Fargate or EC2, each in a container that prepares itself (``inside``).

ECS has nothing that is made and waits. So the ref, which is written down before, holds the token with which the task
will be started: whoever takes the attempt over finds the task by it, or finds that there is none. A repeated request
with the same token starts no second task. It holds the nonce too, by which the log of a task is found that ECS has
forgotten.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc

from flow_agent.errors import CloudError, LaunchError
from flow_agent.launchers import ecs_ends as ends
from flow_agent.launchers import ecs_follow as follow
from flow_agent.launchers import ecs_orders as large
from flow_agent.launchers import ecs_task as made
from flow_agent.launchers.ecs_allow import refuse
from flow_agent.launchers.ecs_client import Services, connected
from flow_agent.launchers.ecs_held import Held
from flow_agent.launchers.ecs_log import TaskLog, forgotten
from flow_agent.launchers.ecs_parked import park, unpark
from flow_agent.launchers.ecs_tasks import Tasks, container_of
from flow_agent.launchers.handed import ending_of, reason_of
from flow_agent.model import Ending, LaunchSpec, LogLine
from flow_agent.ports import Sink

TOLD_WITHIN = 10.0
"""Seconds for which whoever lets an attempt go waits for that."""
FORGOTTEN = (
    "ECS knows no task of it, and no log tells of one: either none was started, because its agent ended before it had"
    " asked for it, or that ended over an hour ago, and ECS has forgotten it"
)
UNHEARD = "no log group is configured (ecs.log_group): what the flow writes is not seen, nor where its result lies"


class ECSLauncher:
    """Gives each attempt a task of its own. ``pending``: seconds that one may wait for room and for its start."""

    name = "ecs"
    takes_secrets = False

    def __init__(self, services: Services, tasks: anyio.abc.TaskGroup, wishes: made.Wishes, *, pending: float) -> None:
        self._services, self._group, self._wishes, self._pending = services, tasks, wishes, pending
        self.scope = f"{services.account}/{services.region}/{wishes.cluster}"
        self.tasks = Tasks(services)
        self._own = {
            "task_role": wishes.task_role,
            "execution_role": wishes.execution_role,
            "cluster": wishes.cluster,
        }

    async def create(self, spec: LaunchSpec) -> str:
        """See that there is a task definition; the task itself comes with ``go``."""
        refuse(spec, self._wishes.allow, self._own)
        nonce = secrets.token_hex(8)
        try:
            if (arn := spec.container.get("task_definition_arn")) is not None:
                definition = await self.tasks.described(str(arn))
                made.check_secrets(spec, container_of(definition))
            else:
                wanted = made.definition(spec, self._wishes, self._services.region)
                definition = await self.tasks.registered(wanted)
        except CloudError as error:
            raise LaunchError(str(error), transient=error.transient, hint=error.hint) from error
        container = container_of(definition)
        orders = await large.left(spec, self._wishes, nonce)
        request = made.request(
            spec,
            self._wishes,
            definition=definition,
            container=str(container["name"]),
            orders=orders,
            nonce=nonce,
        )
        held = Held(ref=f"{request['cluster']}/{request['clientToken']}/{nonce}", request=request, nonce=nonce)
        held.container = container
        return self.tasks.hold(held).ref

    async def go(self, ref: str) -> None:
        """Start the task; while there is no room or no answer, as soon as there is. One that was stopped stays so."""
        held = self.tasks.here(ref)
        if held is None or held.went or held.request is None:
            return
        held.went = True  # from here on it may have been started
        done = anyio.Event()
        self._group.start_soon(self._go, held, done, name=f"go of {ref}")
        with anyio.move_on_after(TOLD_WITHIN):
            await done.wait()

    async def _go(self, held: Held, done: anyio.Event) -> None:
        try:
            async with held.lock:
                if not held.stopped and not held.forgotten:
                    await self._unpark(held)  # first: whoever found it later must not start what has run already
                    await self.tasks.start(held, self._pending)
        except CloudError as error:
            what = (
                f"no room was found within {self._pending:g} s (ecs.pending)" if error.transient else "it was refused"
            )
            held.failure = LaunchError(f"its task could not be started, {what}: {error}", hint=error.hint)
        finally:
            done.set()
            held.tell()

    async def extend(self, ref: str, deadline: float) -> None:
        """Nothing: a task outlives the lease of whoever watches it."""

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        """Follow the task to its end."""
        try:
            held = await self.tasks.known(ref)
        except CloudError as error:
            raise LaunchError(f"its task cannot be looked for: {error}", hint=error.hint) from error
        if held is None:
            return Ending(lost=f"there is no such task as {ref}")
        if held.request is not None:
            await self.go(ref)  # it was parked
        try:
            begun = await self._begun(held)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(TOLD_WITHIN, shield=True):
                await self._leave(held)
            raise
        if not begun:
            return Ending(signal=9, ended_by="stop")
        assert held.task is not None
        if "taskArn" not in held.task:
            return await self._forgotten(held, sink, attempt=attempt, after=after)
        stream = made.stream_of(held.container, held.task["taskArn"])
        if stream is None:
            return await self._unheard(held, sink, attempt=attempt, after=after)
        log = TaskLog(self._services, ref, held.nonce, stream, attempt=attempt, after=after)
        await follow.read(held, log, sink)
        told = log.exit
        if told is not None and (told.get("ended_by") == "stop" or not (told.get("receipt") or {}).get("ok")):
            await self._ended(held, follow.BEHIND)  # only ECS knows of memory, and of who stopped it
        if log.failed is not None and not held.stopped:
            raise LaunchError(str(log.failed.get("detail", "")), reason=reason_of(log.failed.get("reason")))
        if told is None:
            return await self._untold(held, log, sink)
        return ends.corrected(ending_of(told), held.task, held.name, stopped=held.stopped)

    async def _begun(self, held: Held) -> bool:
        """Whether its container has begun, or the attempt ended before it could; if not, it was stopped.

        Raises LaunchError: it waited in vain.
        """
        until = anyio.current_time() + self._pending
        while ends.state(held.task) == "waits":
            if held.failure is not None:
                if held.stopped:
                    return False
                raise held.failure
            if held.stopped and held.settled and held.task is None:
                return False
            changed = held.changed
            with anyio.move_on_after(until - anyio.current_time() if held.task is not None else None) as scope:
                await changed.wait()
            if scope.cancelled_caught and held.cluster in self.tasks.blind:
                until = anyio.current_time() + self._pending  # it may have begun long ago
            elif scope.cancelled_caught and not held.stopped:
                status = (held.task or {}).get("lastStatus")  # before we stop it, which may be told at once
                await self.tasks.stop(held)
                raise LaunchError(
                    f"its task did not start within {self._pending:g} s (ecs.pending): it is {status}",
                    hint="see its image, its subnets, and the room of its cluster",
                )
        return True

    async def _leave(self, held: Held) -> None:
        """Where no room was found for it, see that whoever takes the attempt over can go on asking for its task."""
        if held.request is None or held.task is not None or held.stopped or held.failure is not None:
            return
        held.forgotten = True  # from now on it is not asked for here
        async with held.lock:
            if held.task is None and not held.parked:
                await park(self._services, held.ref, held.token, held.request)

    async def _unpark(self, held: Held) -> None:
        if held.parked:
            await unpark(self._services, held.ref, held.parked)
            held.parked = ""

    async def _forgotten(self, held: Held, sink: Sink, *, attempt: int, after: int) -> Ending:
        """The ending of an attempt of whose task ECS knows nothing: its log may go back further."""
        assert held.task is not None
        stream = await forgotten(self._services, held, self._wishes.log_group)
        if stream is None:
            return Ending(lost=FORGOTTEN)
        place = (self._wishes.log_group, "", stream)
        log = TaskLog(self._services, held.ref, held.nonce, place, attempt=attempt, after=after)
        await follow.look(held, log, sink)
        if log.failed is not None and not held.stopped:
            raise LaunchError(str(log.failed.get("detail", "")), reason=reason_of(log.failed.get("reason")))
        if log.exit is None:
            return Ending(lost="ECS has forgotten its task, and its log does not tell how it ended", tail=log.tail)
        return ends.corrected(ending_of(log.exit), held.task, held.name, stopped=held.stopped)

    @staticmethod
    async def _untold(held: Held, log: TaskLog, sink: Sink) -> Ending:
        """The ending of an attempt whose last word was not read."""
        assert held.task is not None
        heard, ours = log.unread is None, made.is_ours(held.container) or log.began
        if not heard:
            await log.miss(f"the log of its task cannot be read: {log.unread}", sink)
        elif ours and ends.container(held.task, held.name).get("exitCode") == 0 and not held.stopped:
            await log.miss("its last one never came, which says where its result lies", sink)
        return ends.ending(
            held.task, held.name, stopped=held.stopped, tail=log.tail, said=log.said, heard=heard, ours=ours
        )

    async def _unheard(self, held: Held, sink: Sink, *, attempt: int, after: int) -> Ending:
        if after == 0:
            line = LogLine(
                attempt=attempt, source="flow", seq=1, time=0.0, text=UNHEARD, level="WARNING",
                logger="flow_agent.launcher",
            )  # fmt: skip
            await sink([line])
        await self._ended(held, None)
        assert held.task is not None
        ours = made.is_ours(held.container)
        return ends.ending(held.task, held.name, stopped=held.stopped, tail="", said="", heard=False, ours=ours)

    @staticmethod
    async def _ended(held: Held, seconds: float | None) -> None:
        """Wait until ECS says that nothing of it runs, at most so long."""
        with anyio.move_on_after(seconds):
            while ends.state(held.task) != "ended":
                await held.changed.wait()

    async def stop(self, ref: str, grace: float) -> None:  # noqa: ARG002 - the definition says it
        """Have ECS end the task, whose definition says how long it may take."""
        held = self.tasks.here(ref) or (await self.tasks.known(ref) if "/" in ref else None)
        if held is None or ends.state(held.task) == "ended":
            return
        held.stopped = True
        held.tell()
        async with held.lock:  # else what starts it could come in behind us
            if held.went:
                await self.tasks.stop(held)
        held.settled = True
        held.tell()

    async def remove(self, ref: str) -> None:
        """Forget the attempt: ECS forgets its task by itself, an hour after its end. Large orders are removed."""
        if (held := self.tasks.forget(ref)) is not None:
            await self._unpark(held)
            await large.remove(ref, made.orders_in(held.request or held.task or {}))

    def hand_over(self, ref: str) -> None:
        """See ``RemoteLauncher.hand_over``."""
        self.tasks.forget(ref)

    async def adopt(self, refs: Collection[str]) -> None:
        """Nothing is left of attempts that never began: there is no task before ``go``."""


@contextlib.asynccontextmanager
async def open_launcher(
    home: Path,  # noqa: ARG001 - of the protocol
    agent: str,  # noqa: ARG001 - as above
    options: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncGenerator[ECSLauncher]:
    """The launcher of one agent; ``options`` are the settings below ``ecs``. Closing it leaves its tasks alone.

    Raises CloudError: there are no credentials, or AWS does not answer.
    """
    wishes = made.Wishes.of(options)
    async with connected(options) as services, anyio.create_task_group() as tasks:
        launcher = ECSLauncher(services, tasks, wishes, pending=float(options.get("pending") or 900.0))
        tasks.start_soon(launcher.tasks.watch, name="tasks of ECS")
        try:
            yield launcher
        finally:
            tasks.cancel_scope.cancel()
