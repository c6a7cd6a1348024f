"""How long is it from the submit to the first line, where many agents share one queue in PostgreSQL?

1, 4 and 16 idle agents, each a process with zygote and parked attempt as on a machine of its own, all told of each run
at once; one of them alone, then all beside 10^6 ended runs (`--rows`). Forty runs one after the other, each 250 ms
after the end of the one before. From `created_at`, by the clock of the database, which is this machine's, to
`time.time()` in the flow's first line. Beside it the least that PostgreSQL needs: a row, its NOTIFY and a listener that
wakes up; the bare fork that loads; and two queues on PostgreSQL whose tasks run in the worker's own process, without a
start: procrastinate, and graphile-worker where `make peers` found npm.
Budget: p50 15 ms with one agent, and 1.25 times that beside the ended runs. With 16 agents on the cores of one machine
there is none: all of them wake up for each run, and want the same cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import drivers
import harness
import psycopg
from figures import Budget, quantile
from latency import ROUNDS, first_lines
from machines import history
from peer_flow_agent import FLOWS, Ours
from processes import everything_ends, run
from serving import PAUSE, WARM_UP

from servers.postgres import postgres_running

AGENTS = (1, 4, 16)
ROWS = 1_000_000
P50, TIMES = 0.015, 1.25
FRESH, BESIDE = "flow-agent, agents: 1", "flow-agent, agents: {}, ended runs: {}"


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


def measured() -> list[float]:
    """Seconds to each first line."""
    ours, found = Ours(), []
    for number in range(WARM_UP + ROUNDS):
        time.sleep(PAUSE if number >= WARM_UP else 0)
        found.append(ours.first_line()[0])
    return found[WARM_UP:]


def ours(url: str, rows: int) -> dict[str, list[float]]:
    """Seconds to each first line: of one agent, of one beside so many ended runs, and of more beside those."""
    os.environ["FLOW_AGENT_QUEUE"] = url
    found: dict[str, list[float]] = {}
    with ExitStack() as agents:
        home = agents.enter_context(harness.new_home(FLOWS.format(run_config=None)))
        agents.enter_context(harness.agent(home, "--name", "agent-0"))
        found[FRESH] = measured()
        history(url, rows)
        for before, number in pairwise((1, *AGENTS)):
            for one in range(before, number):
                agents.enter_context(harness.agent(home, "--name", f"agent-{one}"))
            found[BESIDE.format(number, rows)] = measured()
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args().rows
    harness.title((__doc__ or "").partition("\n")[0])
    with everything_ends():
        forks = first_lines("peer_bare.py", "fork-loads", "1")[0]
    with everything_ends(), postgres_running() as server:
        with server.schema() as url:
            found = ours(url, rows)
        with server.schema() as url:
            beside = {"bare fork, loads": forks, "a row, its NOTIFY and a listener": wakes(url)}
            for name, command in (("procrastinate", drivers.procrastinate), ("graphile-worker", drivers.graphile)):
                if (prepare := command(url, "prepare", "0")) is not None:
                    subprocess.run(prepare, check=True)
                    beside[f"{name}, in its own process"] = peer(command(url, "first", str(ROUNDS)))
    p50 = {what: quantile(its, 0.5) * 1000 for what, its in found.items()}
    table = [[what, quantile(its, 0.5) * 1000, quantile(its, 0.99) * 1000] for what, its in (found | beside).items()]
    harness.table(["what", "p50 ms", "p99 ms"], table)
    print()
    ratio = p50[BESIDE.format(1, rows)] / p50[FRESH]
    kept = [
        Budget("first line, p50, one agent", p50[FRESH], P50 * 1000, "ms"),
        Budget(f"the same beside {rows} ended runs", ratio, TIMES, "times that without"),
    ]
    return 0 if harness.budgets(kept) else 1


if __name__ == "__main__":
    run(main)
