"""What does a run in a container cost beside `docker run` of the same image?

In turns: `docker run --rm` of `python3 -c pass`, and a run of an empty flow, from the submit to the end that the queue
records, one at a time, on an engine of its own (root and `dockerd`). Each round begins when the engine has removed what
the one before left. Then 40 empty runs given at once to an agent with 8 slots, beside 8 `docker run` at a time.
Budget: a run takes at most 15 % longer than `docker run` (the ratio of the medians).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).parents[1]))

from figures import Budget, quantile, ratio
from processes import everything_ends, run

from flow_agent import submit
from servers.docker_engine import DockerEngine, docker_running
from servers.docker_image import IMAGE

ROUNDS, AT_ONCE, MANY = 12, 8, 40
DOCKER = shutil.which("docker", path=f"/usr/bin:{os.environ.get('PATH', '')}") or "docker"
FLOWS = """
from flow_agent import flow

@flow(name="nothing")
def nothing():
    return None
"""


def bare(engine: DockerEngine) -> None:
    """One `docker run`, to its end."""
    harness.program(DOCKER, "--host", engine.url, "run", "--rm", IMAGE, "python3", "-c", "pass")


def ours() -> tuple[float, float]:
    """Seconds of one run: from its creation to its end as the queue has them, and from the call to the answer."""
    began = time.perf_counter()
    handle = submit("nothing")
    state = handle.wait(120)
    took = time.perf_counter() - began
    found = handle.run()
    assert state == "succeeded", found
    assert found.finished_at is not None
    return found.finished_at - found.created_at, took


def settled(engine: DockerEngine) -> None:
    """Wait until there is no container."""
    harness.wait_for(lambda: engine.containers() == [], 60)


def in_turns(engine: DockerEngine) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each round: `docker run`, a run, a run from the call."""
    theirs, runs, calls = [], [], []
    for number in range(ROUNDS + 1):
        settled(engine)
        one = harness.timed(partial(bare, engine))
        settled(engine)
        own, called = ours()
        if number:  # the first one warms up
            theirs.append(one)
            runs.append(own)
            calls.append(called)
    return theirs, runs, calls


def many(engine: DockerEngine) -> tuple[float, float]:
    """Runs in a second, and `docker run` in a second, AT_ONCE at a time."""
    settled(engine)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: bare(engine), range(MANY)))
        theirs = MANY / (time.perf_counter() - began)
    settled(engine)
    began = time.perf_counter()
    handles = [submit("nothing") for _ in range(MANY)]
    for handle in handles:
        assert handle.wait(300) == "succeeded", handle.run()
    return MANY / (time.perf_counter() - began), theirs


def main() -> int:
    """0 if the budget is kept."""
    harness.title("What does a run in a container cost beside `docker run` of the same image?")
    with (
        everything_ends(),
        tempfile.TemporaryDirectory(prefix="bench-") as images,
        docker_running(Path(images)) as engine,
    ):
        os.environ |= {"FLOW_AGENT_DOCKER__URL": engine.url, "FLOW_AGENT_DOCKER__IMAGE": IMAGE}
        version = subprocess.run(
            [DOCKER, "--host", engine.url, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        with harness.new_home(FLOWS) as home, harness.agent(home, "--launcher", "docker", "--limit", str(AT_ONCE)):
            theirs, runs, calls = in_turns(engine)
            rate, bare_rate = many(engine)
            settled(engine)
    rows = [
        [what, quantile(found, 0.5) * 1000, quantile(found, 0.9) * 1000]
        for what, found in (
            ("docker run --rm", theirs),
            ("a run: submit to end", runs),
            ("the same from the call to the answer", calls),
        )
    ]
    harness.table([f"engine {version}", "p50 ms", "p90 ms"], rows)
    print()
    harness.table(
        [f"{MANY} of them, {AT_ONCE} at a time", "a second"], [["docker run --rm", bare_rate], ["runs", rate]]
    )
    over = quantile(runs, 0.5) / quantile(theirs, 0.5)
    print(f"\nmedian of the ratios of neighbours: {ratio(runs, theirs):.2f}\n")
    found = [Budget("a run beside docker run, ratio of the medians", over, 1.15, "times")]
    return 0 if harness.budgets(found) else 1


if __name__ == "__main__":
    run(main)
