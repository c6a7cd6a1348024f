"""The tasks that an agent has to do with: how they are started, found again, looked at and stopped.

One loop looks at all of them, a hundred with each call, so that what it costs hardly grows with their number.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import anyio

from flow_agent import events, retry
from flow_agent.errors import CloudError
from flow_agent.launchers import ecs_ends as ends
from flow_agent.launchers import ecs_task as made
from flow_agent.launchers.ecs_client import ABSENT, GONE, Services, patient
from flow_agent.launchers.ecs_held import Held
from flow_agent.launchers.ecs_parked import parked

LOOK = 2.0
"""Seconds between two looks at the tasks."""
AT_ONCE = 100
"""Tasks that ECS describes in one call."""
FOUND_WITHIN = 30.0
"""Seconds after which a task that ECS does not list was never started: its lists are behind by some seconds."""
FIND = 2.0
MISSING = 60.0
"""Seconds for which ECS may not know a task before that is gone: an hour after its end it forgets it."""


class Tasks:
    """Those of one launcher."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: dict[str, Held] = {}
        self._definitions: dict[str, Mapping[str, Any]] = {}
        self._learning = anyio.Lock()
        self.calls = 0
        """How often ECS was asked about tasks."""
        self.blind = set[str]()
        """Clusters whose tasks we may not look at now."""

    # Definitions

    async def registered(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """The task definition as ECS has it: registered once, and found again by its family, which is its content.

        Raises CloudError.
        """
        family = str(wanted["family"])
        if (found := self._definitions.get(family)) is None:
            try:
                found = await self.described(family)
            except CloudError as error:
                if error.transient or error.code not in ABSENT:
                    raise
                answer = await self._services.call(
                    f"registering the task definition {family}", "register_task_definition", **wanted
                )
                found = answer["taskDefinition"]
            self._definitions[family] = found
        return found

    async def described(self, name: str) -> Mapping[str, Any]:
        """The task definition with that ARN or family.

        Raises CloudError: there is none.
        """
        found = await self._definition(name)
        if found.get("status") == "INACTIVE":
            raise CloudError(
                f"the task definition {name} is not active any more", transient=False, code="ClientException"
            )
        return found

    async def _definition(self, name: str) -> Mapping[str, Any]:
        answer = await self._services.call(
            f"looking for the task definition {name}", "describe_task_definition", taskDefinition=name
        )
        found: Mapping[str, Any] = answer["taskDefinition"]
        return found

    async def _container(self, ref: str, definition: str) -> Mapping[str, Any]:
        """The one that runs the flow; the task goes on though its definition was deregistered, or deleted."""
        try:
            return container_of(await patient(lambda: self._definition(definition), ref, ABSENT))
        except CloudError:
            return {}

    # Tasks

    def hold(self, held: Held) -> Held:
        """From now on this attempt is ours to see to."""
        self._held[held.ref] = held
        return held

    def forget(self, ref: str) -> Held | None:
        """It is ours no more."""
        held = self._held.pop(ref, None)
        if held is not None:
            held.forgotten = True
            held.tell()
        return held

    def here(self, ref: str) -> Held | None:
        """What is held of it already."""
        return self._held.get(ref)

    async def known(self, ref: str) -> Held | None:
        """What is known of it; of a task that another agent started ECS is asked. None: that is no ref of ours."""
        if ref in self._held or "/" not in ref:
            return self._held.get(ref)
        async with self._learning:
            if ref not in self._held:
                held = Held(ref=ref, went=True)
                held.task = await self._looked_for(held)
                if held.task is None and (found := await parked(self._services, ref, held.token)) is not None:
                    held.went, (held.parked, held.request) = False, found
                    held.nonce = made.nonce_of(held.request)
                    held.container = await self._container(ref, held.request["taskDefinition"])
                    return self.hold(held)
                held.task = held.task or {"gone": True}
                if definition := held.task.get("taskDefinitionArn"):
                    held.container = await self._container(ref, definition)
                held.nonce = made.nonce_of(held.task) or (*ref.split("/", 2), "")[2]
                self.hold(held)
        return self._held[ref]

    async def _looked_for(self, held: Held) -> Mapping[str, Any] | None:
        try:
            return await self._found(held)
        except CloudError as error:
            if error.code in GONE:
                return None
            raise

    async def _found(self, held: Held) -> Mapping[str, Any] | None:
        """The task that was started with the token of ``held``."""
        until = anyio.current_time() + FOUND_WITHIN
        while True:
            for status in ("RUNNING", "STOPPED"):
                if found := await patient(partial(self._listed, held, status), held.ref):
                    return found[0]
            if anyio.current_time() > until:
                return None
            await anyio.sleep(FIND)

    async def _listed(self, held: Held, status: str) -> list[Mapping[str, Any]]:
        answer = await self._services.call(
            f"looking for the task of {held.ref}",
            "list_tasks",
            cluster=held.cluster,
            startedBy=held.token,
            desiredStatus=status,
        )
        return await self._described(held.cluster, answer["taskArns"][:1]) if answer["taskArns"] else []

    async def _described(self, cluster: str, arns: list[str]) -> list[Mapping[str, Any]]:
        async def ask() -> list[Mapping[str, Any]]:
            self.calls += 1
            answer = await self._services.call(
                f"looking at {len(arns)} tasks", "describe_tasks", cluster=cluster, tasks=arns
            )
            return list(answer["tasks"])

        return await retry.reached(ask, lambda wait, error: events.cloud_waits(f"tasks in {cluster}", wait, error))

    async def start(self, held: Held, seconds: float) -> None:
        """Have its task started, unless it was stopped; waits ``seconds`` for room, and for ever for an answer.

        Raises CloudError: there is no room, or ECS refuses.
        """
        until = time.monotonic() + seconds

        async def ask() -> Mapping[str, Any]:
            assert held.request is not None
            # The token makes sure that no repetition starts a second one.
            answer = await self._services.call(f"starting the task of {held.ref}", "run_task", **held.request)
            if answer["tasks"]:
                started: Mapping[str, Any] = answer["tasks"][0]
                return started
            said = "; ".join(
                ": ".join(str(each[name]) for name in ("reason", "detail") if each.get(name))
                for each in answer.get("failures") or ()
            )
            room = ends.is_capacity(said) or said.startswith("AGENT")
            raise CloudError(f"the task of {held.ref} was not started: {said}", transient=room, code="Capacity")

        held.task = await retry.reached(
            ask,
            lambda wait, error: events.cloud_waits(held.ref, wait, error),
            lambda: held.stopped or held.forgotten or time.monotonic() > until,
        )
        held.tell()

    async def stop(self, held: Held) -> None:
        """Have ECS end its task: SIGTERM, and SIGKILL after the definition's ``stopTimeout``."""
        arn = (held.task or {}).get("taskArn")
        if arn is None or ends.state(held.task) == "ended":
            return
        try:
            await retry.reached(
                lambda: self._services.call(
                    f"stopping the task of {held.ref}",
                    "stop_task",
                    cluster=held.cluster,
                    task=arn,
                    reason="stopped by flow-agent",
                ),
                lambda wait, error: events.cloud_waits(held.ref, wait, error),
                lambda: ends.state(held.task) == "ended" or held.forgotten,
            )
        except CloudError as error:
            events.cloud_waits(held.ref, 0.0, error)

    async def watch(self) -> None:
        """Look at the tasks that go on, for ever; a refusal is told once. Ends by being cancelled."""
        while True:
            await anyio.sleep(LOOK)
            for cluster, some in self._batches():
                try:
                    found = {task["taskArn"]: task for task in await self._described(cluster, list(some))}
                except CloudError as error:
                    if cluster not in self.blind:
                        events.cloud_waits(f"tasks in {cluster}", LOOK, error)
                    self.blind.add(cluster)
                    if error.code not in GONE:
                        continue
                    found = {}
                else:
                    self.blind.discard(cluster)
                for arn, held in some.items():
                    self._seen(held, found.get(arn))

    def _batches(self) -> Iterator[tuple[str, dict[str, Held]]]:
        clusters: defaultdict[str, dict[str, Held]] = defaultdict(dict)
        for held in self._held.values():
            if held.task is not None and "taskArn" in held.task and ends.state(held.task) != "ended":
                clusters[held.cluster][held.task["taskArn"]] = held
        for cluster, all_of_them in clusters.items():
            arns = list(all_of_them)
            for begin in range(0, len(arns), AT_ONCE):
                yield cluster, {arn: all_of_them[arn] for arn in arns[begin : begin + AT_ONCE]}

    @staticmethod
    def _seen(held: Held, task: Mapping[str, Any] | None) -> None:
        now = anyio.current_time()
        if task is None:
            held.missing_since = held.missing_since or now
            if now - held.missing_since > MISSING:
                held.task = {**(held.task or {}), "gone": True}
                held.tell()
            return
        held.missing_since = None
        changed = task.get("lastStatus") != (held.task or {}).get("lastStatus")
        held.task = task
        if changed:
            held.tell()


def container_of(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container of a task definition that runs the flow: the one called so, else the first."""
    containers: list[Mapping[str, Any]] = definition["containerDefinitions"]
    return next((each for each in containers if each.get("name") == made.CONTAINER), containers[0])
