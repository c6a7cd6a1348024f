"""Waiting for runs in sight of a person."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

import anyio

from flow_agent import operations
from flow_agent.cli.output import note, status
from flow_agent.model import Run
from flow_agent.ports import Queue
from flow_agent.settings import Settings
from flow_agent.why import Explanation, explain

PATIENCE = 1.0
"""Seconds of waiting before a person is told what is waited for."""


async def wait_for(queue: Queue, settings: Settings, runs: Sequence[Run]) -> list[Run]:
    """The runs, once all have ended; what takes long is explained on stderr."""
    done: list[Run] = []
    with anyio.move_on_after(PATIENCE):
        for run in runs:
            done.append(await operations.wait_run(queue, run.id))
        return done
    first = await queue.get(runs[len(done)].id)
    if not first.state.terminal:
        said = await explained(queue, settings, first)
        note(f"waiting: {said.sentence}" + (f"\nhint: {said.hint}" if said.hint else ""))
    waited = f"run {runs[0].id}" if len(runs) == 1 else f"{len(runs)} runs"
    with status(f"waiting for {waited}"):
        for run in runs[len(done) :]:
            done.append(await operations.wait_run(queue, run.id))
    return done


async def explained(queue: Queue, settings: Settings, run: Run) -> Explanation:
    """Why the run is where it is."""
    return explain(
        run,
        await queue.registration(run.flow, run.version),
        await queue.agents(),
        now=time.time(),
        alive_within=3 * settings.lease.heartbeat,
        here=socket.gethostname(),
        leases=settings.queue_arguments()["leases"],
        limits=await queue.limits(),
    )
