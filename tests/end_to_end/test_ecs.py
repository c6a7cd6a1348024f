"""Runs in tasks of ECS, with the installed command: the tasks of the stand-in are real processes, the queue is a real
one."""

from __future__ import annotations

import signal
import subprocess

import pytest

from command import Cli
from servers.ecs import GROUP, REGION, Ecs

pytestmark = pytest.mark.timeout(300)
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:password"

FLOWS = """
import os
import time
from pathlib import Path
from flow_agent import Flow
from flow_agent.run_configs import ECSRun, Secret
from flow_agent.storages import Module


def adds(a: int, b: int = 1) -> int:
    print(os.environ["GREETING"], "and", os.environ["PASSWORD"])
    return a + b


def counts(end: str) -> int:
    n = 0
    while not Path(end).exists():
        print(f"line {n}")
        n += 1
        time.sleep(0.1)
    return n


greedy = Flow("greedy", counts, storage=Module("task_flows"), run_config=ECSRun(cluster="others"))
adds = Flow(
    "adds",
    adds,
    storage=Module("task_flows"),
    run_config=ECSRun(env={"GREETING": "hello", "PASSWORD": Secret("DB_PASSWORD")}),
)
counts = Flow("counts", counts, storage=Module("task_flows"), run_config=ECSRun(cpu=512))
"""


@pytest.fixture
def account(cli: Cli, ecs: Ecs) -> Ecs:
    """The account, whose images have the module of flows, which are registered."""
    path = cli.write("task_flows.py", FLOWS)
    ecs.env["PYTHONPATH"] = str(cli.folder)
    ecs.secrets[ARN] = "correct horse"
    cli.env |= {"PYTHONPATH": str(cli.folder), **ecs.environment}
    cli("register", str(path))
    return ecs


def start(cli: Cli, ecs: Ecs, name: str) -> subprocess.Popen[bytes]:
    options = {
        "region": REGION,
        "endpoint": ecs.url,
        "cluster": "flows",
        "image": "flow-agent:test",
        "subnets": ecs.subnet(),
        "log-group": GROUP,
        "secrets": f"DB_PASSWORD={ARN}",
    }
    words = [word for option, value in options.items() for word in (f"--ecs-{option}", value)]
    return cli.start("--launcher", "ecs", "--name", name, "--poll", "0.5", *words)


def test_a_flow_runs_in_a_task_from_submit_to_result(cli: Cli, account: Ecs) -> None:
    start(cli, account, "one")
    (run,) = cli.submit("adds", "-p", "a=41")
    cli.until(lambda: cli.state(run) == "succeeded", 120)
    assert cli.json("result", run) == 42
    assert "hello and [redacted]" in cli("logs", run)
    assert cli.show(run)["ref"].startswith(f"flows/{run}-1/")
    assert "correct horse" not in cli.log()
    (refused,) = cli.submit("greedy", "-p", "end=x")
    cli.until(lambda: cli.state(refused) == "failed", 60)
    assert cli.show(refused)["reason"] == "not_allowed"
    assert len(account.tasks) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_task_goes_on_when_its_agent_ends_and_another_one_watches_it(
    cli: Cli, account: Ecs, how: signal.Signals
) -> None:
    first = start(cli, account, "first")
    (run,) = cli.submit("counts", "-p", f"end={cli.folder}/end")
    cli.until(lambda: "line 3" in cli("logs", run), 120)
    first.send_signal(how)
    assert first.wait(60) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    start(cli, account, "first" if how is signal.SIGKILL else "second")
    (cli.folder / "end").touch()
    cli.until(lambda: cli.state(run) == "succeeded", 120)
    lines = [line.split()[-1] for line in cli("logs", run).splitlines() if " line " in f" {line}"]
    assert lines == [str(number) for number in range(cli.json("result", run))]
    assert len(account.tasks) == 1
    assert cli.show(run)["attempt"] == 1


def test_a_run_without_room_for_its_task_goes_on_waiting_with_the_next_agent(cli: Cli, account: Ecs) -> None:
    account.faults["RunTask"] = [{"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY", "arn": "a"}]}] * 1_000
    first = start(cli, account, "first")
    (run,) = cli.submit("adds", "-p", "a=41")
    cli.until(lambda: account.calls.get("RunTask", 0) > 1, 60)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    account.faults["RunTask"] = []
    start(cli, account, "second")
    cli.until(lambda: cli.state(run) == "succeeded", 120)
    assert cli.json("result", run) == 42
    assert (cli.show(run)["attempt"], len(account.tasks)) == (1, 1)
