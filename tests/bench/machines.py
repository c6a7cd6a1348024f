"""How much does one queue in PostgreSQL carry: claims in a second with 1, 4 and 16 agents, and beside how much history?

Each agent is a process with its queue, as on a machine of its own. A round is claim, started and finish of one run.
"Bare" are the same processes with the least that any queue on PostgreSQL has to do: one `update ... skip locked` that
takes a row, and one that ends it. Beside them procrastinate: its own statements for taking a job and for ending it; and
graphile-worker, where `make peers` found an npm: its worker, with a task that does nothing. Neither keeps leases or
attempts. Then one claim, with 10^3 to 10^6 ended runs (`--rows`).
Budget: a claim beside the most history takes 1.5 times that beside the least.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import anyio

sys.path.append(str(Path(__file__).parents[1]))

import drivers
import harness
import psycopg
from figures import Budget, median, quantile
from serving import WARM_UP

from flow_agent.model import AgentInfo, Outcome, Reason, Registration, State, Submission
from flow_agent.queues.postgres import open_queue
from servers.postgres import PostgresServer, postgres_running

AGENTS = (1, 4, 16)
ROWS = (1_000, 10_000, 100_000, 1_000_000)
WAITING = 4_000
"""Runs that wait when the agents begin: more than they can take."""
ENOUGH = 20_000
"""The same of jobs of the peers."""
DONE = Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED)
FILL = """
insert into runs ({columns}) select {values}
from generate_series(1, {count}) as n cross join (select * from runs order by serial limit 1) as r
"""
LOGS = """
insert into logs (run, attempt, source, seq, time, level, logger, text)
select serial, 1, 'flow', 1, 0, '', '', 'a line of the log' from runs where state = 'succeeded'
"""
BARE = "create table bare (id bigint generated always as identity primary key, state text not null)"
TAKE = """
update bare set state = 'running' where id = (
    select id from bare where state = 'queued' order by id limit 1 for update skip locked
) returning id
"""


async def _prepare(url: str, waiting: int) -> None:
    async with open_queue(url) as queue:
        await queue.register([Registration(flow="noop", kind="pickle", storage={"type": "Local"}, location={})])
        await queue.submit([Submission(flow="noop")] * waiting)


def history(url: str, rows: int) -> None:
    """Add ended runs, each with a line, until there are ``rows`` of them."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("select count(*) from runs where state = 'succeeded'").fetchone()
        names = connection.execute(
            "select column_name from information_schema.columns where table_name = 'runs'"
            " and table_schema = current_schema() and column_name <> 'serial'"
        ).fetchall()
        count = rows - (found[0] if found else 0)
        if count > 0:
            other = {
                "id": f"'00' || lpad(({rows} * 10 + n)::text, 24, '0')",
                "state": "'succeeded'",
                "finished_at": "0",
                "key": "null",
                "lease_until": "null",
            }
            columns = [name for (name,) in names]
            values = ", ".join(other.get(name, f"r.{name}") for name in columns)
            connection.execute(FILL.format(columns=", ".join(columns), values=values, count=count).encode())
            connection.execute("delete from logs")
            connection.execute(LOGS)
        connection.execute("vacuum analyze")


async def work(url: str, name: str, seconds: float) -> list[float]:
    """Claim, start and finish runs one at a time for so long; seconds of each claim."""
    claims = []
    async with open_queue(url) as queue:
        agent = AgentInfo(id=name, name=name, incarnation="1")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            found = await queue.claim(agent, 1, f"{name}-{len(claims)}")
            claims.append(time.perf_counter() - began)
            for claim in found:
                await queue.started(claim, "ref")
                await queue.finish(claim, DONE)
    return claims


def bare(url: str, seconds: float) -> list[float]:
    """The same with two statements."""
    times = []
    with psycopg.connect(url, autocommit=True) as connection:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            row = connection.execute(TAKE).fetchone()
            times.append(time.perf_counter() - began)
            if row:
                connection.execute("update bare set state = 'succeeded' where id = %s", row)
    return times


def ours(url: str, seconds: float, kind: str) -> list[str]:
    """The command of one process that works so long."""
    return [sys.executable, __file__, "--as", kind, "--url", url, "--seconds", str(seconds), "--name"]


