"""What a run config of ECS takes, and the task definition and the request that are made of it."""

from __future__ import annotations

from typing import Any

import pytest

from flow_agent.errors import LaunchError
from flow_agent.launchers import ecs_task as made
from flow_agent.model import LaunchSpec, Registration
from flow_agent.run_configs import ECSRun


def spec(flow: str = "report", **container: Any) -> LaunchSpec:
    """Of an attempt whose run config asked for ``container``."""
    registration = Registration(flow=flow, kind="module", storage={"type": "Module"}, location={})
    return LaunchSpec(
        run_id="r" * 26,
        flow=flow,
        claim=1,
        attempt=1,
        folder="",
        payload={},
        parameters={},
        deadline=0.0,
        grace=1.0,
        container=container,
        registration=registration,
    )


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"memory": "plenty"}, r"task_definition: memory is 'plenty', expected an amount such as 512 or '1 GB'"),
        ({"cpu": "2 GB"}, r"task_definition: cpu is '2 GB', expected an amount such as 256 or '0.25 vCPU'"),
        ({"memory": 16}, r"task_definition: memory is 16, which is too little"),
        ({"memory": True}, r"task_definition: memory is True, expected a whole number or text"),
        (
            {"containerDefinitions": [{"memory": "1GB"}]},
            r"has a container whose memory is '1GB', expected a whole number of MiB",
        ),
        ({"containerDefinitions": [{"cpu": -1}]}, r"whose cpu is -1, expected a whole number of units of CPU"),
    ],
)
def test_amounts_of_a_task_definition_that_are_none_are_refused_where_it_is_written(
    definition: dict[str, Any], words: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        ECSRun(task_definition=definition)


def test_amounts_of_a_task_definition_may_be_text() -> None:
    given = {"memory": "1GB", "cpu": "0.5 vCPU", "containerDefinitions": [{"cpu": 0, "memory": 512}]}
    run = ECSRun(task_definition=given)
    assert (run.task_definition["memory"], run.task_definition["cpu"]) == ("1024", "512")


def test_amounts_that_were_registered_as_they_were_are_understood_or_told() -> None:
    wishes = made.Wishes(image="any")
    definition = made.definition(spec(task_definition={"memory": "1GB"}), wishes, "eu-west-1")
    assert (definition["memory"], definition["containerDefinitions"][0]["memory"]) == ("1024", 1024)
    with pytest.raises(LaunchError, match="memory is 'plenty'"):
        made.definition(spec(task_definition={"memory": "plenty"}), wishes, "eu-west-1")


def request(given: LaunchSpec, wishes: made.Wishes | None = None, **definition: Any) -> dict[str, Any]:
    """That for ``given``; ``definition`` is what its task definition has."""
    return made.request(
        given,
        wishes or made.Wishes(),
        definition={"taskDefinitionArn": "arn", **definition},
        container="flow",
        orders="",
        nonce="n",
    )


@pytest.mark.parametrize(
    ("flow", "tag"),
    [
        ("daily (new), #1 & 50%\n", "daily -new-- -1 - 50--"),
        ("a_b.c:d/e=f+g-h@i Zürich 7", "a_b.c:d/e=f+g-h@i Zürich 7"),
        ("x" * 300, "x" * 256),
    ],
)
def test_a_tag_has_only_what_ecs_takes(flow: str, tag: str) -> None:
    tags = {each["key"]: each["value"] for each in request(spec(flow))["tags"]}
    assert tags["flow-agent:flow"] == tag


SUBNETS = made.Wishes(image="any", subnets=("subnet-1",), public_ip=True)


@pytest.mark.parametrize(
    ("wishes", "asked", "mode", "public"),
    [
        (SUBNETS, {}, "awsvpc", "ENABLED"),
        (SUBNETS, {"launch_type": "EC2"}, "awsvpc", "DISABLED"),  # ECS refuses a public address there
        (made.Wishes(image="any"), {"launch_type": "EC2"}, None, None),
        (made.Wishes(image="any"), {"launch_type": "EC2", "network": {"subnets": ["subnet-2"]}}, "awsvpc", "DISABLED"),
        (SUBNETS, {"launch_type": "EC2", "task_definition": {"networkMode": "host"}}, "host", None),
    ],
)
def test_subnets_go_with_a_network_interface_of_its_own_only(
    wishes: made.Wishes, asked: dict[str, Any], mode: str | None, public: str | None
) -> None:
    given = spec(**asked)
    definition = made.definition(given, wishes, "eu-west-1")
    assert definition.get("networkMode") == mode
    network = request(given, wishes, **definition).get("networkConfiguration")
    assert (network and network["awsvpcConfiguration"]["assignPublicIp"]) == public


@pytest.mark.parametrize(("mode", "sent"), [("bridge", False), ("awsvpc", True), (None, False)])
def test_a_definition_that_was_there_already_says_whether_it_takes_subnets(mode: str | None, sent: bool) -> None:
    given = spec(launch_type="EC2", task_definition_arn="arn")
    assert ("networkConfiguration" in request(given, SUBNETS, networkMode=mode)) is sent
