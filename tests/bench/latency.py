"""How long is it from the submit to the first line of the flow, on an idle agent?

Forty runs, one after the other, each submitted when the one before has ended. From `created_at`, which the queue
writes in the submit's transaction, to `time.time()` in the flow's first line. Beside it: a fresh interpreter that
loads a pickle and calls it, which is what a launcher that starts an interpreter cannot be faster than.
Budget for a fresh interpreter: p50 within 60 ms over the bare interpreter's start.
"""

from __future__ import annotations

import harness

from flow_agent.client import submit

ROUNDS = 40
FLOW = """
import time
from flow_agent import flow

@flow(name="first-line")
def first_line():
    return time.time()
"""


def latency() -> float:
    """Seconds from the submit to the first line of one run."""
    handle = submit("first-line")
    first_line: float = handle.result(timeout=30)
    return first_line - handle.run().created_at


def main() -> None:
    harness.title("How long is it from the submit to the first line of the flow, on an idle agent?")
    with harness.new_home(FLOW) as home:
        with harness.agent(home, "--limit", "1"):
            latency()
            found = [latency() for _ in range(ROUNDS)]
        bare = harness.bare_start()
        pickled = harness.cloudpickle_start(home)
    start = harness.quantile(bare, 0.5)
    rows: list[list[object]] = []
    for what, values, budget in (
        ("submit to the first line", found, "60 ms"),
        ("bare interpreter, start to end", bare, ""),
        ("bare interpreter to the first line out of a pickle", pickled, ""),
    ):
        p50 = harness.quantile(values, 0.5)
        rows.append([what, p50 * 1000, harness.quantile(values, 0.99) * 1000, (p50 - start) * 1000, budget])
    harness.table(["what", "p50 ms", "p99 ms", "p50 over bare ms", "budget"], rows)


if __name__ == "__main__":
    main()
