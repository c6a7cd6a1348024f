"""What does the server cost: submit to the first line, and runs in a second, by HTTP beside the same queue directly?

Server, agent and client on one machine, with tokens, without TLS. In three rounds, one way after the other: twenty runs
one after the other, each 250 ms after the end of the one before, and 200 runs of an empty flow at once, `--limit 2`.
"From the call" counts the client's connection too, which each `submit()` opens; from the creation, which the queue
writes, to the first line it is the agent's way alone.
Budgets: the first line after 3 times as long as directly, half as many runs in a second.
"""

from __future__ import annotations

import drivers
import harness
from figures import Budget, median, quantile
from processes import everything_ends, run
from serving import WARM_UP

ROUNDS, LINES, RUNS = 3, 20, 200
WAYS = {"SQLite directly": "peer_flow_agent.py", "by HTTP": "peer_http.py"}


def main() -> int:
    """0 if all budgets are kept."""
    harness.title("What does the server cost?")
    created: dict[str, list[float]] = {way: [] for way in WAYS}
    called: dict[str, list[float]] = {way: [] for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with everything_ends():
        for _ in range(ROUNDS):
            for way, script in WAYS.items():
                with drivers.driver(drivers.OURS, script, "None", "--limit", "2") as driver:
                    driver.ask("warm", WARM_UP)
                    found = driver.ask("first_lines", LINES)["first_lines"]
                    created[way] += [each for each, _ in found]
                    called[way] += [each for _, each in found]
                    rates[way].append(driver.ask("rate", RUNS)["rate"])
    rows = [
        [
            way,
            quantile(created[way], 0.5) * 1000,
            quantile(created[way], 0.99) * 1000,
            quantile(called[way], 0.5) * 1000,
            median(rates[way]),
        ]
        for way in WAYS
    ]
    harness.table(["what", "p50 ms", "p99 ms", "p50 ms from the call", "runs a second"], rows)
    print()
    direct, http = WAYS
    times = quantile(created[http], 0.5) / quantile(created[direct], 0.5)
    share = median(rates[http]) / median(rates[direct])
    budgets = [
        Budget("first line by HTTP", times, 3, "times the direct one"),
        Budget("runs by HTTP", share, 0.5, "of the direct rate", least=True),
    ]
    return 0 if harness.budgets(budgets) else 1


if __name__ == "__main__":
    run(main)
