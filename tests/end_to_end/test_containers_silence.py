"""An engine that is there and says nothing: what its runs come to, and what is left on it. A real one, frozen."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from command import Cli
from servers.docker_engine import DockerEngine, docker_running, shared
from servers.docker_image import IMAGE

pytestmark = pytest.mark.timeout(300)

FLOWS = f"""
import time
from flow_agent import flow
from flow_agent.run_configs import DockerRun

@flow(name="sleeper", run_config=DockerRun(image={IMAGE!r}))
def sleeper():
    print("asleep")
    time.sleep(600)

@flow(name="limited", timeout=10, run_config=DockerRun(image={IMAGE!r}))
def limited():
    print("asleep")
    time.sleep(600)
"""
SHORT = {
    "FLOW_AGENT_LEASE__RUNNING": "16",
    "FLOW_AGENT_LEASE__CLAIMED": "8",
    "FLOW_AGENT_LEASE__HEARTBEAT": "2",
    "FLOW_AGENT_STOP__GRACE": "1",
}


@pytest.fixture
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """An engine that a test may freeze."""
    with docker_running(shared(tmp_path_factory)) as engine:
        yield engine


@pytest.fixture
def docker(cli: Cli, own_engine: DockerEngine) -> Cli:
    cli.env |= {"FLOW_AGENT_DOCKER__URL": own_engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE, **SHORT}
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    return cli


def test_an_engine_that_falls_silent_holds_no_run_for_longer_than_its_lease(
    docker: Cli, own_engine: DockerEngine
) -> None:
    (limited,), (cancelled,), (plain,) = docker.submit("limited"), docker.submit("sleeper"), docker.submit("sleeper")
    agent = docker.start("--limit", "3")
    docker.until(lambda: all("asleep" in docker("logs", run) for run in (limited, cancelled, plain)), 60)
    with own_engine.frozen():
        docker("cancel", cancelled)
        docker.until(
            lambda: all(docker.state(run) in {"failed", "cancelled"} for run in (limited, cancelled, plain)), 60
        )
        ended = [docker.show(run) for run in (limited, cancelled, plain)]
        assert [run["reason"] for run in ended] == ["timed_out", "cancelled", "agent_lost"]
        assert "does not answer: it said nothing" in ended[2]["detail"]
    docker.until(lambda: own_engine.containers() == [], 90)
    assert own_engine.volumes() == []
    agent.terminate()
    assert agent.wait(60) == 0


def test_a_short_silence_ends_no_run(docker: Cli, own_engine: DockerEngine) -> None:
    docker.env["FLOW_AGENT_LEASE__RUNNING"] = "90"
    docker.write("counts.py", FLOWS.replace("time.sleep(600)", "[(print(i), time.sleep(0.1)) for i in range(400)]"))
    docker("register", "counts.py")
    (run,) = docker.submit("sleeper")
    agent = docker.start("--limit", "1")
    docker.until(lambda: "asleep" in docker("logs", run), 60)
    with own_engine.frozen():
        docker.until(lambda: "it said nothing" in docker.log(), 60)  # it is noticed, and nothing is lost by it
    docker.until(lambda: docker.state(run) in {"succeeded", "failed"}, 120)
    assert docker.state(run) == "succeeded", docker.show(run)
    printed = [line.rpartition(" ")[2] for line in docker("logs", run).splitlines()]
    assert [word for word in printed if word.isdigit()] == [str(i) for i in range(400)]
    agent.terminate()
    assert agent.wait(60) == 0
    assert own_engine.containers() == []


def test_what_a_silent_engine_was_asked_for_and_made_too_late_is_removed(docker: Cli, own_engine: DockerEngine) -> None:
    agent = docker.start("--limit", "3")
    docker.until(lambda: docker.json("agents"))
    with own_engine.frozen():
        runs = [*docker.submit("sleeper"), *docker.submit("sleeper"), *docker.submit("sleeper")]
        docker.until(lambda: all(docker.state(run) == "claimed" for run in runs), 30)
        time.sleep(1)  # by now it is asked
        for run in runs:
            docker("cancel", run, "--wait", timeout=90)
    time.sleep(1)  # it does what it was asked for
    docker.until(lambda: own_engine.containers() == [] == own_engine.volumes(), 60)
    agent.terminate()
    assert agent.wait(60) == 0
    assert own_engine.containers() == []
    assert own_engine.volumes() == []
