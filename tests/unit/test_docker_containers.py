"""What an agent lets a container have, how one is made and undone, and what its end means."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from flow_agent.engine import containers
from flow_agent.engine.client import Address, Engine
from flow_agent.errors import EngineError, LaunchError
from flow_agent.judge import judge
from flow_agent.launchers import ends
from flow_agent.launchers.container import refuse
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
