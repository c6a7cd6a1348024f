"""What an agent does not let a run have of its account, unless the settings name it. Closed: what is not known to stay
within the container is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flow_agent.errors import LaunchError
from flow_agent.launchers.container import covers
from flow_agent.model import LaunchSpec, Reason

Wish = tuple[str, str]

_DEFINITION = frozenset(
    {"family", "containerDefinitions", "cpu", "memory", "requiresCompatibilities", "runtimePlatform"}
    | {"ephemeralStorage"}
)
_CONTAINER = frozenset(
    {"name", "image", "cpu", "memory", "memoryReservation", "essential", "entryPoint", "command", "environment"}
    | {"workingDirectory", "ulimits", "stopTimeout", "startTimeout", "dependsOn", "healthCheck"}
    | {"readonlyRootFilesystem", "interactive", "pseudoTerminal", "dockerLabels", "user"}
)
"""Fields that give a container nothing but itself; roles are asked for by names of their own."""


def refuse(spec: LaunchSpec, allowed: Sequence[str], own: Mapping[str, str]) -> None:
    """See that the agent lets the run have what it asks for; ``own`` is what all runs have anyway, by name.

    An entry of ``allowed`` is a name (``task_role``), or a name with one value (``cluster:reports``,
    ``run_task_kwargs:enableExecuteCommand``, ``task_definition:containerDefinitions.mountPoints``).

    Raises LaunchError: ``not_allowed``.
    """
    for name, value in _wishes(spec.container, own):
        if not any(covers(entry, name, value) for entry in allowed):
            shown = f"{name}:{value}" if value else name
            raise LaunchError(
                f"flow {spec.flow!r} asks for {shown}, which reaches beyond its own container, and the setting"
                " ecs.allow of this agent does not name that",
                hint=f"whoever runs the agent may add {name!r}, or {shown!r} alone, to ecs.allow",
                reason=Reason.NOT_ALLOWED,
            )


def _wishes(asked: Mapping[str, Any], own: Mapping[str, str]) -> Iterator[Wish]:
    definition = asked.get("task_definition") or {}
    for name, direct, field in (
        ("task_role", "task_role_arn", "taskRoleArn"),
        ("execution_role", "execution_role_arn", "executionRoleArn"),
    ):
        for value in (asked.get(direct), definition.get(field)):
            if value and value != own[name]:
                yield name, str(value)
    if asked.get("cluster") and asked["cluster"] != own["cluster"]:
        yield "cluster", str(asked["cluster"])
    if asked.get("task_definition_arn"):
        yield "task_definition_arn", str(asked["task_definition_arn"])
    if asked.get("network"):
        yield "network", ""
    for field in sorted(asked.get("run_task_kwargs") or {}):
        yield "run_task_kwargs", str(field)
    for field in sorted(set(definition) - _DEFINITION - {"taskRoleArn", "executionRoleArn"}):
        yield "task_definition", str(field)
    for container in definition.get("containerDefinitions") or ():
        for field in sorted(set(container) - _CONTAINER):
            yield "task_definition", f"containerDefinitions.{field}"
