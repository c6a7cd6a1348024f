"""Agents and the command line on a queue in PostgreSQL."""

import json
import signal
import time

import pytest

from command import Cli
from servers.postgres import postgres_running

FLOWS = """
import time
from flow_agent import current_run, flow

@flow(name="adds")
def adds(a: int, b: int = 1):
    print(f"adds {a} and {b}")
    return a + b

@flow(name="talks")
def talks(lines: int = 150):
    for number in range(lines):
        print(f"line {number}")
        time.sleep(0.02)
    return current_run().attempt
"""


@pytest.fixture
def database(cli: Cli, postgres_url: str) -> Cli:
    cli.env["FLOW_AGENT_QUEUE"] = postgres_url
    cli("register", str(cli.write("flows.py", FLOWS)))
    return cli


def test_a_run_goes_from_submit_to_its_result(database: Cli) -> None:
    cli = database
    cli.start("--name", "one")
    (run,) = cli.submit("adds", "-p", "a=2", "--wait")[:1]
    assert json.loads(cli("result", run)) == 3
    assert "adds 2 and 1" in cli("logs", run)
    assert [agent["name"] for agent in cli.json("agents")] == ["one"]
    assert "is up to date" in cli.run("migrate").stderr
    assert not (cli.home / "queue.db").exists()


@pytest.mark.slow
def test_a_submit_wakes_an_agent_that_hardly_ever_looks(database: Cli) -> None:
    cli = database
    cli.start("--name", "one", "--poll", "60")
    cli("submit", "adds", "-p", "a=1", "--wait")
    began = time.monotonic()
    cli("submit", "adds", "-p", "a=2", "--wait")
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_two_agents_share_the_runs_and_one_takes_over_nothing_of_the_other(database: Cli) -> None:
    cli = database
    for name in ("one", "two"):
        cli.start("--name", name, "--limit", "2")
    runs = [cli.submit("talks", "-p", "lines=20")[0] for _ in range(12)]
    cli.until(lambda: {cli.state(run) for run in runs} == {"succeeded"}, 60)
    shown = [cli.show(run) for run in runs]
    assert {each["attempt"] for each in shown} == {1}
    for run in runs:
        assert [line for line in cli("logs", run).splitlines() if "line" in line][-1].endswith("line 19")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_server_is_killed_and_comes_back_while_flows_run(cli: Cli) -> None:
    with postgres_running() as server:
        cli.env["FLOW_AGENT_QUEUE"] = server.url
        cli("register", str(cli.write("flows.py", FLOWS)))
        agent = cli.start("--name", "one", "--limit", "3")
        runs = [cli.submit("talks")[0] for _ in range(3)]
        cli.until(lambda: all("line 5" in cli("logs", run) for run in runs))
        server.kill()
        time.sleep(4)  # the flows end meanwhile, or nearly
        server.start()
        cli.until(lambda: {cli.state(run) for run in runs} == {"succeeded"}, 60)
        for run in runs:
            assert cli.show(run)["attempt"] == 1
            texts = [line.rpartition("line ")[2] for line in cli("logs", run).splitlines() if "line " in line]
            assert texts == [str(number) for number in range(150)]
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
        assert "password" not in cli.log()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_agent_that_is_started_while_the_database_is_away_waits_for_it(cli: Cli) -> None:
    with postgres_running() as server:
        cli.env["FLOW_AGENT_QUEUE"] = server.url
        cli("register", str(cli.write("flows.py", FLOWS)))
        run = cli.submit("adds", "-p", "a=1")[0]
        server.kill()
        agent = cli.start("--name", "one")
        cli.until(lambda: "queue.unavailable" in cli.log())
        assert "cannot be reached" in cli.error("start", "--until-empty", "--name", "two", code=1)
        server.start()
        cli.until(lambda: cli.state(run) == "succeeded", 60)
        assert cli.log().count("queue.unavailable") == 1
        agent.terminate()
        assert agent.wait(30) == 0
