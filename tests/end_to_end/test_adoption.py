"""What an agent that was killed left behind is taken over by the next one of its name, as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest

import flow_agent
from command import Cli

FLOWS = """
import logging, os, signal, sys, time
from flow_agent import current_run, flow

def begin(gate):
    run = current_run()
    with open({trace!r}, "a") as trace:
        trace.write(f"{{run.id}} {{run.attempt}}\\n")
    for number in range(100):
        print("before", number)
        logging.info("record %s", number)
    while not os.path.exists(gate):
        time.sleep(0.01)
    for number in range(100):
        print("after", number)
        logging.info("record %s", 100 + number)

@flow(name="returns")
def returns(gate: str):
    begin(gate)
    return {{"x": "y" * 100_000}}

@flow(name="pickles")
def pickles(gate: str):
    begin(gate)
    return (1, {{2: 3}})

@flow(name="raises")
def raises(gate: str):
    begin(gate)
    raise ValueError("on purpose")

@flow(name="tries again", retries=1)
def tries_again(gate: str):
    begin(gate)
    if current_run().attempt == 1:
        raise ValueError("the first time")
    return 2

@flow(name="leaves")
def leaves(gate: str):
    begin(gate)
    sys.stdout.flush()
    os._exit(3)

@flow(name="is shot")
def is_shot(gate: str):
    begin(gate)
    os.kill(os.getpid(), signal.SIGKILL)

@flow(name="waits")
def waits(gate: str):
    begin(gate + ".never")

@flow(name="waits too long", timeout=10)
def waits_too_long(gate: str):
    begin(gate + ".never")

@flow(name="talks")
def talks(gate: str):
    number = 0
    while not os.path.exists(gate):
        if number % 3:
            print(f"line {{number}}")
        else:
            logging.info("line %s", number)
        number += 1
        time.sleep(0.02)
    return number
