"""The files of `deploy/` say what the pages say of them."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.validate import ParamValidator

from command import COMMAND, unless_all_is_required
from flow_agent.cli import VERBS
from flow_agent.settings import Settings, load

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "flow-agent.service"
COMPOSE = ROOT / "deploy" / "compose.yaml"


class _Unit(configparser.RawConfigParser):
    """systemd knows a key more than once, and tells large letters from small ones."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> configparser.SectionProxy:
    parser = _Unit(strict=False)
    parser.read(UNIT)
    return parser["Service"]


def test_systemd_finds_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        unless_all_is_required("there is no systemd-analyze")
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/flow-agent/bin/flow-agent", COMMAND))
    for arguments in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=25"]):
        done = subprocess.run([str(analyze), *arguments, str(here)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert arguments[0] != "verify" or not done.stderr, done.stderr


def test_the_unit_lets_attempts_live_and_waits_for_those_that_drain() -> None:
    service = unit()
    expected = {"Type": "notify", "KillMode": "process", "Delegate": "yes", "TimeoutStartSec": "infinity"}
    assert {key: service[key] for key in expected} == expected
    # Extending its leases may take the agent this long; what it says of itself comes more often.
    assert int(service["WatchdogSec"]) >= 2 * Settings().lease.heartbeat


def test_what_the_page_says_of_the_unit_stands_in_it() -> None:
    page = (ROOT / "docs/deploy.md").read_text()
    table = page.partition("| setting of the unit | why |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+=[^`]+)`", table.replace("| `WatchdogSec", "\n| `WatchdogSec"))
    lines = UNIT.read_text().splitlines()
    assert len(named) > 5
    for setting in named:
        assert setting in lines or setting == "FLOW_AGENT_AGENT__LIMIT=8"


def test_the_drop_in_lets_the_service_at_the_engine_and_runs_no_flow_as_a_process(monkeypatch: Any) -> None:
    parser = _Unit(strict=False)
    parser.read(ROOT / "deploy/flow-agent-docker.conf")
    service = parser["Service"]
    assert service["SupplementaryGroups"] == "docker"
    monkeypatch.setenv(*service["Environment"].split("=", 1))
    assert load().agent.launchers == ("docker",)


def test_the_compose_file_of_the_engine_gives_the_agent_alone_its_socket(monkeypatch: Any) -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.docker.yaml").read_text())["services"]
    assert list(services) == ["agent"]
    for name, value in services["agent"]["environment"].items():
        monkeypatch.setenv(name, value)
    assert load().agent.launchers == ("docker",)
    more = ("--file", str(ROOT / "deploy/compose.docker.yaml"), "config")
    done = composed(*more, POSTGRES_PASSWORD="secret", DOCKER_GID="998")
    assert done.returncode == 0, done.stderr
    agent = yaml.safe_load(done.stdout)["services"]["agent"]
    targets = {each["target"] if isinstance(each, dict) else each.split(":")[1] for each in agent["volumes"]}
    assert targets == {"/var/lib/flow-agent", "/var/run/docker.sock"}
    assert agent["group_add"] == ["998"]
    assert agent["environment"]["FLOW_AGENT_QUEUE"] == "http://server:8642"


def test_the_settings_that_the_files_name_are_settings() -> None:
    known = {*re.findall(r"FLOW_AGENT_\w+", (ROOT / "README.md").read_text()), "FLOW_AGENT_HOME", "FLOW_AGENT_CONFIG"}
    for path in sorted((ROOT / "deploy").iterdir()):
        named = set(re.findall(r"FLOW_AGENT_[A-Z_]+[A-Z]", path.read_text()))
        assert named <= known, path


def test_the_image_is_built_of_files_that_are_there_for_a_python_that_is_supported() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    version = re.search(r"^ARG BASE=python:3\.(\d+)-slim$", text, re.MULTILINE)
    assert version is not None
    assert 11 <= int(version[1]) <= sys.version_info[1] + 1
    assert re.findall(r"^FROM runtime AS (\w+)$", text, re.MULTILINE) == ["all", "small"]
    assert text.count("USER 10001:10001") == 2


def test_the_task_definition_of_ecs_is_one_and_its_settings_are_read(own_home: Path, monkeypatch: Any) -> None:
    found = json.loads((ROOT / "deploy/ecs-agent.json").read_text())
    client = boto3.client("ecs", region_name="eu-west-1", aws_access_key_id="nobody", aws_secret_access_key="nothing")
    with contextlib.closing(client):
        shape = client.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
        report = ParamValidator().validate(found, shape)
    assert not report.has_errors(), report.generate_report()
    (container,) = found["containerDefinitions"]
    assert container["command"][0] in VERBS
    assert "TOKEN" not in str(container["environment"])
    for each in container["environment"]:
        monkeypatch.setenv(each["name"], each["value"])
    settings = load()
    assert settings.agent.launchers == ("ecs",)
    assert settings.ecs.cluster == "flows"
    assert len(settings.ecs.subnets) == 2
    assert container["stopTimeout"] <= 120


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def composed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What docker-compose says of our file; it needs no engine for that."""
    program = shutil.which("docker-compose")
    if program is None:
        unless_all_is_required("there is no docker-compose")
    env = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    return subprocess.run(
        [str(program), "--file", str(COMPOSE), *arguments],
        env={**env, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_docker_compose_understands_the_compose_file() -> None:
    done = composed("config", POSTGRES_PASSWORD="secret")
    assert done.returncode == 0, done.stderr
    assert sorted(yaml.safe_load(done.stdout)["services"]) == ["agent", "postgres", "server"]


def test_docker_compose_asks_for_a_password_that_nobody_chose() -> None:
    if (COMPOSE.parent / ".env").exists():
        pytest.fail("deploy/.env is there: tests need a folder without one")
    done = composed("config")
    assert done.returncode != 0
    assert "put it into deploy/.env" in done.stderr


def test_what_the_compose_file_starts_is_there() -> None:
    services = compose()["services"]
    targets = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    for name in ("server", "agent"):
        build = services[name]["build"]
        assert (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file()
        assert build["target"] in targets
        assert services[name]["command"][0] in VERBS
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert "privileged" not in services[name]


def test_agents_of_the_compose_file_know_neither_database_nor_password() -> None:
    services = compose()["services"]
    assert "POSTGRES" not in str(services["agent"])
    assert set(services["agent"]["networks"]).isdisjoint(services["postgres"]["networks"])
    assert not [port for service in services.values() for port in service.get("ports", ()) if "127.0.0.1" not in port]


def test_no_secret_of_the_compose_file_can_be_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"deploy/.env", "deploy/agent.token"} <= set(ignored)
