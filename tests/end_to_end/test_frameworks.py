"""Flows of Prefect 1 and 3, made by those packages themselves, run as what they are, with their ends in our words."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

import frameworks
from command import Cli
from servers.s3 import ROOT, Server

pytestmark = pytest.mark.timeout(240)

ONE = """
import os

import pendulum
import prefect
from prefect import Flow, Parameter, task
from prefect.engine import signals
from prefect.run_configs import DockerRun, LocalRun
from prefect.schedules import IntervalSchedule
from prefect.storage import Local
from prefect.tasks.secrets import PrefectSecret


@task
def double(n):
    prefect.context.get("logger").warning("doubling %s", n)
    return 2 * n


@task(max_retries=1, retry_delay=pendulum.duration(seconds=0))
def check(value, secret):
    print("the variable is", os.environ["TEAM"], "and the key", secret["key"])
    if value > 100:
        raise ValueError(f"{value} is too much")
    if value < 0:
        raise signals.SKIP("nothing to do")


with Flow(
    "one",
    storage=Local(labels=["mine"]),
    run_config=LocalRun(env={"TEAM": "data"}, labels=["there"]),
    schedule=IntervalSchedule(interval=pendulum.duration(days=1)),
) as flow:
    check(double(Parameter("n", default=3)), PrefectSecret("TOKEN"))

flow.register(project_name="none")
"""


def test_a_script_of_prefect_1_is_registered_and_runs_as_what_it_is(cli: Cli) -> None:
    frameworks.command(cli, "prefect1")
    cli.env["TOKEN"] = '{"key": "the-value-of-the-token"}'
    cli.write("one.py", ONE)
    said = cli.run("register", "one.py")
    assert said.stdout == "one\t1\n", said.stderr
    assert "its schedule has no counterpart" in said.stderr
    runs = [cli.submit("one", *arguments)[0] for arguments in ([], ["-p", "n=99"], ["-p", "n=-1"])]
    assert "it takes n" in cli.error("submit", "one", "-p", "m=1", code=2)
    cli("start", "--until-empty", "-l", "mine", "-l", "there")
    good, bad, skipped = map(cli.show, runs)
    assert (good["state"], good["reason"], skipped["state"]) == ("succeeded", "completed", "succeeded")
    assert set(good["labels"]) >= {"mine", "there"}
    assert (bad["state"], bad["reason"]) == ("failed", "raised")
    assert "task 'check': ValueError: 198 is too much" in bad["detail"]
    said = cli("logs", runs[0])
    assert "the variable is data and the key [redacted]" in said
    assert said.count("doubling 3") == said.count("WARNING doubling 3") == 1
    assert cli("logs", runs[1]).count("Task 'check': Starting task run") == 2  # its own retry


ODD = """
import time

import prefect
from prefect import Flow, Parameter, task, unmapped
from prefect.executors import LocalDaskExecutor
from prefect.triggers import manual_only


@task
def add(x, y):
    prefect.context.logger.info("added %s", x + y)
    return x + y


@task(trigger=manual_only)
def approve():
    pass


@task
def wait():
    print("waiting", flush=True)
    time.sleep(60)


for kind in ("threads", "processes"):
    with Flow(f"T\u00e4gliche Zahlen / {kind}", executor=LocalDaskExecutor(scheduler=kind)) as flow:
        add.map([1, 2, 3], unmapped(Parameter("how much", default=1)))
    globals()[kind] = flow
with Flow("approved") as approved:
    approve()
with Flow("slow") as slow:
    wait()
"""


def test_odd_flows_of_prefect_1_end_as_they_should(cli: Cli) -> None:
    frameworks.command(cli, "prefect1")
    cli.write("odd.py", ODD)
    cli("register", "odd.py")
    mapped = [cli.submit(f"Tägliche Zahlen / {kind}", "-p", "how much=10")[0] for kind in ("threads", "processes")]
    (wrong,) = cli.submit("Tägliche Zahlen / threads", "-p", "how little=1")
    (paused,), (slow,) = cli.submit("approved"), cli.submit("slow")
    cli.start("--limit", "5")
    cli.until(lambda: "waiting" in cli("logs", slow))
    cli("cancel", slow, "--wait")
    cli.until(lambda: all(cli.show(run)["finished_at"] for run in (*mapped, wrong, paused)))
    assert [cli.state(run) for run in mapped] == ["succeeded"] * 2
    assert all("added 13" in cli("logs", run) for run in mapped)
    assert cli.show(wrong)["reason"] == "parameters_invalid"
    assert "until somebody approves" in cli.show(paused)["detail"]
    assert cli.state(slow) == "cancelled"


PICKLED = """
import cloudpickle, prefect, os
from prefect import Flow, Parameter, task
from prefect.storage import S3
from prefect.utilities.storage import flow_to_bytes_pickle

class Planted:
    def __reduce__(self):
        code = "__import__('json').dump(dict(__import__('os').environ), open('{seen}', 'w'))"
        return eval, (code,)

@task
def add(a, b):
    return a + b

with Flow("stored", storage=S3("elsewhere", secrets=["AWS_CREDENTIALS"], labels=["team"])) as flow:
    add(Parameter("a"), Parameter("b", default=1))
