"""What an agent lets a container have, how one is made and undone, and what its end means."""

from __future__ import annotations

import inspect
import signal
from types import SimpleNamespace
from typing import Any

import docker.errors
import docker.types
import pytest

from flow_agent.engine import containers
from flow_agent.engine.client import Address, Engine
from flow_agent.errors import EngineError, LaunchError
from flow_agent.host_options import KNOWN
from flow_agent.judge import judge
from flow_agent.launchers import ends
from flow_agent.launchers.container import checked, refuse
from flow_agent.model import LaunchSpec, Reason, State
from flow_agent.run_configs import DockerRun


def spec(**container: Any) -> LaunchSpec:
    return LaunchSpec(
        run_id="run1",
        flow="f",
        claim=1,
        attempt=1,
        folder="/x/run1-1",
        payload={"kind": "pickle", "path": "payload/flow.pickle"},
        parameters={},
        deadline=0.0,
        grace=1.0,
        container=container,
    )


# What is allowed


@pytest.mark.parametrize("entry", ["volumes:/srv/share", "volumes:/srv/share/", "volumes://srv/share"])
def test_a_folder_that_is_allowed_is_allowed_alone(entry: str) -> None:
    for source in ("/srv/share", "/srv/share/", "//srv/./share"):
        refuse(spec(volumes=[f"{source}:/data"]), [entry])
    # A run that has written to the folder may have made `root` a link to the root of the machine.
    for source in ("/srv/share/root", "/srv/share/root/etc", "/srv/shared", "/srv", "/"):
        with pytest.raises(LaunchError, match="which reaches into the machine"):
            refuse(spec(volumes=[f"{source}:/data"]), [entry])


def test_the_root_folder_allows_nothing_below_it() -> None:
    with pytest.raises(LaunchError):
        refuse(spec(volumes=["/etc:/data"]), ["volumes:/"])


@pytest.mark.parametrize(
    ("asked", "narrow", "wide", "warning"),
    [
        ({"volumes": ["/etc:/x"]}, "'volumes:/etc'", "'volumes'", "the whole machine"),
        ({"host_config": {"privileged": True}}, "'host_config:privileged'", "'host_config'", "the whole machine"),
        ({"ports": ["80"]}, "'ports:80'", "'ports'", ""),
        ({"gpus": "all"}, "'gpus'", "'gpus'", ""),
    ],
)
def test_the_way_out_names_the_least_first(asked: dict[str, Any], narrow: str, wide: str, warning: str) -> None:
    with pytest.raises(LaunchError) as raised:
        refuse(spec(**asked), [])
    hint = raised.value.hint or ""
    assert 0 < hint.index(narrow) <= hint.index(wide)
    assert warning in hint


# What no container can be


def test_the_arguments_that_are_known_are_those_of_the_sdk() -> None:
    of_sdk = set(inspect.signature(docker.types.HostConfig).parameters) - {"version"}
    assert KNOWN | {"auto_remove", "restart_policy", "log_config"} == of_sdk


@pytest.mark.parametrize(
    "place", ["/", "//", "/x/..", "/flow-agent", "/flow-agent/", "//flow-agent/run", "/x/../flow-agent/./run"]
)
@pytest.mark.parametrize(
    "asked",
    [
        lambda place: {"volumes": [f"/srv:{place}:ro"]},
        lambda place: {"volumes": [f"name:{place}"]},
        lambda place: {"host_config": {"binds": [f"/srv:{place}"]}},
        lambda place: {"host_config": {"binds": {"/srv": {"bind": place, "mode": "ro"}}}},
        lambda place: {"host_config": {"mounts": [{"Type": "volume", "Target": place}]}},
        lambda place: {"host_config": {"mounts": [{"type": "volume", "target": place}]}},
        lambda place: {"host_config": {"tmpfs": {place: "size=1m"}}},
        lambda place: {"host_config": {"tmpfs": [f"{place}:size=1m"]}},
    ],
)
def test_nothing_can_be_mounted_over_the_flow(asked: Any, place: str) -> None:
    given = asked(place)
    with pytest.raises(ValueError, match="expected another place than /, and none in /flow-agent"):
        DockerRun(**given)
    with pytest.raises(LaunchError, match="lies over"):
        checked(spec(**given))
    DockerRun(**asked("/flow-agents"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"host_config": {"nope": 1}}, "'nope', which is no argument"),
        ({"host_config": {"auto_remove": True}}, "the agent decides: .*--keep-containers"),
        ({"host_config": {"restart_policy": {"Name": "always"}}}, "the agent decides: .*retries"),
        ({"host_config": {"log_config": {}}}, "the agent decides: .*output.limit"),
        ({"host_config": {"mem_limit": "1g"}, "memory": 2**30}, "'mem_limit' beside memory, expected one of them"),
        ({"host_config": {"network_mode": "a"}, "networks": ["b"]}, "'network_mode' beside networks"),
    ],
)
def test_what_would_be_overwritten_or_is_not_known_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DockerRun(**asked)
    with pytest.raises(LaunchError, match=says) as raised:
        checked(spec(**asked))
    assert raised.value.reason is Reason.LAUNCH_FAILED
    assert DockerRun(host_config={"mem_limit": "1g"}).host_config == {"mem_limit": "1g"}


