"""Is anything lost or doubled while agents, their database and their server are killed, frozen and cut off?

Four agents, each with a home of its own, work on one queue in PostgreSQL: two directly, two by HTTP through a server,
one of each behind a proxy; runs are submitted both ways too. Every one to three seconds, at random (the seed is
printed, `--seed` repeats it), something is done: kill -9 and SIGSTOP of agents, of the database and of the server,
kill -9 of keepers, zygotes and attempts, an end in order, connections that are cut, slow, or hang; each kind once at
first. Runs are cancelled meanwhile, and a few outlive a lease. The database writes down every change
(`chaos_history.py`), and each attempt signs a file when it begins, goes on and ends. Then all of it is judged:
`chaos_judge.py`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

sys.path.append(str(Path(__file__).parents[1]))

import harness
from chaos_history import read_notes, take_notes
from chaos_judge import judge, shortcomings
from chaos_world import KINDS, LEASES, World
from processes import descendants, everything_ends, run
from soak import OPEN, submission, told_of
from soak_judge import SECRET, Told, read_signs

from flow_agent import retry
from flow_agent.model import State, Submission
from flow_agent.ports import Queue
from flow_agent.queues.http import open_queue as open_http
from flow_agent.queues.postgres import open_queue
from servers.postgres import PostgresServer, postgres_running

T = TypeVar("T")

BACKLOG, BATCH = 200, 50
PATIENCE = 240.0
"""Seconds within which all must come to its end once nothing is done any more."""
EVERY = 0.25
CANCEL = "cancel a run"
WAYS = "submit directly", "submit by HTTP"
ENOUGH = 2.0
"""Minutes in which each kind of havoc must have happened."""
LONG = 3
"""Runs at a time, besides all others, that outlive a lease: only of these could two attempts go on side by side."""
LINES = (100, 200)
"""Of those, each of which takes 0.2 s: 20 to 40 s."""


async def insisting(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of a queue that may be away."""
    return await retry.answered(call, lambda _wait, _error: None)


class Chaos:
    """The runs, and what is done meanwhile."""

    def __init__(self, world: World, chance: random.Random, seconds: float) -> None:
        self._world, self._chance, self._lasts = world, chance, seconds
        self.submitted: list[str] = []
        self.cancelled: set[str] = set()
        self.seconds = 0.0

    async def go(self, queue: Queue, by_http: Queue) -> None:
        """Submit both ways and strike for as long as it lasts, then wait until all runs have ended."""
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for way, each in zip(WAYS, (queue, by_http), strict=True):
                tasks.start_soon(self._submit, each, way, began)
            tasks.start_soon(self._submit_long, queue, began)
            tasks.start_soon(self._cancel, queue, began)
            tasks.start_soon(self._strike, began)
        with anyio.move_on_after(PATIENCE):  # the judge tells what hangs
            while await insisting(partial(queue.runs, states=OPEN, limit=1)):
                await anyio.to_thread.run_sync(self._world.heal)
                await anyio.sleep(EVERY)
        self.seconds = time.monotonic() - began

    async def _submit(self, queue: Queue, way: str, began: float) -> None:
        number = 0
        while time.monotonic() - began < self._lasts:
            if len(await insisting(partial(queue.runs, states=OPEN, limit=BACKLOG))) < BACKLOG:
                # Each has a key: where the answer is lost, the same runs are asked for again.
                batch = [submission(self._chance, key=f"{way} {number + n}") for n in range(BATCH)]
                number += BATCH
                runs = await insisting(partial(queue.submit, batch))
                self.submitted += [one.id for one in runs]
                self._world.done[way] += len(runs)
            await anyio.sleep(EVERY)

    async def _submit_long(self, queue: Queue, began: float) -> None:
        number = 0
        while time.monotonic() - began < self._lasts:
            there = await insisting(partial(queue.runs, states=OPEN, flow="stays", limit=LONG))
            new = range(number, number + LONG - len(there))
            batch = [
                Submission(
                    flow="stays", parameters={"lines": self._chance.randint(*LINES)}, priority=1, key=f"long-{one}"
                )
                for one in new
            ]
            number = new.stop
            if batch:
                self.submitted += [one.id for one in await insisting(partial(queue.submit, batch))]
            await anyio.sleep(EVERY)

    async def _cancel(self, queue: Queue, began: float) -> None:
        """Every one to three seconds, a run that waits or goes on; few of the long ones, which are to be long."""
        while time.monotonic() - began < self._lasts:
            await anyio.sleep(self._chance.uniform(1, 3))
            states = self._chance.choice([OPEN, (State.CLAIMED, State.RUNNING)])
            there = await insisting(partial(queue.runs, states=states, limit=BACKLOG))
            if not there:
                continue
            victim = self._chance.choice(there)
            if victim.flow != "stays" or self._chance.random() < 0.25:
                self.cancelled.add(victim.id)
                await insisting(partial(queue.cancel, victim.id))
                self._world.done[CANCEL] += 1

    async def _strike(self, began: float) -> None:
        await anyio.sleep(3)
        while time.monotonic() - began < self._lasts:
            await anyio.to_thread.run_sync(self._world.strike)
            until = time.monotonic() + self._chance.uniform(1, 3)
            while time.monotonic() < until:
                await anyio.to_thread.run_sync(self._world.heal)
                await anyio.sleep(EVERY)
        # The others wait for answers of what may be frozen just now.
        await anyio.to_thread.run_sync(partial(self._world.heal, all_of_it=True))