flow.planted = Planted()
open("envelope", "wb").write(flow_to_bytes_pickle(flow))
open("raw", "wb").write(cloudpickle.dumps(flow))
"""


def pickled(cli: Cli) -> Path:
    """What Prefect stores, in ``envelope`` and ``raw``; the first line of the answer is where loading them tells."""
    seen = cli.folder / "seen.json"
    frameworks.python("prefect1", PICKLED.replace("{seen}", str(seen)), cli.folder)
    seen.unlink(missing_ok=True)
    return seen


@pytest.mark.parametrize("form", ["envelope", "raw"])
def test_what_prefect_1_has_stored_in_a_bucket_is_registered_where_it_is(
    form: str, cli: Cli, s3_server: Server, bucket: str
) -> None:
    frameworks.command(cli, "prefect1")
    seen = pickled(cli)
    cli.env |= s3_server.environment | {"AWS_ENDPOINT_URL": s3_server.url, "MY_PASSWORD": "do-not-take-this-along"}
    client = s3_server.client(credentials=ROOT)
    client.put_object(Bucket=bucket, Key="stored/2021-01-01t00-00-00", Body=(cli.folder / form).read_bytes())
    (made,) = cli.json("register", f"s3://{bucket}/stored/2021-01-01t00-00-00", "-l", "mine")
    env = json.loads(seen.read_text())
    assert not {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MY_PASSWORD"} & env.keys()
    assert "do-not-take" not in seen.read_text()
    assert (made["flow"], made["kind"], made["pinned"]) == ("stored", "pickle", True)
    assert set(made["labels"]) == {"mine", "s3-flow-storage", "team"}
    assert [each["name"] for each in made["parameters"]] == ["a", "b"]
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["stored/2021-01-01t00-00-00"]
    client.close()
    cli.env["AWS_CREDENTIALS"] = s3_server.secret  # the flow declares it
    (run,) = cli.submit("stored", "-p", "a=2")
    cli("start", "--until-empty", "-l", "mine", "-l", "team", "-l", "s3-flow-storage")
    assert cli.state(run) == "succeeded", cli.show(run)


def test_a_stored_file_of_this_machine_is_registered_where_it_is_and_stays(cli: Cli) -> None:
    frameworks.command(cli, "prefect1")
    pickled(cli)
    before = (cli.folder / "envelope").read_bytes()
    cli("register", "envelope")
    cli.env["AWS_CREDENTIALS"] = '{"ACCESS_KEY": "a", "SECRET_ACCESS_KEY": "b"}'
    (run,) = cli.submit("stored", "-p", "a=2")
    cli("start", "--until-empty", "-l", "team")
    assert cli.state(run) == "succeeded", cli.show(run)
    assert (cli.folder / "envelope").read_bytes() == before
    (cli.folder / "envelope").write_bytes(before + b" ")
    (run,) = cli.submit("stored", "-p", "a=2")
    cli("start", "--until-empty", "-l", "team")
    assert cli.show(run)["reason"] == "digest_mismatch"


def test_a_pickle_of_another_python_is_refused_with_the_way_out(cli: Cli) -> None:
    table = {"flow": base64.b64encode(b"x").decode(), "versions": {"python": "3.7.10", "prefect": "0.15.0"}}
    cli.write("old", json.dumps(table))
    said = cli.error("register", "old", code=1)
    assert "pickled by Python 3.7" in said
    assert "hint: " in said


def test_where_its_package_is_missing_that_is_said(cli: Cli) -> None:
    """With the command of an environment that has no Prefect."""
    pickled(cli)
    said = cli.error("register", "envelope", code=1)
    assert "No module named 'prefect'" in said
    assert "hint: install it for" in said


THREE = """
import asyncio

import helper
from prefect import flow, get_run_logger, task
from prefect.states import Cancelled


@task
def double(n: int) -> int:
    get_run_logger().warning("doubling %s", n)
    return 2 * n


@flow(name="three", log_prints=True)
def three(n: int = 3):
    print("this is three")
    if n == 0:
        return Cancelled(message="nothing to do")
    return double(n) + helper.ONE


@flow
async def later(n: int):
    await asyncio.sleep(0)
    raise ValueError(f"not {n}")
"""


def test_flows_of_prefect_3_run_as_what_they_are(cli: Cli) -> None:
    frameworks.command(cli, "prefect3")
    cli.write("helper.py", "ONE = 1\n")
    cli.write("three.py", THREE)
    assert cli("register", "three.py") == "three\t1\nlater\t1\n"
    runs = [
        cli.submit(*arguments)[0]
        for arguments in (("three",), ("three", "-p", "n=0"), ("three", "-p", "n=x"), ("later", "-p", "n=7"))
    ]
    # Each starts a server of Prefect's own beside it, since none is configured.
    cli("start", "--until-empty", "--limit", "2", timeout=200)
    good, cancelled, invalid, bad = map(cli.show, runs)
    assert (good["state"], cli.json("result", runs[0])) == ("succeeded", 7)
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "cancelled")
    assert "nothing to do" in cancelled["detail"]
    assert (invalid["state"], invalid["reason"]) == ("failed", "parameters_invalid")
    assert (bad["state"], bad["reason"], bad["detail"]) == ("failed", "raised", "ValueError: not 7")
    said = cli("logs", runs[0])
    assert "WARNING doubling 3" in said
    assert "INFO this is three" in said
    assert "HTTP Request" not in said


def test_a_plain_function_is_a_flow_if_it_is_named(cli: Cli) -> None:
    cli.write("plain.py", "def add(a, b=1):\n    print('adding')\n    return a + b\n")
    assert "there is no flow in plain.py" in cli.error("register", "plain.py", code=1)
    cli("register", "plain.py:add")
    (run,) = cli.submit("add", "-p", "a=2")
    cli("start", "--until-empty")
    assert (cli.state(run), cli.json("result", run)) == ("succeeded", 3)
    assert "adding" in cli("logs", run)