# How one is made, and undone


class Sdk:
    """Of an engine that has no network ``gone``."""

    def __init__(self) -> None:
        self.there: list[str] = []

    def create_container_from_config(self, _: Any, name: str) -> dict[str, str]:
        self.there.append(name)
        return {"Id": name}

    def connect_container_to_network(self, _: str, network: str) -> None:
        if network == "gone":
            raise docker.errors.NotFound("404", SimpleNamespace(status_code=404), "network gone not found")

    def remove_container(self, name: str, *, v: bool, force: bool) -> None:
        assert (v, force) == (True, True)
        self.there.remove(name)


def test_a_container_whose_network_is_not_there_is_undone_and_no_image_is_missed() -> None:
    sdk = Sdk()
    engine = Engine(sdk, Address(url="unix:///nowhere"))
    with pytest.raises(EngineError, match="to the network gone: network gone not found") as raised:
        containers.create(engine, "a", {}, ["there", "gone"])
    assert (raised.value.missing, raised.value.transient, sdk.there) == (False, False, [])
    containers.create(engine, "a", {}, ["there"])
    assert sdk.there == ["a"]


@pytest.mark.parametrize("alone", ["none", "host", "container:other"])
def test_a_network_that_can_only_be_alone_is_refused_beside_others(alone: str) -> None:
    with pytest.raises(ValueError, match=f"networks has '{alone}' beside others"):
        DockerRun(networks=["bridge", alone])
    assert DockerRun(networks=[alone]).networks == [alone]


# What its end means

READER: Any = SimpleNamespace(receipt=None, tail="")


@pytest.mark.parametrize("by", ["outside", "deadline", "stop"])
@pytest.mark.parametrize(("why", "state"), [(Reason.CANCELLED, State.CANCELLED), (Reason.TIMED_OUT, State.FAILED)])
def test_a_stop_that_an_engine_which_was_away_did_not_hear_of_is_ours(by: str, why: Reason, state: State) -> None:
    record = {"code": None, "signal": signal.SIGTERM, "ended_by": by}
    ending = ends.of_record(record, READER, out_of_memory=False, stopped=True)
    without = ends.without_record(None, "it was away", stopped=True, tail="")
    for each in (ending, without):
        found = judge(each, why, 5.0)
        assert (found.reason, found.state) == (why, state)


@pytest.mark.parametrize("by", ["outside", "deadline"])
def test_an_end_that_nobody_of_us_wanted_is_a_loss(by: str) -> None:
    record = {"code": None, "signal": signal.SIGTERM, "ended_by": by}
    ending = ends.of_record(record, READER, out_of_memory=False, stopped=False)
    assert judge(ending, None, None).reason is Reason.AGENT_LOST


def test_a_container_that_was_removed_by_force_is_not_told_as_merely_killed() -> None:
    state = {"State": {"ExitCode": 137, "FinishedAt": "2026-01-01T00:00:00Z"}}
    lost = ends.without_record(state, None, stopped=False, tail="").lost
    assert lost is not None
    assert "killed or removed from outside" in lost
