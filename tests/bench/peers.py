"""How fast are runs with a process each, beside RQ's fork per job, Prefect 3's process worker, and the system itself?

Each in turn, on the same machine, in several rounds: started, warmed up, then jobs one after the other on an idle
worker (from the job's creation, as its own system records it, and from the call, to `time.time()` in the function's
first line), then many empty jobs given at once (from the first one's claim to the last one's end). Quantiles are over
all rounds; of rates the median counts, of ratios the median of the rounds. A job that does not end well ends the bench.
RQ runs with what favours it: a Redis without persistence on a Unix socket, modules imported before the fork. Prefect
asks for work every second, not every ten, and in fewer runs, since each takes seconds. Writes of the disk stand beside:
each of our runs is in several transactions that are on it.
Budgets: those of `configurations`, and four times the rate of one worker of RQ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import drivers
import harness
from configurations import BESIDE_PEERS, DEFAULT, Configuration
from figures import Budget, median, quantile, ratio
from processes import everything_ends, run
from serving import WARM_UP

CORES = str(len(os.sched_getaffinity(0)))
RQ = "RQ, 1 worker"
"""The peer that rates are compared with."""


TIMES_RQ = 4.0
"""What DEFAULT's rate must be of that."""


@dataclass(frozen=True)
class Contestant:
    """What takes part."""

    name: str
    isolation: str
    python: Path
    script: str
    arguments: tuple[str, ...]
    slow: bool = False
    """One round of few jobs."""
    ours: Configuration | None = None


def contestants() -> list[Contestant]:
    """All that take part, in the order of each round."""
    bare, rq, prefect = "peer_bare.py", drivers.peers(), drivers.prefect()
    default, *others = [
        Contestant(one.name, "process", drivers.OURS, "peer_flow_agent.py", one.arguments, ours=one)
        for one in BESIDE_PEERS
    ]
    return [
        default,
        # Right after it, since a machine's load changes within a round.
        Contestant(RQ, "fork", rq, "peer_rq.py", ("1",)),
        Contestant("RQ, 2 workers", "fork", rq, "peer_rq.py", ("2",)),
        *others,
        Contestant("Prefect 3, process worker", "interpreter", prefect, "peer_prefect.py", (CORES,), slow=True),
        Contestant("bare fork", "fork", drivers.OURS, bare, ("fork", CORES)),
        Contestant("bare fork, loads", "fork", drivers.OURS, bare, ("fork-loads", CORES)),
        Contestant("bare interpreter", "interpreter", drivers.OURS, bare, ("interpreter", CORES)),
        Contestant("bare interpreter, loads", "interpreter", drivers.OURS, bare, ("interpreter-loads", CORES)),
    ]


@dataclass
class Found:
    """What was measured of one: seconds from creation and from the call, and the rate of each round."""

    created: list[float] = field(default_factory=list)
    called: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    jobs: int = 0
    version: str = ""

    def row(self, name: str, isolation: str) -> list[object]:
        """Its line of the table."""
        return [
            name,
            isolation,
            quantile(self.created, 0.5) * 1000,
            quantile(self.created, 0.99) * 1000,
            quantile(self.called, 0.5) * 1000,
            median(self.rates),
            " ".join(harness.cell(rate) for rate in self.rates),
            self.jobs,
        ]


def measure(contestant: Contestant, found: Found, first_lines: int, jobs: int) -> None:
    """One round of one of them.

    Raises RuntimeError: a job did not end well.
    """
    with drivers.driver(contestant.python, contestant.script, *contestant.arguments) as driver:
        found.version = driver.version
        warm_up = 1 if contestant.slow else WARM_UP
        driver.ask("warm", warm_up)
        for created, called in driver.ask("first_lines", first_lines, 600)["first_lines"]:
            found.created.append(created)
            found.called.append(called)
        found.rates.append(driver.ask("rate", jobs, 600)["rate"])
    found.jobs += warm_up + first_lines + jobs


def budgets(contestant: Contestant, found: Found, rq: Found | None) -> list[Budget]:
    """What is asked of it, beside what it reached."""
    if contestant.ours is None:
        return []
    asked = [*contestant.ours.latency_budgets(found.created), *contestant.ours.rate_budgets(found.rates)]
    if contestant.ours is DEFAULT and rq is not None:
        asked.append(Budget(f"{contestant.name}: runs / {RQ}", ratio(found.rates, rq.rates), TIMES_RQ, "", least=True))
    return asked


def report(chosen: Sequence[Contestant], found: dict[str, Found], writes: Sequence[float]) -> bool:
    """Print what was found; whether all budgets are kept."""
    rows = [found[one.name].row(one.name, one.isolation) for one in chosen]
    harness.table(
        ["what", "a job is", "p50 ms", "p99 ms", "p50 from the call", "a second", "in each round", "jobs, all well"],
        rows,
    )
    milliseconds = [harness.cell(quantile(writes, q) * 1000) for q in (0.5, 0.99)]
    print(
        f"\n4 KiB on the disk (fdatasync): p50 {milliseconds[0]} ms, p99 {milliseconds[1]} ms,"
        f" {harness.cell(len(writes) / sum(writes))} a second one after the other"
    )
    print("; ".join(sorted({one.version for one in found.values()})) + "\n")
    rq = found.get(RQ)
    if rq is not None:
        rows = [
            [
                one.name,
                ratio(found[one.name].rates[:1], rq.rates[:1]) if one.slow else ratio(found[one.name].rates, rq.rates),
                quantile(found[one.name].created, 0.5) / quantile(rq.created, 0.5),
            ]
            for one in chosen
        ]
        harness.table([f"times {RQ}", "rate", "p50"], rows)
        print()
    return harness.budgets([budget for one in chosen for budget in budgets(one, found[one.name], rq)])


def main() -> int:
    """0 if all budgets are kept."""
    parser = argparse.ArgumentParser(description="Runs with a process each, beside peers and the system's limits.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-lines", type=int, default=40, help="jobs one after the other, each round")
    parser.add_argument("--jobs", type=int, default=200, help="empty jobs at once, each round")
    parser.add_argument("--slow", type=int, nargs=2, default=(6, 6), metavar=("FIRST_LINES", "JOBS"), help="of Prefect")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="beginnings of names")
    options = parser.parse_args()
    harness.title("How fast are runs with a process each, beside peers and the system itself?")
    chosen = [one for one in contestants() if one.name.startswith(tuple(options.only))]
    found = {one.name: Found() for one in chosen}
    writes: list[float] = []
    with everything_ends():
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                writes += harness.fsyncs(Path(folder))
            for one in chosen:
                if one.slow and number > 0:
                    continue
                print(f"round {number + 1}: {one.name}   ", end="\r", file=sys.stderr, flush=True)
                first_lines, jobs = options.slow if one.slow else (options.first_lines, options.jobs)
                measure(one, found[one.name], first_lines, jobs)
    print(" " * 60, end="\r", file=sys.stderr, flush=True)
    return 0 if report(chosen, found, writes) else 1


if __name__ == "__main__":
    run(main)
