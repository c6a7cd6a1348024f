"""How long is it from the submit to the first line of the flow, on an idle agent?

Forty runs, one after the other, each 250 ms after the end of the one before. From `created_at`, which the queue writes
in the submit's transaction, to `time.time()` in the flow's first line; "from the call" also counts what `submit()`
does before that. Beside it what the system itself needs from the start of a process to a function's first line: a bare
fork, a fork that loads the function out of a pickle, and the same two with a fresh interpreter; and one write of the
disk, since submit, claim and start are each on the disk before the flow's first line.
Budgets: those of `configurations`. `peers.py` puts the same beside RQ and Prefect.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import drivers
import harness
from configurations import ALONE
from figures import Budget, quantile
from processes import everything_ends, run
from serving import WARM_UP

ROUNDS = 40
BARE = {
    "bare fork": "fork",
    "bare fork, loads": "fork-loads",
    "bare interpreter": "interpreter",
    "bare interpreter, loads": "interpreter-loads",
}


def first_lines(script: str, *arguments: str) -> tuple[list[float], list[float]]:
    """Seconds to the first line from the creation and from the call, of each job."""
    with drivers.driver(drivers.OURS, script, *arguments) as driver:
        driver.ask("warm", WARM_UP)
        found = driver.ask("first_lines", ROUNDS)["first_lines"]
    return [created for created, _ in found], [called for _, called in found]


def row(what: str, found: list[float], called: list[float] | None = None) -> list[object]:
    """A line of the table; the last column only where the call is another moment than the creation."""
    from_the_call = "" if called is None else harness.cell(quantile(called, 0.5) * 1000)
    return [what, quantile(found, 0.5) * 1000, quantile(found, 0.99) * 1000, from_the_call]


def main() -> int:
    """0 if all budgets are kept."""
    harness.title("How long is it from the submit to the first line of the flow, on an idle agent?")
    rows: list[list[object]] = []
    budgets: list[Budget] = []
    with everything_ends():
        for one in ALONE:
            created, called = first_lines("peer_flow_agent.py", *one.arguments)
            rows.append(row(one.name, created, called))
            budgets += one.latency_budgets(created)
        for name, what in BARE.items():
            rows.append(row(name, first_lines("peer_bare.py", what, "1")[0]))
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rows.append(row("4 KiB on the disk (fdatasync)", harness.fsyncs(Path(folder))))
    harness.table(["what", "p50 ms", "p99 ms", "p50 from the call"], rows)
    print()
    return 0 if harness.budgets(budgets) else 1


if __name__ == "__main__":
    run(main)
