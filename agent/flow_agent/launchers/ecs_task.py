"""From a launch spec to a task definition and a request to run it, in the words of ECS. Nothing secret stands in
either: whoever may describe tasks can read them."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flow_agent.ecs_options import amount, is_secret_arn
from flow_agent.errors import LaunchError
from flow_agent.launchers.ecs_bring import BROUGHT, ENTRY, bring
from flow_agent.model import LaunchSpec, Reason

AWSVPC = "awsvpc"
CONTAINER = "flow"
FAMILY = "flow-agent"
ORDERS, NONCE = "FLOW_AGENT_RUN_ORDERS", "FLOW_AGENT_RUN_NONCE"
"""Variables of the task: what it is to do, and what its marked lines begin with, for whoever takes it over."""
MARGIN = 10
"""Seconds that a container has to report, beyond the grace of its attempt."""
LONGEST_STOP = 120
"""Seconds that ECS waits at most between SIGTERM and SIGKILL."""
LONGEST_TAG = 256
_NOT_IN_TAGS = re.compile(r"[^\w .:/=+@-]")
LARGEST_OVERRIDE = 8_192
"""Characters of all overrides of a task: ECS takes no more."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The settings below ``ecs`` that are about making tasks."""

    cluster: str = "default"
    launch_type: str = "FARGATE"
    image: str = ""
    agent_image: str = ""
    cpu: int = 256
    memory: int = 512
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    public_ip: bool = False
    task_role: str = ""
    execution_role: str = ""
    log_group: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    allow: Sequence[str] = ()
    fetch_for: float = 600.0
    write_for: float = 600.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Wishes:
        """Those in ``options``."""
        return cls(**{name: options[name] for name in cls.__dataclass_fields__ if name in options})


def token_of(spec: LaunchSpec) -> str:
    """What names the attempt to ECS: the token by which a repeated request starts no second task, and by which its
    task is found again. At most 36 characters."""
    return f"{spec.run_id}-{spec.attempt}"


def definition(spec: LaunchSpec, wishes: Wishes, region: str) -> dict[str, Any]:
    """The task definition of ``spec``, named by its content: one that is there already is used again.

    Raises LaunchError: nobody names an image, or a secret has no ARN.
    """
    asked = spec.container
    made = copy.deepcopy(dict(asked.get("task_definition") or {}))
    containers = made.get("containerDefinitions") or []
    flow = next((each for each in containers if each.get("name") == CONTAINER), containers[0] if containers else {})
    others = [each for each in containers if each is not flow]
    kind = asked.get("launch_type") or wishes.launch_type
    made["containerDefinitions"] = [_flow(flow, spec, wishes, region), *others]
    made["cpu"] = _amount(asked.get("cpu") or made.get("cpu") or wishes.cpu, "cpu")
    made["memory"] = _amount(asked.get("memory") or made.get("memory") or wishes.memory, "memory")
    if not others:  # on EC2 the limit of the container is what holds it
        made["containerDefinitions"][0] = {"memory": int(made["memory"]), **made["containerDefinitions"][0]}
    made["requiresCompatibilities"] = [kind]
    if kind == "FARGATE" or ("networkMode" not in made and _has_subnets(asked, wishes)):
        made["networkMode"] = AWSVPC  # ECS's own choice on EC2 is bridge, which takes no subnets
    for name, direct, own in (
        ("taskRoleArn", "task_role_arn", wishes.task_role),
        ("executionRoleArn", "execution_role_arn", wishes.execution_role),
    ):
        if role := asked.get(direct) or made.get(name) or own:
            made[name] = role
    if wishes.agent_image and made["containerDefinitions"][0]["image"] != wishes.agent_image:
        bring(made, wishes.agent_image)
    made.pop("family", None)
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return {**made, "family": f"{FAMILY}-{digest[:24]}"}


def _has_subnets(asked: Mapping[str, Any], wishes: Wishes) -> bool:
    """Whether somebody says in which subnets the task is to be."""
    network, further = asked.get("network") or {}, asked.get("run_task_kwargs") or {}
    return bool(network.get("subnets") or wishes.subnets or "networkConfiguration" in further)


