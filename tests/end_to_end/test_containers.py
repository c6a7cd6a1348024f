"""Runs in containers: the installed command, a real engine."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from command import Cli
from servers.docker_engine import DockerEngine, docker_running, shared
from servers.docker_image import IMAGE
from servers.registry import PASSWORD, USER, Registry

pytestmark = pytest.mark.timeout(300)

MANY = int(os.environ.get("FLOW_AGENT_TEST_CONTAINERS", "40"))
"""Runs of the test of many."""

FLOWS = f"""
import os, sys, time
from flow_agent import Flow, flow, current_run
from flow_agent.run_configs import DockerRun, Secret

IMAGE = {IMAGE!r}

@flow(name="add", run_config=DockerRun(image=IMAGE))
def add(a: int = 1, b: int = 1):
    print("adding in", sys.version_info[:2], os.getpid() != 1, os.environ["OF_IMAGE"])
    return a + b

@flow(name="counts", run_config=DockerRun(image=IMAGE))
def counts(until: int = 100, every: float = 0.05):
    for i in range(until):
        print("line", i)
        time.sleep(every)
    return until

@flow(name="steady", retries=2, run_config=DockerRun(image=IMAGE))
def steady():
    for i in range(40):
        print("line", i)
        time.sleep(0.05)

@flow(name="anywhere")
def anywhere():
    return os.path.exists("/flow-agent/runner.pyz")
