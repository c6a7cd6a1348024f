"""Flows from any storage in a plain Python image: the agent fetches, the image has nothing of ours."""

from __future__ import annotations

import json

import pytest

from command import Cli
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE
from servers.git_servers import GitHTTP
from servers.s3 import Server

pytestmark = pytest.mark.timeout(300)

FLOWS = """
import os
from flow_agent import flow
from flow_agent.run_configs import DockerRun
from flow_agent.storages import S3, Git

PLAIN = DockerRun(image={image!r})
OPTIONS = {{"endpoint_url": {s3!r}, "region_name": "us-east-1", "config": {{"s3": {{"addressing_style": "path"}}}}}}

def where(of):
    names = sorted(name for name in os.environ if name.startswith("AWS"))
    return [of, os.path.exists("/flow-agent/runner.pyz"), names]

@flow(name="near", run_config=PLAIN)
def near():
    return where("near")

@flow(name="in a bucket", storage=S3({bucket!r}, client_options=OPTIONS), run_config=PLAIN)
def in_a_bucket(of: str):
    return where(of)

@flow(name="alone", storage=Git("alone.py", {git!r}), run_config=PLAIN)
def alone():
    return "of the registering machine"
"""


def test_flows_of_every_kind_of_storage_run_in_a_plain_image(
    cli: Cli, docker_engine: DockerEngine, s3_server: Server, bucket: str, git_http: GitHTTP
) -> None:
    cli.env |= s3_server.environment | {"FLOW_AGENT_DOCKER__URL": docker_engine.url}
    git = f"{git_http.url}/repository.git"
    cli("register", str(cli.write("flows.py", FLOWS.format(image=IMAGE, s3=s3_server.url, bucket=bucket, git=git))))
    runs = [cli.submit("near")[0], cli.submit("in a bucket", "-p", "of=bucket")[0], cli.submit("alone")[0]]
    cli("start", "--until-empty", "-l", "s3-flow-storage", "-l", "git-flow-storage", timeout=240)
    shown = [cli.show(run) for run in runs]
    assert [(run["state"], run["launcher"], run["attempt"]) for run in shown] == [("succeeded", "docker", 1)] * 3, shown
    assert [json.loads(cli("result", run)) for run in runs[:2]] == [["near", True, []], ["bucket", True, []]]
    assert cli("result", runs[2]) == "first\n"
    assert docker_engine.containers() == []