def _amount(value: Any, what: str) -> str:
    try:
        return str(amount(value, what))
    except (TypeError, ValueError) as error:  # it was registered by a program that did not look
        raise LaunchError(str(error), hint="correct it in the flow's run config, and register the flow anew") from error


def _flow(flow: Mapping[str, Any], spec: LaunchSpec, wishes: Wishes, region: str) -> dict[str, Any]:
    image = spec.image or flow.get("image") or wishes.image or wishes.agent_image
    if not image:
        raise LaunchError(
            f"no image is named for flow {spec.flow!r}: neither by its storage nor by its run config, its"
            " task_definition or the settings of this agent",
            hint="give ECSRun(image=...), or set ecs.image or ecs.agent_image",
        )
    made = {
        **flow,
        "name": CONTAINER,
        "image": image,
        "essential": True,
        "entryPoint": list(ENTRY),
        "command": ["inside", "--variable", ORDERS],
        "stopTimeout": min(LONGEST_STOP, math.ceil(spec.grace) + MARGIN),
    }
    if found := _secrets(spec, wishes, flow.get("secrets") or ()):
        made["secrets"] = found
    if wishes.log_group and "logConfiguration" not in made:
        options = {"awslogs-group": wishes.log_group, "awslogs-region": region, "awslogs-stream-prefix": FAMILY}
        made["logConfiguration"] = {"logDriver": "awslogs", "options": options}
    logging = made.get("logConfiguration") or {}
    if logging.get("logDriver") == "awslogs":  # ECS would have the driver drop lines rather than hold the flow up
        made["logConfiguration"] = {**logging, "options": {"mode": "blocking", **(logging.get("options") or {})}}
    return made


