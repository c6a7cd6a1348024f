"""Driver for procrastinate: takes jobs and ends them, one at a time, by its own statements.

It runs in the peers' environment: ``peer_procrastinate.py URL prepare|more JOBS``; ``URL SECONDS NAME``, which prints
the seconds of each taking; or ``URL first JOBS``, which prints the seconds from the call that defers a job to the first
line of its task, on an idle worker in this very process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

import procrastinate
from procrastinate.jobs import Status

PAUSE = 0.25
"""Seconds, as in ``serving``."""


async def prepare(app: procrastinate.App, jobs: int, *, fresh: bool) -> None:
    """Its tables, if it is ``fresh``, and jobs that wait."""
    if fresh:
        await app.schema_manager.apply_schema_async()
    await app.configure_task("noop").batch_defer_async(*({} for _ in range(jobs)))


async def work(app: procrastinate.App, seconds: float) -> list[float]:
    """Take and end jobs for so long; seconds of each taking."""
    manager, times = app.job_manager, []
    worker = await manager.register_worker()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        job = await manager.fetch_job(None, worker)
        times.append(time.perf_counter() - began)
        if job is not None:
            await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
    return times


async def first(app: procrastinate.App, jobs: int) -> list[float]:
    """Seconds from each call to the first line of its task."""
    lines: asyncio.Queue[float] = asyncio.Queue()

    @app.task(name="line")
    async def line() -> None:
        lines.put_nowait(time.time())

    worker = asyncio.create_task(app.run_worker_async(concurrency=1, install_signal_handlers=False))
    times = []
    for _ in range(jobs):
        await asyncio.sleep(PAUSE)
        called = time.time()
        await line.defer_async()
        times.append(await lines.get() - called)
    worker.cancel()
    await asyncio.wait([worker])
    return times


async def main(url: str, what: str, more: str) -> None:
    size = 3 if what == "first" else 1  # one hears of jobs, one takes them, one defers them
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=1, max_size=size)
    app = procrastinate.App(connector=connector)
    async with app.open_async():
        if what in {"prepare", "more"}:
            await prepare(app, int(more), fresh=what == "prepare")
        elif what == "first":
            print(json.dumps(await first(app, int(more))))
        else:
            print(json.dumps(await work(app, float(what))))


if __name__ == "__main__":
    logging.getLogger("procrastinate").setLevel(logging.ERROR)  # it warns of an App in the main module
    asyncio.run(main(*sys.argv[1:4]))
