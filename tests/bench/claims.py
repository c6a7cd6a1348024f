"""How long does one claim take while many runs wait that this agent may not take?

For each backlog: that many queued runs in 50 requirement sets that the agent does not serve, and one at a time that it
may take, higher in nothing. Each claim is timed from call to answer, commit included. Beside it the limit: one bare
``update`` by key in a transaction of its own, same settings, same disk. All of it is taken in turns.
Ceiling: the p50 with 10^6 waiting runs is at most 1.5 times the p50 with 10.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio
from harness import quantile, table, title

from flow_agent.model import AgentInfo, Outcome, Reason, Registration, State, Submission
from flow_agent.ports import Queue
from flow_agent.queues.sqlite import open_queue

SIZES = (10, 1_000, 100_000, 1_000_000)
SETS = 50
CEILING = 1.5
AGENT = AgentInfo(id="bench", name="bench", incarnation="1", labels=frozenset({"mine"}))
DONE = Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED)

# The columns that differ; all else is as the runs of the first 50 submissions have it.
FILL = """
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < :rows),
    sample as (select * from runs order by serial limit 1)
insert into runs ({columns})
select {values} from n cross join sample
"""


async def prepared(queue: Queue, path: Path, size: int) -> None:
    """``size`` queued runs that the agent may not take."""
    await queue.register([Registration(flow="noop", kind="pickle", storage={"type": "Local"}, location={})])
    first = min(size, SETS)
    await queue.submit([Submission(flow="noop", labels=frozenset({f"other-{n}"})) for n in range(first)])
    with closing(sqlite3.connect(path)) as database:
        names = [row[1] for row in database.execute("pragma table_info(runs)") if row[1] != "serial"]
        changed = {"id": "printf('00%024d', i)", "requirement_set": f"1 + i % {SETS}"}
        values = [changed.get(name, f"sample.{name}") for name in names]
        statement = FILL.format(columns=", ".join(names), values=", ".join(values))
        if size > first:
            database.execute(statement, {"rows": size - first})
            database.commit()
        database.execute("pragma wal_checkpoint(truncate)")
        waiting = database.execute("select count(*) from runs where state = 'queued'").fetchone()[0]
    assert waiting == size, f"{waiting} runs wait, not {size}"


class Backlog:
    """One queue with its waiting runs, and the seconds of each claim and each bare update beside it."""

    def __init__(self, size: int, queue: Queue) -> None:
        self.size = size
        self.claims: list[float] = []
        self.bare: list[float] = []
        self._queue = queue

    async def round(self, limit: sqlite3.Connection) -> None:
        """One claim and one bare update."""
        await self._queue.submit([Submission(flow="noop", labels=frozenset({"mine"}))])
        began = time.perf_counter()
        (claim,) = await self._queue.claim(AGENT, 1, f"request-{len(self.claims)}")
        self.claims.append(time.perf_counter() - began)
        await self._queue.finish(claim, DONE)
        began = time.perf_counter()
        limit.execute("update t set n = n + 1 where id = 1")
        self.bare.append(time.perf_counter() - began)


async def measured(sizes: list[int], rounds: int, folder: Path) -> list[Backlog]:
    """All backlogs, measured in turns, so that a busy disk is busy for all of them."""
    async with AsyncExitStack() as stack:
        limit = stack.enter_context(closing(sqlite3.connect(folder / "bare.db", isolation_level=None)))
        limit.execute("pragma journal_mode = wal")
        limit.execute("pragma synchronous = full")
        limit.execute("create table t (id integer primary key, n integer)")
        limit.execute("insert into t values (1, 0)")
        backlogs = []
        for size in sizes:
            path = folder / f"{size}.db"
            queue = await stack.enter_async_context(open_queue(f"sqlite:{path}"))
            await prepared(queue, path, size)
            backlogs.append(Backlog(size, queue))
        for _ in range(rounds):
            for backlog in backlogs:
                await backlog.round(limit)
        return backlogs


async def main(sizes: list[int], rounds: int, folder: Path) -> int:
    """Print the table; 1 if the largest backlog is over the ceiling."""
    title("One claim, by the number of queued runs that the agent may not take (ms)")
    backlogs = await measured(sizes, rounds, folder)
    base = quantile(backlogs[0].claims, 0.5)
    rows, ratio = [], 1.0
    for backlog in backlogs:
        p50, bare = quantile(backlog.claims, 0.5), quantile(backlog.bare, 0.5)
        ratio = p50 / base
        row = (backlog.size, p50 * 1e3, quantile(backlog.claims, 0.99) * 1e3)
        rows.append((*row, bare * 1e3, quantile(backlog.bare, 0.99) * 1e3, p50 / bare, ratio))
    table(
        ("waiting", "claim p50", "claim p99", "bare update p50", "bare p99", "claim / bare", f"of {sizes[0]} waiting"),
        rows,
    )
    over = ratio > CEILING
    print(f"\nwith {sizes[-1]} waiting: {ratio:.2f} times; ceiling {CEILING}: {'OVER' if over else 'kept'}")
    return int(over)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One claim beside many runs that the agent may not take.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as created:
        sys.exit(anyio.run(main, chosen.sizes, chosen.rounds, Path(created)))
