"""Is anything lost, doubled, told wrongly or left over while agents, keepers and zygotes are killed every few seconds?

Two agents on one home and queue work off thousands of runs of seven kinds. Every one to three seconds, at random (the
seed is printed, `--seed` repeats it), something is done to them: kill -9 of one daemon, of a keeper, a zygote or an
attempt, SIGSTOP for a while, a restart in order. The other daemon is never killed, so that its growth can be seen.
Each attempt signs a file when it begins, goes on, and ends. Then everything is compared: `soak_judge.py`.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import harness
import psutil
from figures import Budget, median
from processes import descendants, everything_ends, run
from soak_havoc import KINDS, Agents
from soak_judge import SECRET, Told, judge, read_signs

from flow_agent.errors import FlowAgentError
from flow_agent.model import Run, State, Submission
from flow_agent.operations.results import read_result
from flow_agent.ports import Queue
from flow_agent.queues.sqlite import SqliteQueue, open_queue

BACKLOG, BATCH = 300, 100
PATIENCE = 300.0
"""Seconds within which something must come to its end."""
OPEN = (State.SCHEDULED, State.QUEUED, State.CLAIMED, State.RUNNING)
EVERY = 0.25
"""Seconds between two samples of the daemon that lives on."""
WARM = 30.0
"""Seconds after which its caches are full and it has met everything once."""
SHARES = 5
"""Of the time after that, the first and the last of so many shares are compared."""


@dataclass(frozen=True)
class Sample:
    """What the daemon that lives through it all has: bytes (PSS), descriptors, threads, processes below it."""

    memory: int
    descriptors: int
    threads: int
    processes: int


def sample(pid: int) -> Sample:
    """What that process has now."""
    process = psutil.Process(pid)
    return Sample(
        process.memory_full_info().pss, process.num_fds(), process.num_threads(), len(process.children(recursive=True))
    )


def submission(chance: random.Random, key: str | None = None) -> Submission:
    """A run of any kind."""
    name = chance.choices(
        ["nothing", "talks", "naps", "stumbles", "once", "returns", "whispers"], [8, 4, 2, 1, 1, 2, 1]
    )[0]
    parameters: dict[str, Any] = {}
    if name == "returns":
        parameters["size"] = chance.choice([10, 1_000, 200_000])
    elif name not in {"nothing", "whispers"}:
        parameters["lines"] = chance.randrange(30)
    return Submission(flow=name, parameters=parameters, key=key)


class Soak:
    """The runs, what is done meanwhile, and what is found at the end."""

    def __init__(self, home: Path, runs: int, seed: int, limit: int) -> None:
        self.home, self._runs = home, runs
        self._chance = random.Random(seed)
        self.agents = Agents(home, random.Random(seed + 1), limit)
        self.submitted: list[str] = []
        self._samples: list[Sample] = []
        self.seconds = 0.0

    async def go(self, queue: SqliteQueue) -> None:
        """Submit and strike until all runs have ended."""
        began, strike_at = time.monotonic(), 3.0
        progress = (0, began)
        while True:
            now = time.monotonic()
            left = len(await queue.runs(states=OPEN, limit=BACKLOG + BATCH))
            if left <= BACKLOG and len(self.submitted) < self._runs:
                number = min(BATCH, self._runs - len(self.submitted))
                self.submitted += [
                    one.id for one in await queue.submit([submission(self._chance) for _ in range(number)])
                ]
            elif not left:
                break
            ended = len(self.submitted) - left
            if ended != progress[0]:
                progress = (ended, now)
            elif now - progress[1] > PATIENCE:
                break  # the judge tells what hangs
            if now - began > strike_at:
                await anyio.to_thread.run_sync(self.agents.strike)
                strike_at = time.monotonic() - began + self._chance.uniform(1, 3)
            self._samples.append(sample(self.agents.steady.pid))
            await anyio.sleep(EVERY)
        self.seconds = time.monotonic() - began

    async def told(self, queue: SqliteQueue) -> dict[str, Told]:
        """What the queue tells of all runs."""
        found: dict[str, Told] = {}
        before: str | None = None
        while page := await queue.runs(limit=1000, before=before):
            for one in page:
                found[one.id] = await told_of(queue, one)
            before = page[-1].id
        return found

    def leftovers(self) -> list[str]:
        """What should not be there any more once both agents have ended."""
        faults = [f"{code} is the exit code of an agent, expected 0" for code in self.agents.stop() if code]
        until = time.monotonic() + 10
        while descendants() and time.monotonic() < until:
            time.sleep(0.05)
        faults += [f"still running: {process}" for process in descendants()]
        kept = {"bell", "zygote.log"}
        spool = [path for path in self.home.glob("spool/*/*") if path.name not in kept]
        faults += [f"left over: {path.relative_to(self.home)}" for path in [*spool, *self.home.glob("unwritten/*")]]
        return faults

    def growth(self) -> list[Budget]:
        """What the agent that was never killed has at the end beside what it had when it was warm; none if that is
        too short a time to tell."""
        warm = self._samples[int(WARM / EVERY) :]
        size = len(warm) // SHARES
        if size < WARM / EVERY / SHARES:
            return []
        early, late = warm[:size], warm[-size:]

        def grown(what: str) -> float:
            return float(median([getattr(s, what) for s in late]) - median([getattr(s, what) for s in early]))

        memory = median([s.memory for s in early])
        return [
            Budget("memory of the daemon that lives on", grown("memory") / memory * 100, 25, "% more at the end"),
            Budget("its descriptors", grown("descriptors"), 10, "more at the end"),
            Budget("its threads", grown("threads"), 2, "more at the end"),
            Budget("processes below it", grown("processes"), 6, "more at the end"),
        ]


async def told_of(queue: Queue, one: Run) -> Told:
    """What the queue tells of one run."""
    lines, after = [], 0
    while page := await queue.logs(one.id, after=after):
        lines += [(line.attempt, line.text) for line in page if line.source == "flow"]
        after = page[-1].cursor
    value = None
    if one.state is State.SUCCEEDED and one.result is not None:
        try:
            value = await read_result(one)
        except FlowAgentError as error:
            value = error
    return Told(
        flow=one.flow,
        parameters=one.parameters,
        state=one.state.value,
        reason=one.reason.value if one.reason else None,
        attempts=[(each.number, each.reason.value if each.reason else None) for each in await queue.attempts(one.id)],
        lines=lines,
        value=value,
    )


def report(soak: Soak, told: dict[str, Told], faults: Sequence[str]) -> bool:
    """Print what was done and found; whether all is well."""
    ends = Counter(f"{each.state}, {each.reason}" for each in told.values())
    attempts = Counter(reason for each in told.values() for _, reason in each.attempts)
    size = sum(path.stat().st_size for path in soak.home.glob("queue.db*") if path.is_file())
    rows: list[list[object]] = [
        ["runs", len(told), f"{len(told) / soak.seconds:.0f} a second, {soak.seconds:.0f} s"],
        *([f"done to: {kind}", soak.agents.done[kind], ""] for kind in KINDS),
        *([f"runs that ended: {end}", count, ""] for end, count in sorted(ends.items())),
        *([f"attempts that ended: {reason}", count, ""] for reason, count in sorted(attempts.items(), key=str)),
        ["queue, bytes a run", size // max(1, len(told)), ""],
        ["faults", len(faults), ""],
    ]
    harness.table(["what", "count", ""], rows)
    for fault in faults[:50]:
        print(f"FAULT {fault}")
    print()
    return harness.budgets(soak.growth()) and not faults


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--limit", type=int, default=4, help="of each agent")
    return parser.parse_args()


def main() -> int:
    """0 if nothing was lost, doubled, told wrongly, left over or grown."""
    asked = arguments()
    harness.title((__doc__ or "").partition("\n")[0])
    print(f"--seed {asked.seed}\n", flush=True)
    os.environ["SOAK_SECRET"] = SECRET
    flows = Path(__file__).with_name("soak_flows.py").read_text()
    with harness.new_home(flows) as home, everything_ends():
        (home / "signs").touch()
        return anyio.run(_main, home, asked)


async def _main(home: Path, asked: argparse.Namespace) -> int:
    async with open_queue(f"sqlite:{home}/queue.db") as queue:
        soak = Soak(home, asked.runs, asked.seed, asked.limit)
        await soak.go(queue)
        leftovers = await anyio.to_thread.run_sync(soak.leftovers)
        told = await soak.told(queue)
    signs = read_signs((home / "signs").read_text().splitlines())
    faults = leftovers + judge(set(soak.submitted), told, signs, soak.agents.hits)
    well = report(soak, told, faults)
    if not well:
        kept = Path(tempfile.mkdtemp(prefix="flow-agent-soak-"))
        for path in (*home.glob("*.log"), home / "signs"):
            shutil.copy(path, kept)
        print(f"the agents' logs and the attempts' signs are in {kept}", file=sys.stderr)
    return 0 if well else 1


if __name__ == "__main__":
    run(main)
