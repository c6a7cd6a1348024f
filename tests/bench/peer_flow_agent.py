"""Driver for flow-agent: ``peer_flow_agent.py RUN_CONFIG [OPTION]...``, an idle agent with those options of `start`.

RUN_CONFIG is the run config of the flows as Python, or ``None``. The queue is SQLite with its usual settings: a commit
is on the disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import harness
from figures import rate
from serving import PYTHON, serve

from flow_agent import operations
from flow_agent.client import submit
from flow_agent.model import Run, State
from flow_agent.settings import load
from flow_agent.version import __version__

FLOWS = """
import time
from flow_agent import LocalRun, flow

@flow(name="first-line", run_config={run_config})
def first_line():
    return time.time()

@flow(name="nothing", run_config={run_config})
def nothing():
    return None
"""


class Ours:
    """An idle agent."""

    version = f"flow-agent {__version__}, {PYTHON}"

    def first_line(self) -> tuple[float, float]:
        called = time.time()
        handle = submit("first-line")
        found: float = handle.result(timeout=60)
        return found - handle.run().created_at, found - called

    def rate(self, jobs: int) -> float:
        runs = anyio.run(_ended, jobs)
        well = [run for run in runs if run.state is State.SUCCEEDED]
        if len(well) != jobs:
            raise RuntimeError(f"{len(well)} of {jobs} runs succeeded")
        claimed = [run.claimed_at for run in well if run.claimed_at is not None]
        return rate(claimed, [run.finished_at for run in well if run.finished_at is not None])


async def _ended(jobs: int) -> list[Run]:
    """The runs, submitted in one transaction, when all have ended."""
    settings = load()
    async with operations.open_queue(settings.queue, **settings.queue_arguments()) as queue:
        given, _ = await operations.submit_runs(queue, "nothing", {}, count=jobs)
        with anyio.fail_after(120):
            while await queue.runs(states=[state for state in State if not state.terminal], limit=1):
                await anyio.sleep(0.1)
        found = await queue.runs(flow="nothing", limit=jobs)
        assert {run.id for run in found} == {run.id for run in given}
        return found


@contextmanager
def opened(run_config: str, options: list[str]) -> Iterator[Ours]:
    with harness.new_home(FLOWS.format(run_config=run_config)) as home, harness.agent(home, *options):
        yield Ours()


if __name__ == "__main__":
    serve(opened(sys.argv[1], sys.argv[2:]))