async def told(queue: Queue) -> dict[str, Told]:
    """What the queue tells of all runs."""
    found: dict[str, Told] = {}
    before: str | None = None
    while page := await queue.runs(limit=1000, before=before):
        for one in page:
            found[one.id] = await told_of(queue, one)
        before = page[-1].id
    return found


def report(
    chaos: Chaos, world: World, found: dict[str, Told], written: int, outlived: int, faults: Sequence[str]
) -> None:
    """Print what was done and found."""
    ends = Counter(f"{each.state}, {each.reason}" for each in found.values())
    attempts = Counter(reason for each in found.values() for _, reason in each.attempts)
    rows: list[list[object]] = [
        ["runs", len(found), f"{len(found) / chaos.seconds:.0f} a second, {chaos.seconds:.0f} s"],
        *([f"done: {kind}", world.done[kind], ""] for kind in (*KINDS, CANCEL, *WAYS)),
        *([f"runs that ended: {end}", count, ""] for end, count in sorted(ends.items())),
        *([f"attempts that ended: {reason}", count, ""] for reason, count in sorted(attempts.items(), key=str)),
        ["attempts that outlived a lease", outlived, f"{LEASES['RUNNING']} s"],
        ["writes looked at", written, ""],
        ["faults", len(faults), ""],
    ]
    harness.table(["what", "count", ""], rows)
    for fault in faults[:50]:
        print(f"FAULT {fault}")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--limit", type=int, default=3, help="of each agent")
    return parser.parse_args()


def main() -> int:
    """0 if nothing was lost, doubled, told wrongly or left over."""
    asked = arguments()
    harness.title((__doc__ or "").partition("\n")[0])
    print(f"--seed {asked.seed} --minutes {asked.minutes:g}\n", flush=True)
    os.environ["SOAK_SECRET"] = SECRET
    with ExitStack() as stack:
        stack.enter_context(everything_ends())
        database = stack.enter_context(postgres_running())
        os.environ["FLOW_AGENT_QUEUE"] = database.url
        home = stack.enter_context(harness.new_home(Path(__file__).with_name("soak_flows.py").read_text()))
        (home / "signs").touch()
        take_notes(database.url)
        return anyio.run(_main, home, database, asked)


async def _main(home: Path, database: PostgresServer, asked: argparse.Namespace) -> int:
    chance = random.Random(asked.seed)
    world = World(home, database, random.Random(asked.seed + 1), asked.limit)
    world.begin()
    async with open_queue(database.url) as queue, open_http(world.far) as by_http:
        chaos = Chaos(world, chance, asked.minutes * 60)
        await chaos.go(queue, by_http)
        faults = await anyio.to_thread.run_sync(world.stop)
        found = await told(queue)
    history = read_notes(database.url)
    signs = read_signs((home / "signs").read_text().splitlines())
    # One machine, so one wall clock; the signs have the one that nobody sets.
    clocks = time.time() - time.monotonic()
    faults += judge(set(chaos.submitted), found, signs, history, cancelled=chaos.cancelled, clocks=clocks)
    lease = float(LEASES["RUNNING"])
    if asked.minutes >= ENOUGH:
        faults += shortcomings(asked.minutes, world.done, (*KINDS, CANCEL, *WAYS), found, signs, lease)
    outlived = sum(one.last - one.first > lease for its in signs.values() for one in its.values())
    report(chaos, world, found, len(history), outlived, faults)
    if faults:
        kept = Path(tempfile.mkdtemp(prefix="flow-agent-chaos-"))
        shutil.copy(home / "signs", kept)
        for machine in (*world.agents, world.server):
            shutil.copy(machine.home / "log", kept / f"{machine.name}.log")
        (kept / "history").write_text("\n".join(map(str, history)))
        print(f"logs, signs and history are in {kept}", file=sys.stderr)
    # The database is not ours by birth: whatever else runs still was left behind.
    left = [str(each) for each in descendants() if "postgres" not in str(each)]
    for each in left:
        print(f"FAULT still running: {each}")
    return 1 if faults or left else 0


if __name__ == "__main__":
    run(main)
