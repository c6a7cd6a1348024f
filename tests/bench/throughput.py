"""How many runs of an empty flow end in a second?

Submitted in one transaction to an agent that is idle and warm. Counted from the first claim to the last end, as the
queue recorded them. Each run is a process of its own. In three rounds, each way beside the bare limits of the same
minute: forks that load a function out of a pickle, and bare interpreters, as many at once as there are cores, which is
what a launcher that forks, or starts an interpreter, cannot exceed; and writes of the disk one after the other, which
transactions that are not batched cannot exceed.
Budgets: those of `configurations`. `peers.py` puts the same beside RQ and Prefect.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import drivers
import harness
from configurations import ALONE
from figures import Budget, median, ratio
from processes import everything_ends, run
from serving import WARM_UP

ROUNDS, RUNS = 3, 200
CORES = str(len(os.sched_getaffinity(0)))
FORKS, INTERPRETERS, WRITES = "bare forks, loads", "bare interpreters", "4 KiB on the disk (fdatasync)"


def rate(jobs: int, script: str, *arguments: str) -> float:
    """Jobs that ended in a second."""
    with drivers.driver(drivers.OURS, script, *arguments) as driver:
        driver.ask("warm", WARM_UP)
        found: float = driver.ask("rate", jobs)["rate"]
    return found


def measured(rounds: int, runs: int) -> dict[str, list[float]]:
    """What was done in a second in each round."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for one in ALONE:
            found[one.name].append(rate(runs, "peer_flow_agent.py", *one.arguments))
        found[FORKS].append(rate(RUNS * 5, "peer_bare.py", "fork-loads", CORES))
        found[INTERPRETERS].append(rate(RUNS, "peer_bare.py", "interpreter", CORES))
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            writes = harness.fsyncs(Path(folder), 300)
        found[WRITES].append(len(writes) / sum(writes))
    return found


def main() -> int:
    """0 if all budgets are kept."""
    parser = argparse.ArgumentParser(description="Runs of an empty flow that end in a second.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--runs", type=int, default=RUNS, help="submitted at once, each round")
    options = parser.parse_args()
    harness.title(f"How many runs of an empty flow end in a second? ({options.rounds} rounds of {options.runs})")
    with everything_ends():
        found = measured(options.rounds, options.runs)
    limits = [FORKS, INTERPRETERS, WRITES]
    rows = [
        [name, median(rates), " ".join(harness.cell(one) for one in rates), *(ratio(rates, found[x]) for x in limits)]
        for name, rates in found.items()
    ]
    harness.table(["what", "a second", "in each round", "of bare forks", "of bare interpreters", "of fdatasyncs"], rows)
    print()
    budgets: list[Budget] = [budget for one in ALONE for budget in one.rate_budgets(found[one.name])]
    return 0 if harness.budgets(budgets) else 1


if __name__ == "__main__":
    run(main)
