"""How long is it from the submit to the first line, where many agents share one queue in PostgreSQL?

1, 4 and 16 idle agents, each a process with zygote and parked attempt as on a machine of its own, all told of each run
at once; forty runs one after the other, each 250 ms after the end of the one before. From `created_at`, by the clock of
the database, which is this machine's, to `time.time()` in the flow's first line. Beside it the least that PostgreSQL
needs: a row, its NOTIFY and a listener that wakes up; the bare fork that loads; and two queues on PostgreSQL whose
tasks run in the worker's own process, without a start: procrastinate, and graphile-worker where `make peers` found npm.
Budget: p50 15 ms with one agent, and 1.5 times that with 16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import drivers
import harness
import psycopg
from figures import Budget, quantile
from latency import ROUNDS, first_lines
from peer_flow_agent import FLOWS, Ours
from processes import everything_ends, run
from serving import PAUSE, WARM_UP

from servers.postgres import postgres_running

AGENTS = (1, 4, 16)
P50, TIMES = 0.015, 1.5


def wakes(url: str) -> list[float]:
    """Seconds from the call that writes a row and notifies to the moment when a listener has heard of it."""
    found = []
    with psycopg.connect(url, autocommit=True) as writer, psycopg.connect(url, autocommit=True) as listener:
        writer.execute("create table heard (n integer)")
        listener.execute("listen heard")
        for _ in range(ROUNDS + WARM_UP):
            time.sleep(0.02)
            began = time.perf_counter()
            with writer.transaction():
                writer.execute("insert into heard values (1)")
                writer.execute("notify heard")
            next(listener.notifies(timeout=10))
            found.append(time.perf_counter() - began)
    return found[WARM_UP:]


def ours(url: str) -> dict[int, list[float]]:
    """Seconds to each first line, by the number of agents."""
    os.environ["FLOW_AGENT_QUEUE"] = url
    found: dict[int, list[float]] = {}
    with ExitStack() as agents:
        home = agents.enter_context(harness.new_home(FLOWS.format(run_config=None)))
        for number in AGENTS:
            for one in range(max(found, default=0), number):
                agents.enter_context(harness.agent(home, "--name", f"agent-{one}"))
            measured = Ours()
            for _ in range(WARM_UP):
                measured.first_line()
            found[number] = []
            for _ in range(ROUNDS):
                time.sleep(PAUSE)
                found[number].append(measured.first_line()[0])
    del os.environ["FLOW_AGENT_QUEUE"]
    return found


def peer(command: list[str] | None) -> list[float]:
    """Seconds to each first line of a peer; none where it is not there."""
    if command is None:
        return []
    times: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return times


def main() -> int:
    """0 if the budgets are kept."""
    harness.title((__doc__ or "").partition("\n")[0])
    with everything_ends():
        forks = first_lines("peer_bare.py", "fork-loads", "1")[0]
    with everything_ends(), postgres_running() as server:
        with server.schema() as url:
            found = ours(url)
        with server.schema() as url:
            beside = {"bare fork, loads": forks, "a row, its NOTIFY and a listener": wakes(url)}
            for name, command in (("procrastinate", drivers.procrastinate), ("graphile-worker", drivers.graphile)):
                if (prepare := command(url, "prepare", "0")) is not None:
                    subprocess.run(prepare, check=True)
                    beside[f"{name}, in its own process"] = peer(command(url, "first", str(ROUNDS)))
    times = {**{f"flow-agent, agents: {number}": its for number, its in found.items()}, **beside}
    rows = [[what, quantile(its, 0.5) * 1000, quantile(its, 0.99) * 1000] for what, its in times.items()]
    harness.table(["what", "p50 ms", "p99 ms"], rows)
    print()
    one, most = quantile(found[AGENTS[0]], 0.5), quantile(found[AGENTS[-1]], 0.5)
    kept = [
        Budget("first line, p50, one agent", one * 1000, P50 * 1000, "ms"),
        Budget(f"first line, p50, {AGENTS[-1]} agents", most / one, TIMES, "times that of one"),
    ]
    return 0 if harness.budgets(kept) else 1


if __name__ == "__main__":
    run(main)