"""


@pytest.fixture
def docker(cli: Cli, docker_engine: DockerEngine) -> Cli:
    """The command, with an engine and the flows."""
    cli.env |= {"FLOW_AGENT_DOCKER__URL": docker_engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE}
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    return cli


def test_a_flow_runs_in_a_container_of_its_image(docker: Cli) -> None:
    (run,) = docker.submit("add", "-p", "a=40", "-p", "b=2")
    docker("start", "--until-empty", timeout=120)

    shown = docker.show(run)
    assert (shown["state"], shown["launcher"]) == ("succeeded", "docker"), shown
    assert json.loads(docker("result", run)) == 42
    assert "True yes" in docker("logs", run)


def test_an_agent_whose_first_launcher_is_docker_takes_what_asks_for_none(docker: Cli) -> None:
    (run,) = docker.submit("anywhere")
    docker("start", "--launcher", "docker", "--until-empty", timeout=120)

    assert docker.show(run)["launcher"] == "docker"
    assert json.loads(docker("result", run)) is True


def test_a_run_that_needs_a_launcher_which_nobody_offers_waits_and_why_says_so(docker: Cli) -> None:
    (run,) = docker.submit("add")
    docker("start", "--launcher", "process", "--until-empty", timeout=120)
    assert docker.state(run) == "queued"
    agent = docker.start("--launcher", "process")
    docker.until(lambda: docker.json("agents"))
    said = docker.run("why", run)
    assert "waits for launcher 'docker', which no live agent offers" in said.stdout + said.stderr
    assert "flow-agent start --launcher docker" in said.stdout + said.stderr
    agent.terminate()
    assert agent.wait(30) == 0


def test_an_agent_says_which_launchers_it_serves_and_which_not(docker: Cli) -> None:
    docker.env["FLOW_AGENT_DOCKER__URL"] = f"unix://{docker.home}/nobody.sock"
    docker("start", "--launcher", "docker", "--launcher", "process", "--until-empty", timeout=60)
    done = docker.run("start", "--launcher", "docker", "--launcher", "process", "--until-empty")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    left_out = next(line for line in lines if line["event"] == "launcher.left_out")
    assert left_out["launcher"] == "docker"
    assert "does not answer" in left_out["why"]
    started = next(line for line in lines if line["event"] == "agent.started")
    assert (started["launchers"], started["default_launcher"]) == (["process"], "process")

    said = docker.run("start", "--launcher", "docker", "--until-empty")
    assert said.returncode == 1
    assert "flow-agent: connecting: the Docker engine at" in said.stderr
    assert "hint: start it" in said.stderr


def test_cancelling_and_a_time_limit_end_the_container(docker: Cli, docker_engine: DockerEngine) -> None:
    docker.write(
        "slow.py",
        FLOWS.replace('name="add"', 'name="x"')
        .replace('name="counts", ', 'name="limited", timeout=1.0, ')
        .replace('name="anywhere"', 'name="y"'),
    )
    docker("register", "slow.py")
    (cancelled,), (limited,) = (
        docker.submit("counts", "-p", "until=10000"),
        docker.submit("limited", "-p", "until=9999"),
    )
    agent = docker.start("--limit", "2")
    docker.until(lambda: "line 1" in docker("logs", cancelled), 60)
    docker("cancel", cancelled, "--wait")
    assert docker.show(cancelled)["reason"] == "cancelled"
    docker.until(lambda: docker.state(limited) == "failed", 60)
    assert docker.show(limited)["reason"] == "timed_out"
    agent.terminate()
    assert agent.wait(60) == 0
    assert docker_engine.containers() == []


def complete(cli: Cli, run: str, until: int) -> None:
    """Each line of ``counts`` is there once, in its place."""
    assert [line for line in cli("logs", run).splitlines() if "line" in line] == [f"line {i}" for i in range(until)]


def test_an_agent_that_is_killed_goes_on_with_its_containers(docker: Cli, docker_engine: DockerEngine) -> None:
    runs = docker.submit("counts", "-p", "until=500", "--count", "3")
    agent = docker.start("--limit", "3")
    docker.until(lambda: all("line 20" in docker("logs", run) for run in runs), 90)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    assert len(docker_engine.containers()) == 3

    docker("start", "--limit", "3", "--until-empty", timeout=120)
    for run in runs:
        shown = docker.show(run)
        assert (shown["state"], shown["attempt"]) == ("succeeded", 1), shown
        complete(docker, run, 500)
    assert docker_engine.containers() == []


@pytest.fixture
def own_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """An engine that a test may end."""
    with docker_running(shared(tmp_path_factory)) as engine:
        yield engine


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_engine_that_is_started_anew_takes_its_containers_along(
    cli: Cli, own_engine: DockerEngine, how: str
) -> None:
    cli.env |= {"FLOW_AGENT_DOCKER__URL": own_engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE}
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    (lost,) = cli.submit("counts", "-p", "until=10000")
    agent = cli.start("--limit", "1")
    cli.until(lambda: "line 5" in cli("logs", lost), 60)
    (after,) = cli.submit("add", "--key", "after")
    getattr(own_engine, how)()
    time.sleep(1)  # the agent finds nobody
    own_engine.start()
    cli.until(lambda: cli.state(lost) == "failed", 60)
    shown = cli.show(lost)
    assert shown["reason"] == "agent_lost", shown
    assert "engine" in shown["detail"]
    cli.until(lambda: cli.state(after) == "succeeded", 90)
    agent.terminate()
    assert agent.wait(60) == 0
    assert own_engine.containers() == []
    assert own_engine.volumes() == []


def test_containers_outlive_an_engine_that_lets_them(cli: Cli, own_engine: DockerEngine) -> None:
    own_engine.stop()
    own_engine.start("--live-restore")
    cli.env |= {"FLOW_AGENT_DOCKER__URL": own_engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE}
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    (run,) = cli.submit("counts", "-p", "until=200")
    agent = cli.start("--limit", "1")
    cli.until(lambda: "line 5" in cli("logs", run), 60)
    own_engine.stop()
    time.sleep(1)  # it writes while nobody listens
    own_engine.start("--live-restore")
    cli.until(lambda: cli.state(run) in {"succeeded", "failed"}, 90)
    assert cli.show(run)["state"] == "succeeded", cli.show(run)
    complete(cli, run, 200)
    agent.terminate()
    assert agent.wait(60) == 0
    assert own_engine.containers() == []


def test_an_engine_that_stays_away_does_not_hold_a_run_for_ever(cli: Cli, own_engine: DockerEngine) -> None:
    cli.env |= {
        "FLOW_AGENT_DOCKER__URL": own_engine.url,
        "FLOW_AGENT_DOCKER__IMAGE": IMAGE,
        "FLOW_AGENT_LEASE__RUNNING": "16",
        "FLOW_AGENT_LEASE__CLAIMED": "8",
        "FLOW_AGENT_LEASE__HEARTBEAT": "2",
        "FLOW_AGENT_STOP__GRACE": "1",
    }
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    (run,) = cli.submit("counts", "-p", "until=10000")
    agent = cli.start("--limit", "1")
    cli.until(lambda: "line 5" in cli("logs", run), 60)
    own_engine.kill()  # the container goes on, and nobody can tell its keeper to
    cli.until(lambda: cli.state(run) == "failed", 90)
    assert cli.show(run)["reason"] == "agent_lost"
    assert "does not answer" in cli.show(run)["detail"]
    own_engine.start()
    cli.until(lambda: own_engine.containers() == [], 60)
    agent.terminate()
    assert agent.wait(60) == 0


def test_while_the_engine_is_away_runs_go_back_to_the_queue(cli: Cli, own_engine: DockerEngine) -> None:
    cli.env |= {"FLOW_AGENT_DOCKER__URL": own_engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE}
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    agent = cli.start("--limit", "1")
    cli.until(lambda: cli.json("agents"))
    own_engine.stop()
    (run,) = cli.submit("add")
    cli.until(lambda: "does not answer" in cli.show(run)["detail"], 60)
    assert cli.state(run) in {"scheduled", "queued", "claimed"}
    own_engine.start()
    cli.until(lambda: cli.state(run) == "succeeded", 90)
    agent.terminate()
    assert agent.wait(60) == 0


def test_an_image_from_a_private_registry(docker: Cli, docker_engine: DockerEngine, private_registry: Registry) -> None:
    name = f"{private_registry.address}/team/python:1"
    engine = docker_engine.connect()
    engine.sdk.tag(IMAGE, name.rpartition(":")[0], "1")
    credentials = {"username": USER, "password": PASSWORD}
    assert "error" not in engine.sdk.push(name, auth_config=credentials)
    engine.sdk.remove_image(name)
    text = FLOWS.replace("image=IMAGE", f"image={name!r}, registry_secret='REGISTRY'")
    docker.write("private.py", text)
    docker("register", "private.py")

    docker.env["REGISTRY"] = json.dumps({"username": USER, "password": "wrong"})
    (refused,) = docker.submit("add")
    docker("start", "--until-empty", timeout=120)
    shown = docker.show(refused)
    assert shown["reason"] == "launch_failed"
    assert "refuses" in shown["detail"]
    assert "REGISTRY" in shown["detail"]

    docker.env["REGISTRY"] = json.dumps(credentials)
    (run,) = docker.submit("add")
    docker("start", "--until-empty", timeout=120)
    assert docker.state(run) == "succeeded", docker.show(run)
    engine.sdk.remove_image(name, force=True)
    engine.close()


@pytest.mark.slow
@pytest.mark.timeout(300 + 5 * MANY)
def test_many_containers_through_one_agent_that_is_killed_and_an_engine_that_is_started_anew(
    cli: Cli, own_engine: DockerEngine
) -> None:
    cli.env |= {"FLOW_AGENT_DOCKER__URL": own_engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE}
    cli.write("flows.py", FLOWS)
    cli("register", "flows.py")
    runs = cli.submit("steady", "--count", str(MANY))

    def done() -> int:
        return len(cli.json("runs", "--state", "succeeded", "--limit", str(MANY)))

    began = time.monotonic()
    agent = cli.start("--limit", "8")
    cli.until(lambda: done() >= MANY // 4, 60 + 3 * MANY)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    agent = cli.start("--limit", "8")
    cli.until(lambda: done() >= MANY // 2, 60 + 3 * MANY)
    own_engine.stop()
    time.sleep(1)  # the agent finds nobody
    own_engine.start()
    cli.until(lambda: done() == MANY, 60 + 3 * MANY)
    took = time.monotonic() - began
    agent.terminate()
    assert agent.wait(60) == 0

    shown = cli.json("runs", "--limit", str(2 * MANY))
    assert sorted(each["id"] for each in shown) == sorted(runs)
    again = {each["id"] for each in shown if each["attempt"] > 1}
    print(f"{MANY} containers in {took:.1f} s; {len(again)} runs were in those that ended with their engine")
    assert {each["attempt"] for each in shown} <= {1, 2}
    assert len(again) <= 8
    whole = [f"line {i}" for i in range(40)]
    for run in runs:
        lines = [line for line in cli("logs", run).splitlines() if line.startswith("line")]
        before = lines[:-40]
        assert lines[-40:] == whole
        assert before == whole[: len(before) if run in again else 0]
    ends = Counter(
        said["run"]
        for said in (json.loads(line) for line in cli.log().splitlines() if line.startswith("{"))
        if said["event"] == "attempt.ended" and said["state"] == "succeeded"
    )
    assert set(ends.values()) == {1}
    assert own_engine.containers() == []
    assert own_engine.volumes() == []