"""

LINES = [
    *(text for number in range(100) for text in (f"before {number}", f"record {number}")),
    *(text for number in range(100) for text in (f"after {number}", f"record {100 + number}")),
]
ENDS: dict[str, list[str]] = {
    "returns": ["completed"],
    "pickles": ["completed"],
    "raises": ["raised"],
    "tries again": ["raised", "completed"],
    "leaves": ["exited"],
    "is shot": ["killed"],
}
"""By the flow: how its attempts end."""


class Life:
    """Agents of one name, one after the other."""

    def __init__(self, cli: Cli) -> None:
        self.cli, self.trace, self.gate = cli, cli.folder / "trace", cli.folder / "gate"
        cli("register", str(cli.write("flows.py", FLOWS.format(trace=str(self.trace)))))

    def begin(self, flows: list[str], *arguments: str) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
        """An agent, and a run of each flow, all of which have begun."""
        agent = self.cli.start("--name", "same", "--limit", str(len(flows)), *arguments)
        runs = {flow: self.cli.submit(flow, "-p", f"gate={self.gate}")[0] for flow in flows}
        self.cli.until(lambda: len(self.traced()) == len(runs))
        self.cli.until(lambda: {self.cli.state(run) for run in runs.values()} == {"running"})
        return agent, runs

    def traced(self) -> list[str]:
        return self.trace.read_text().splitlines() if self.trace.exists() else []

    def kill(self, agent: subprocess.Popen[bytes]) -> None:
        agent.send_signal(signal.SIGKILL)
        agent.wait()

    def texts(self, run: str) -> list[str]:
        """What the flow printed and logged, and what others said of it."""
        return re.sub(r"^\d\d:\d\d:\d\d INFO ", "", self.cli("logs", run), flags=re.MULTILINE).splitlines()

    def reasons(self, run: str) -> list[str]:
        return [attempt["reason"] for attempt in self.cli.show(run)["attempts"]]


@pytest.fixture
def life(cli: Cli) -> Life:
    return Life(cli)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("fork", "fresh"), ("fresh", "fork")])
def test_attempts_that_end_while_nobody_watches_are_told_whole(life: Life, before: str, after: str) -> None:
    cli = life.cli
    agent, runs = life.begin(list(ENDS), "--process-start", before)
    life.kill(agent)
    life.gate.touch()
    spool = cli.home / "spool" / "same"
    cli.until(lambda: all((spool / f"{run}-1" / "exit.json").exists() for run in runs.values()))
    cli.until(lambda: not cli.processes(), 10)
    assert {cli.state(run) for run in runs.values()} == {"running"}
    time.sleep(3)
    back = time.time()
    cli("start", "--name", "same", "--process-start", after, "--until-empty")
    assert {flow: life.reasons(run) for flow, run in runs.items()} == ENDS
    assert sorted(life.traced()) == sorted(
        f"{run} {n + 1}" for flow, run in runs.items() for n in range(len(ENDS[flow]))
    )
    for flow, run in runs.items():
        texts = [text for text in life.texts(run) if text.startswith(("before", "after", "record"))]
        assert texts == LINES * len(ENDS[flow])
    assert json.loads(cli("result", runs["returns"])) == {"x": "y" * 100_000}
    assert cli("result", runs["pickles"], "--unpickle").strip() == "(1, {2: 3})"
    assert cli("result", runs["tries again"]).strip() == "2"
    assert cli.show(runs["raises"])["detail"] == "ValueError: on purpose"
    assert "exited with code 3; last output:\n" in cli.show(runs["leaves"])["detail"]
    assert cli.show(runs["is shot"])["exit_code"] == 137
    for run in runs.values():
        first = cli.show(run)["attempts"][0]
        assert datetime.fromisoformat(first["finished_at"]).timestamp() < back - 2, "it ended before the agent was back"
    assert [path.name for path in spool.iterdir()] == ["bell"]


def test_what_was_cancelled_or_passed_its_time_limit_while_nobody_watched_is_ended(life: Life) -> None:
    cli = life.cli
    agent, runs = life.begin(["waits", "waits too long"])
    life.kill(agent)
    cli("cancel", runs["waits"])
    assert cli.state(runs["waits"]) == "running", "something of it runs"
    cli("start", "--name", "same", "--until-empty")
    assert {flow: life.reasons(run) for flow, run in runs.items()} == {
        "waits": ["cancelled"],
        "waits too long": ["timed_out"],
    }
    assert len(life.traced()) == 2
    cli.until(lambda: not cli.processes(), 10)


@pytest.mark.slow
def test_output_is_followed_from_where_the_last_life_left_off(life: Life) -> None:
    cli = life.cli
    (run,) = cli.submit("talks", "-p", f"gate={life.gate}")
    for start in itertools.islice(itertools.cycle(["fork", "fresh"]), 4):
        agent = cli.start("--name", "same", "--process-start", start)
        seen = len(life.texts(run))
        cli.until(lambda seen=seen: len(life.texts(run)) > seen + 20)
        life.kill(agent)
        assert cli.state(run) == "running"
    life.gate.touch()
    cli("start", "--name", "same", "--until-empty")
    assert life.reasons(run) == ["completed"]
    lines = json.loads(cli("result", run))
    assert lines > 80
    assert life.texts(run) == [f"line {number}" for number in range(lines)]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "fresh"])
def test_another_version_in_the_same_place_takes_over(life: Life, start: str) -> None:
    cli, place = life.cli, life.cli.folder / "packages"
    cli.env["PYTHONPATH"] = str(place)
    install(place, "1.2.3")
    agent, runs = life.begin(list(ENDS), "--process-start", start)
    shutil.rmtree(place)
    life.kill(agent)
    install(place, "99.0")
    cli.start("--name", "same", "--limit", str(len(ENDS)))
    cli.until(lambda: len(versions(cli)) == 2)
    assert versions(cli) == ["1.2.3", "99.0"]
    life.gate.touch()
    cli.until(lambda: not {cli.state(run) for run in runs.values()} & {"queued", "claimed", "running"})
    assert {flow: life.reasons(run) for flow, run in runs.items()} == ENDS
    assert len(life.traced()) == sum(map(len, ENDS.values()))
    for flow, run in runs.items():
        texts = [text for text in life.texts(run) if text.startswith(("before", "after", "record"))]
        assert texts == LINES * len(ENDS[flow])


def install(place: Path, version: str) -> None:
    """A flow-agent that says it is of that version."""
    source = Path(flow_agent.__file__).parent
    shutil.copytree(source, place / "flow_agent", ignore=shutil.ignore_patterns("__pycache__"))
    path = place / "flow_agent" / "version.py"
    path.write_text(path.read_text().replace(flow_agent.__version__, version))


def versions(cli: Cli) -> list[str]:
    """Of the agents that have started, as their log says it."""
    lines = [json.loads(line) for line in cli.log().splitlines() if line.startswith("{")]
    return [line["version"] for line in lines if line["event"] == "agent.started"]
