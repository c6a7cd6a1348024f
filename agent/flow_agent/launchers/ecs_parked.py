"""Requests for which ECS had no room when their agent was to end: parked where the next one finds them.

The only place that every agent of the cluster can read is a task definition, which nobody runs: it is named by the
attempt's token, and has the request in a variable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flow_agent import events
from flow_agent.errors import CloudError
from flow_agent.launchers.ecs_client import ABSENT, Services, patient

FAMILY = "flow-agent-parked"
REQUEST = "FLOW_AGENT_PARKED_REQUEST"


async def park(services: Services, ref: str, token: str, request: Mapping[str, Any]) -> None:
    """Leave ``request`` to whoever takes the attempt over. If it cannot be left, that is told."""
    variable = {"name": REQUEST, "value": json.dumps(request)}
    nothing = {"name": "parked", "image": "parked", "memory": 32, "environment": [variable]}
    try:
        await services.call(
            f"parking the request of {ref}",
            "register_task_definition",
            family=f"{FAMILY}-{token}",
            containerDefinitions=[nothing],
        )
    except CloudError as error:
        events.cloud_waits(ref, 0.0, error)


async def parked(services: Services, ref: str, token: str) -> tuple[str, Mapping[str, Any]] | None:
    """The ARN of what was parked, and the request; None: there is none."""
    name = f"{FAMILY}-{token}"

    async def look() -> Mapping[str, Any]:
        answer = await services.call(f"looking for {name}", "describe_task_definition", taskDefinition=name)
        found: Mapping[str, Any] = answer["taskDefinition"]
        return found

    try:
        found = await patient(look, ref, ABSENT)
    except CloudError:
        return None
    if found.get("status") == "INACTIVE":
        return None
    return found["taskDefinitionArn"], json.loads(found["containerDefinitions"][0]["environment"][0]["value"])


async def unpark(services: Services, ref: str, arn: str) -> None:
    """Remove what was parked. If it cannot be removed, that is told."""
    try:
        await services.call(f"removing {arn}", "deregister_task_definition", taskDefinition=arn)
    except CloudError as error:
        events.cloud_waits(ref, 0.0, error)
