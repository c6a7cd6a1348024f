"""How many runs of an empty flow end in a second?

The runs wait when the agent starts. Counted from the first claim to the last end, as the queue recorded them, so
that the agent's own start is not in it. Each run is a process of its own. Beside it: bare interpreters started and
ended in a second on all cores, which is what a launcher that starts an interpreter for each run cannot exceed.
"""

from __future__ import annotations

import json
from datetime import datetime

import harness

LIMITS = (2, 4, 8)
RUNS = 100
FLOW = """
from flow_agent import flow

@flow(name="nothing")
def nothing():
    return None
"""


def rate(limit: int) -> float:
    """Runs that ended in a second, with ``limit`` of them at once."""
    with harness.new_home(FLOW):
        harness.flow_agent("submit", "nothing", "--count", str(RUNS))
        harness.flow_agent("start", "--until-empty", "--limit", str(limit), "--log-level", "warning")
        runs = json.loads(harness.flow_agent("runs", "--limit", str(RUNS), "--json"))
    ended = [run for run in runs if run["state"] == "succeeded"]
    if len(ended) != RUNS:
        raise RuntimeError(f"{len(ended)} of {RUNS} runs succeeded, so a rate would mean nothing")
    began = min(datetime.fromisoformat(run["claimed_at"]) for run in ended)
    end = max(datetime.fromisoformat(run["finished_at"]) for run in ended)
    return RUNS / (end - began).total_seconds()


def main() -> None:
    harness.title(f"How many runs of an empty flow end in a second? ({RUNS} runs, a fresh interpreter each)")
    limit_rate = harness.starts_a_second()
    rows: list[list[object]] = [["bare interpreters on all cores", limit_rate, 1.0]]
    for limit in LIMITS:
        found = rate(limit)
        rows.append([f"runs, --limit {limit}", found, found / limit_rate])
    harness.table(["what", "a second", "of the bare interpreters"], rows)


if __name__ == "__main__":
    main()