def _secrets(spec: LaunchSpec, wishes: Wishes, given: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    found = {each["name"]: each["valueFrom"] for each in given}
    for name in spec.registration.secrets if spec.registration is not None else ():
        if name in found:
            continue
        arn = wishes.secrets.get(name, "")
        if not arn or not is_secret_arn(arn):
            what = f"ecs.secrets has {arn!r} for it" if arn else "ecs.secrets has none for it"
            raise LaunchError(
                f"flow {spec.flow!r} declares the secret {name!r}, which a task gets by an ARN of Secrets Manager or"
                f" SSM only, and {what}",
                hint=f"whoever runs the agent may set ecs.secrets, as {name}=arn:aws:secretsmanager:...",
                reason=Reason.SECRET_NOT_FOUND,
            )
        found[name] = arn
    return [{"name": name, "valueFrom": arn} for name, arn in sorted(found.items())]


def check_secrets(spec: LaunchSpec, container: Mapping[str, Any]) -> None:
    """See that ``container``, of a task definition that is not ours, gets what the flow declares.

    Raises LaunchError.
    """
    there = {each["name"] for each in container.get("secrets") or ()}
    declared = spec.registration.secrets if spec.registration is not None else ()
    if missing := [name for name in declared if name not in there]:
        raise LaunchError(
            f"flow {spec.flow!r} declares the secret {missing[0]!r}, which the task definition that its run config"
            " names does not give to its container",
            hint="add it to `secrets` of that container, with the ARN of a secret or of a parameter",
            reason=Reason.SECRET_NOT_FOUND,
        )


def request(
    spec: LaunchSpec, wishes: Wishes, *, definition: Mapping[str, Any], container: str, orders: str, nonce: str
) -> dict[str, Any]:
    """The arguments of ``run_task``; ``definition`` is as ECS has it, ``container`` the name of the one that runs the
    flow.

    Raises LaunchError: the orders are too large.
    """
    asked = spec.container
    kind = asked.get("launch_type") or wishes.launch_type
    overrides: dict[str, Any] = {
        "containerOverrides": [
            {
                "name": container,
                "command": ["inside", "--variable", ORDERS],
                "environment": [{"name": ORDERS, "value": orders}, {"name": NONCE, "value": nonce}],
            }
        ]
    }
    if asked.get("task_definition_arn"):
        overrides |= {name: asked[name] for name in ("cpu", "memory") if asked.get(name)}
        roles = {"taskRoleArn": "task_role_arn", "executionRoleArn": "execution_role_arn"}
        overrides |= {name: asked[direct] for name, direct in roles.items() if asked.get(direct)}
    if len(json.dumps(overrides)) > LARGEST_OVERRIDE:
        raise LaunchError(
            f"the orders of flow {spec.flow!r} take {len(orders)} characters, and ECS takes {LARGEST_OVERRIDE} in all",
            hint="give the flow a result store, such as S3Result: large parameters travel through that",
        )
    token = token_of(spec)
    made = {
        "cluster": asked.get("cluster") or wishes.cluster,
        "taskDefinition": definition["taskDefinitionArn"],
        "count": 1,
        "launchType": kind,
        "overrides": overrides,
        "startedBy": token,
        "clientToken": token,
        "tags": [{"key": "flow-agent:run", "value": spec.run_id}, {"key": "flow-agent:flow", "value": _tag(spec.flow)}],
    }
    if definition.get("networkMode") == AWSVPC and (network := _network(asked.get("network") or {}, wishes, kind)):
        made["networkConfiguration"] = network
    extra = dict(asked.get("run_task_kwargs") or {})
    if "capacityProviderStrategy" in extra:
        made.pop("launchType")  # ECS takes one of them
    # What names the attempt, and what it is to do, stays ours.
    kept = ("cluster", "taskDefinition", "count", "overrides", "startedBy", "clientToken")
    return {**made, **extra, **{name: made[name] for name in kept}}


def _network(asked: Mapping[str, Any], wishes: Wishes, kind: str) -> dict[str, Any]:
    """Where a task with a network interface of its own is; empty if nobody says."""
    subnets = asked.get("subnets") or list(wishes.subnets)
    if not subnets:
        return {}
    public = asked.get("assign_public_ip", wishes.public_ip and kind == "FARGATE")  # refused on EC2
    return {
        "awsvpcConfiguration": {
            "subnets": subnets,
            "securityGroups": asked.get("security_groups") or list(wishes.security_groups),
            "assignPublicIp": "ENABLED" if public else "DISABLED",
        }
    }


def _tag(text: str) -> str:
    """``text`` as the value of a tag: with others in it ECS refuses the whole request."""
    return _NOT_IN_TAGS.sub("-", text)[:LONGEST_TAG]


def stream_of(container: Mapping[str, Any], task_arn: str) -> tuple[str, str, str] | None:
    """Log group, region and stream that the container of the task writes to; None: nothing that can be read."""
    logging = container.get("logConfiguration") or {}
    options = logging.get("options") or {}
    prefix = options.get("awslogs-stream-prefix")
    if logging.get("logDriver") != "awslogs" or not prefix or not options.get("awslogs-group"):
        return None
    task = task_arn.rpartition("/")[2]
    return options["awslogs-group"], options.get("awslogs-region", ""), f"{prefix}/{container['name']}/{task}"


def is_ours(container: Mapping[str, Any]) -> bool:
    """Whether the exit code of ``container`` can only be that of ``inside``; an image may begin with anything."""
    return tuple(container.get("entryPoint") or ()) in {ENTRY, BROUGHT}


def nonce_of(task: Mapping[str, Any]) -> str:
    """The nonce of the attempt in ``task``, or in the request for it; empty if that is none of ours."""
    return _variable(task, NONCE)


def orders_in(task: Mapping[str, Any]) -> str:
    """The orders in ``task``, or in the request for it; empty if that is none of ours."""
    return _variable(task, ORDERS)


def _variable(task: Mapping[str, Any], name: str) -> str:
    for container in (task.get("overrides") or {}).get("containerOverrides") or ():
        for each in container.get("environment") or ():
            if each["name"] == name:
                return str(each["value"])
    return ""
