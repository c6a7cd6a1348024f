"""kill -9 of the agent at any moment: nothing lost, nothing started twice by surprise, nothing left over."""

from __future__ import annotations

import collections
import os
import random
import signal
import time

import anyio
import pytest

from command import Cli
from flow_agent.queues.sqlite import open_queue

KILLS, IN_FLIGHT = 50, 40
COMMAND_TAKES = 0.3
"""Seconds of a command on an idle machine; on one that is busy, an agent gets as much more time until it is killed."""

FLOW = """
import os, sys, time
from flow_agent import current_run, flow

def work(seconds):
    run = current_run()
    with open("{trace}", "a") as trace:
        trace.write(f"{{run.id}} {{run.attempt}} {{os.getpid()}} {{time.time()}}\\n")
    for i in range(20):
        print(run.attempt, "line", i)
        time.sleep(seconds / 20)
    return run.attempt

@flow(name="once")
def once(seconds: float):
    return work(seconds)

@flow(name="again", retries=3)
def again(seconds: float):
    return work(seconds)
"""


async def all_logs(cli: Cli, runs: list[str]) -> dict[str, list[str]]:
    async with open_queue(f"sqlite:{cli.home}/queue.db") as queue:
        return {run: [line.text for line in await queue.logs(run) if line.source == "flow"] for run in runs}


@pytest.mark.timeout(400)
def test_fifty_kills_with_forty_runs_in_flight(cli: Cli) -> None:
    seed = int(os.environ.get("FLOW_AGENT_TEST_SEED") or random.randrange(10**6))
    print(f"FLOW_AGENT_TEST_SEED={seed}")
    chance = random.Random(seed)
    trace = cli.folder / "trace"
    cli("register", str(cli.write("flows.py", FLOW.format(trace=trace))))
    runs: list[str] = []
    for kill in range(KILLS):
        began = time.monotonic()
        waiting = sum(run["state"] in {"queued", "claimed", "running"} for run in cli.json("runs", "--limit", "500"))
        slow = min(3.0, max(1.0, (time.monotonic() - began) / COMMAND_TAKES))
        if waiting < IN_FLIGHT:
            name, seconds = chance.choice(["once", "again"]), chance.uniform(0.0, 2.0)
            runs += cli.submit(name, "-p", f"seconds={seconds}", "--count", str(IN_FLIGHT - waiting + 5))
        agent = cli.start("--limit", str(IN_FLIGHT), "--name", "victim")
        time.sleep(slow * chance.uniform(0.2, 1.6))
        assert agent.poll() is None, f"the agent ended by itself before kill {kill}: {cli.log()[-2000:]}"
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    cli("start", "--limit", str(IN_FLIGHT), "--name", "victim", "--until-empty", timeout=300)

    started = collections.Counter(tuple(line.split()[:2]) for line in trace.read_text().splitlines())
    assert max(started.values()) == 1, "an attempt's user code ran twice"
    ended = {run["id"]: run for run in cli.json("runs", "--limit", "5000")}
    assert set(ended) == set(runs)
    logs = anyio.run(all_logs, cli, runs)
    for run_id in runs:
        run = ended[run_id]
        attempts = sum(1 for (traced, _) in started if traced == run_id)
        if run["reason"] == "agent_error":  # lost five times before it could start
            assert (run["state"], run["attempt"], attempts) == ("failed", 0, 0)
            continue
        assert run["state"] == "succeeded", run
        assert attempts == run["attempt"]
        assert attempts == 1 or run["flow"] == "again"
        text = logs[run_id]
        expected = [f"{attempt} line {i}" for attempt in range(1, attempts + 1) for i in range(20)]
        assert text[-20:] == expected[-20:]
        assert len(text) == len(set(text)), f"doubled lines in {run_id}"
        if attempts == 1:
            assert text == expected
    survivors = sum(run["reason"] == "completed" for run in ended.values())
    assert survivors > len(runs) / 2
    cli.until(lambda: not cli.processes(), 10)
    assert [path.name for path in (cli.home / "spool" / "victim").iterdir()] == ["bell"]
