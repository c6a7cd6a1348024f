"""Runs in containers: the installed command, a real engine."""

from __future__ import annotations

import json

import pytest

from command import Cli
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE

pytestmark = pytest.mark.timeout(300)

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