def together(number: int, command: list[str], seconds: float) -> tuple[float, list[float]]:
    """Claims in a second of so many processes, and the seconds of each."""
    processes = [subprocess.Popen([*command, f"a{n}"], stdout=subprocess.PIPE, text=True) for n in range(number)]
    found = [json.loads(process.communicate()[0]) for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("one of the processes failed; its own message stands above")
    times = [each for one in found for each in one]
    return len(times) / seconds, times


def rates(url: str, other_url: str, seconds: float) -> list[list[object]]:
    """A row of the table for each number of agents."""
    rows: list[list[object]] = []
    for number in AGENTS:
        for _ in range(WAITING // 500):
            anyio.run(_prepare, url, 500)
        rate, times = together(number, ours(url, seconds, "agent"), seconds)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("drop table if exists bare")
            connection.execute(BARE)
            connection.execute("create index on bare (id) where state = 'queued'")
            connection.execute("insert into bare (state) select 'queued' from generate_series(1, 60000)")
            connection.execute("vacuum analyze bare")
        limit, _ = together(number, ours(url, seconds, "bare"), seconds)
        others = []
        for peer in (drivers.procrastinate, drivers.graphile):
            fill = peer(other_url, "prepare" if number == AGENTS[0] else "more", str(ENOUGH))
            command = peer(other_url, str(seconds))
            if fill is None or command is None:
                others += ["-", "-"]
                continue
            subprocess.run(fill, check=True)
            other, _ = together(number, command, seconds)
            others += [other, rate / other]
        p50, p99 = quantile(times, 0.5) * 1e3, quantile(times, 0.99) * 1e3
        rows.append([number, rate, p50, p99, limit, rate / limit, *others])
    return rows


async def single_claims(urls: dict[int, str], rounds: int) -> dict[int, list[float]]:
    """Seconds of single claims, each of the one run that waits: of each queue in turns, so that all see one machine."""
    times: dict[int, list[float]] = {rows: [] for rows in urls}
    agent = AgentInfo(id="bench", name="bench", incarnation="1")
    async with AsyncExitStack() as stack:
        queues = {rows: await stack.enter_async_context(open_queue(url)) for rows, url in urls.items()}
        for number in range(WARM_UP + rounds):
            for rows, queue in queues.items():
                await queue.submit([Submission(flow="noop")])
                began = time.perf_counter()
                (claim,) = await queue.claim(agent, 1, f"{time.monotonic_ns()}-{number}")
                if number >= WARM_UP:
                    times[rows].append(time.perf_counter() - began)
                await queue.finish(claim, DONE)
    return times


def with_history(server: PostgresServer, stack: ExitStack, rows: int) -> str:
    """The URL of a queue with so many ended runs."""
    url = stack.enter_context(server.schema())
    anyio.run(_prepare, url, 1)
    anyio.run(single_claims, {0: url}, 1)
    history(url, rows)
    return url


def main(asked: argparse.Namespace) -> int:
    """0 if the budget is kept."""
    harness.title((__doc__ or "").partition("\n")[0])
    with postgres_running() as server:
        with server.schema() as url, server.schema() as other:
            head = ["agents", "claims a second", "p50 ms", "p99 ms", "bare a second", "of bare"]
            head += [word for name in ("procrastinate", "graphile-worker") for word in (f"{name} a second", "times")]
            harness.table(head, rates(url, other, asked.seconds))
        with ExitStack() as stack:
            urls = {rows: with_history(server, stack, rows) for rows in asked.rows}
            found = anyio.run(single_claims, urls, asked.rounds)
    print()
    table: list[list[object]] = [
        [rows, median(times) * 1e3, quantile(times, 0.99) * 1e3] for rows, times in found.items()
    ]
    harness.table(["ended runs", "one claim p50 ms", "p99 ms"], table)
    print()
    least, most = asked.rows[0], asked.rows[-1]
    ratio = median(found[most]) / median(found[least])
    budget = Budget(f"a claim beside {most} ended runs", ratio, 1.5, f"times that beside {least}")
    return 0 if harness.budgets([budget]) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    parser.add_argument("--as", dest="kind", choices=["agent", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.kind == "agent":
        print(json.dumps(anyio.run(work, chosen.url, chosen.name, chosen.seconds)))
    elif chosen.kind == "bare":
        print(json.dumps(bare(chosen.url, chosen.seconds)))
    else:
        sys.exit(main(chosen))
