"""What does an idle agent cost?

CPU time and memory of everything that belongs to it over 30 s, after 5 s of rest and some runs: all processes that
descend from it, also those that were let go or changed session. Beside it an idle worker of RQ, and its Redis.
Budget: under 0.5 % of a core, at most 60 MB (PSS, so that what processes share is counted once).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import drivers
import harness
import psutil
from configurations import DEFAULT
from figures import Budget
from processes import Cost, descendants, everything_ends, idle_cost, run
from serving import WARM_UP

REST, SECONDS = 5.0, 30.0


def row(what: str, cost: Cost) -> list[object]:
    return [what, cost.cpu * 100, cost.memory / 1e6, cost.processes]


def below(driver: drivers.Driver, name: str = "") -> Callable[[], list[psutil.Process]]:
    """Gives what the driver has started, of which the program's name begins with ``name``."""

    def found() -> list[psutil.Process]:
        others = [process for process in descendants() if process.pid != driver.pid]
        return [process for process in others if process.name().startswith(name)]

    return found


def main() -> int:
    """0 if all budgets are kept."""
    harness.title(f"What does an idle agent cost? (over {SECONDS:g} s)")
    with everything_ends():
        with drivers.driver(drivers.OURS, "peer_flow_agent.py", *DEFAULT.arguments) as driver:
            driver.ask("warm", WARM_UP)
            time.sleep(REST)
            ours = idle_cost(below(driver), SECONDS)
        rows = [row("flow-agent", ours)]
        with drivers.driver(drivers.peers(), "peer_rq.py", "1") as driver:
            driver.ask("warm", WARM_UP)
            time.sleep(REST)
            rows.append(row("RQ, 1 worker", idle_cost(below(driver, "python"), SECONDS)))
            rows.append(row("Redis of it", idle_cost(below(driver, "redis"), SECONDS)))
    harness.table(["what", "CPU, % of a core", "memory, MB (PSS)", "processes"], rows)
    print()
    budgets = [
        Budget("flow-agent: CPU", ours.cpu * 100, 0.5, "% of a core"),
        Budget("flow-agent: memory", ours.memory / 1e6, 60, "MB"),
    ]
    return 0 if harness.budgets(budgets) else 1


if __name__ == "__main__":
    run(main)
