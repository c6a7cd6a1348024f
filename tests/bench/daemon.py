"""What does the daemon itself cost for each run?

An agent in this process, with a queue file (`synchronous=full`), a cache, a spool and a registered pickle as real ones
are, and a launcher that starts nothing: what is left is claiming, fetching, verifying, the folders, `started`, the log
and `finish`. The runs wait when the agent starts. Counted are runs a second, CPU time of this process with all its
threads, transactions, and calls of threads. Beside it, in the same minute: the same statements by hand, in a
transaction for each verb (claim, started, log, finish), and the disk alone.
Then the wake-up: one run at a time is submitted by another process to the idle agent, and the time from `created_at`,
which is read inside the submit's transaction, to the call of `claim`.
Budget: 1 ms of CPU time for each run, at most 1.25 times that with 10^6 runs of history (`--history 1000000`); from the
commit, which takes what the disk takes, to the call of `claim` 1 ms.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import harness
from anyio.streams.buffered import BufferedByteReceiveStream

from flow_agent import Flow, events, plugins
from flow_agent.agent import Agent, Pace
from flow_agent.cache import Cache
from flow_agent.execute import Tools
from flow_agent.model import AgentInfo, Ending, LaunchSpec, LogLine, Registration, State, Submission
from flow_agent.ports import Leases, Sink, Storage
from flow_agent.prepare import Means
from flow_agent.queues.sqlite import SqliteQueue, open_queue
from flow_agent.registration import build_registrations
from flow_agent.storages import Local
from flow_agent.workspace import remove, remove_if_small

T = TypeVar("T")

LIMITS = (1, 2, 8)
DONE = Ending(code=0, receipt={"ok": True})
SUBMIT = """
import sys, anyio
from flow_agent.model import Submission
from flow_agent.queues.sqlite import open_queue

async def main():
    async with open_queue(sys.argv[1]) as queue:
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            (run,) = await queue.submit([Submission(flow="nothing")])
            sys.stdout.write(f"{run.created_at}\\n")  # print writes the end of the line by itself
            sys.stdout.flush()

anyio.run(main)
"""
HISTORY = """
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < :rows),
    sample as (select * from {table} limit 1)
insert into {table} ({columns}) select {values} from n cross join sample
"""


class NullLauncher:
    """Attempts that have ended as soon as they are looked at, having written ``lines`` lines."""

    name, scope = "process", ""

    def __init__(self, root: Path, lines: int) -> None:
        self._root, self._lines = root, lines

    async def create(self, spec: LaunchSpec) -> str:
        return Path(spec.folder).name

    async def go(self, ref: str) -> None: ...

    async def extend(self, ref: str, deadline: float) -> None: ...

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        await anyio.lowlevel.checkpoint()
        if self._lines:
            made = range(after + 1, self._lines + 1)
            await sink([LogLine(attempt=attempt, source="flow", seq=n, time=time.time(), text="hello") for n in made])
        return DONE

    async def stop(self, ref: str, grace: float) -> None: ...

    async def adopt(self, refs: Collection[str]) -> None: ...

    async def remove(self, ref: str) -> None:
        if not remove_if_small(self._root / ref):
            await anyio.to_thread.run_sync(remove, self._root / ref)


def nothing() -> None:
    return None


def storage_of(registration: Registration) -> Storage:
    found: Storage = plugins.load("storages", registration.storage["type"]).from_description(registration.storage)
    return found


def agent(home: Path, queue: Any, limit: int, lines: int, *, until_empty: bool = True) -> Agent:
    """An agent as the command puts it together, but for its launcher."""
    name = f"bench-{limit}"
    spool = home / "spool" / name
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    means = Means(storage=storage_of, cache=Cache(home / "cache", 10**9), unwritten=home / "unwritten")
    tools = Tools(
        queue=queue, launchers={"process": NullLauncher(spool, lines)}, means=means, spool=spool, leases=Leases()
    )
    info = AgentInfo(id=name, name=name, incarnation=name, limit=limit, started_at=time.time())
    return Agent(info, tools, Pace(), until_empty=until_empty)


async def all_of(home: Path, queue: SqliteQueue, limit: int, *, runs: int, lines: int) -> list[float]:
    """Of ``runs`` runs that wait: runs a second; for each CPU ms, those of the loop, transactions, calls of threads."""
    before = {run.id for run in await queue.runs(limit=1)}
    for first in range(0, runs, 1000):
        await queue.submit([Submission(flow="nothing")] * min(1000, runs - first))
    turns: list[None] = []
    hops: list[None] = []
    with (
        patch(queue._writer, "_work", counted(queue._writer._work, turns)),
        patch(anyio.to_thread, "run_sync", counted(anyio.to_thread.run_sync, hops)),
    ):
        began, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
        await agent(home, queue, limit, lines).serve(signals=False)
        took, cpu, loop = time.perf_counter() - began, time.process_time() - cpu, time.thread_time() - loop
    ended = [run for run in await queue.runs(limit=runs) if run.state is State.SUCCEEDED and run.id not in before]
    if len(ended) != runs:
        raise RuntimeError(f"{len(ended)} of {runs} runs succeeded, so a rate would mean nothing")
    return [runs / took, cpu / runs * 1000, loop / runs * 1000, len(turns) / runs, len(hops) / runs]


# Limits


def by_hand(path: Path, rounds: int) -> list[float]:
    """The least that the same verbs write, each in its own transaction, in one thread."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("pragma journal_mode = wal")
        file.execute("pragma synchronous = full")
        file.execute("create table runs (id text primary key, state text, claim integer, lease real, reason text)")
        file.execute("create index queued on runs (id) where state = 'queued'")
        file.execute("create table claims (run text, number integer, ended text, primary key (run, number))")
        file.execute("create table attempts (run text primary key, started real, ended real)")
        file.execute("create table logs (run text, seq integer, text text, primary key (run, seq))")
        file.executemany("insert into runs values (?, 'queued', 0, 0, '')", [(f"{n:026}",) for n in range(rounds)])
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            file.execute("begin immediate")
            (run,) = file.execute("select id from runs where state = 'queued' order by id limit 1").fetchone()
            file.execute("update runs set state = 'claimed', claim = 1, lease = 30 where id = ?", (run,))
            file.execute("insert into claims values (?, 1, null)", (run,))
            file.execute("commit")
            file.execute("begin immediate")
            file.execute("update runs set state = 'running', lease = 120 where id = ? and claim = 1", (run,))
            file.execute("insert into attempts values (?, 1, null)", (run,))
            file.execute("commit")
            file.execute("begin immediate")
            file.execute("insert into logs values (?, 1, 'hello')", (run,))
            file.execute("commit")
            file.execute("begin immediate")
            file.execute("update runs set state = 'done', reason = 'completed' where id = ? and claim = 1", (run,))
            file.execute("update claims set ended = 'done' where run = ? and number = 1", (run,))
            file.execute("update attempts set ended = 2 where run = ?", (run,))
            file.execute("commit")
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return [rounds / took, cpu / rounds * 1000, 0.0, 4.0, 0.0]


# What is measured beside the rate


def add_history(path: Path, rows: int) -> None:
    """``rows`` copies of one ended run, with its claim and its attempt."""
    with closing(sqlite3.connect(path)) as file:
        for name, changed in (
            ("runs", {"id": "printf('00%024d', i)", "created_at": "i"}),
            ("claims", {"run_id": "printf('00%024d', i)", "request_id": "printf('r%d', i)"}),
            ("attempts", {"run_id": "printf('00%024d', i)"}),
        ):
            columns = [row[1] for row in file.execute(f"pragma table_info({name})") if row[1] != "serial"]
            values = [changed.get(column, f"sample.{column}") for column in columns]
            statement = HISTORY.format(table=name, columns=", ".join(columns), values=", ".join(values))
            file.execute(statement, {"rows": rows})
        file.commit()
        file.execute("pragma wal_checkpoint(truncate)")


class Watched:
    """A queue that notes when it is asked for a claim."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue
        self.asked: list[float] = []

    def __getattr__(self, name: str) -> Any:
        if name == "claim":
            self.asked.append(time.time())
        return getattr(self._queue, name)


async def wake_ups(home: Path, url: str, rounds: int) -> list[float]:
    """Seconds from the time in the submit's transaction to the idle agent's call of ``claim``."""
    found = []
    async with open_queue(url) as queue, anyio.create_task_group() as group:
        watched = Watched(queue)
        idle = agent(home, watched, 1, 0, until_empty=False)
        group.start_soon(lambda: idle.serve(signals=False))
        command = [sys.executable, "-c", SUBMIT, url]
        async with await anyio.open_process(command, stdin=subprocess.PIPE, stderr=None) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            lines = BufferedByteReceiveStream(child.stdout)
            for _ in range(rounds + 1):
                await anyio.sleep(0.05)
                watched.asked.clear()
                await child.stdin.send(b"\n")
                created_at = float(await lines.receive_until(b"\n", 100))
                while not any(asked > created_at for asked in watched.asked):
                    await anyio.sleep(0.001)
                found.append(min(asked for asked in watched.asked if asked > created_at) - created_at)
            await child.stdin.aclose()
        idle.drain()
    return found[1:]


async def idle_share(home: Path, queue: SqliteQueue, seconds: float) -> float:
    """Share of a core that the idle agent takes."""
    async with anyio.create_task_group() as group:
        idle = agent(home, queue, 1, 0, until_empty=False)
        group.start_soon(lambda: idle.serve(signals=False))
        await anyio.sleep(1)
        cpu = time.process_time()
        await anyio.sleep(seconds)
        share = (time.process_time() - cpu) / seconds
        idle.drain()
    return share


@contextmanager
def profiled(lines: int) -> Iterator[None]:
    """Print what took the most CPU time. Work for threads is done in the loop meanwhile: a profile is of one thread."""
    profile = cProfile.Profile(time.thread_time)

    async def inline(work: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return work(*arguments)

    with (
        patch(anyio.to_thread, "run_sync", inline),
        patch(anyio.from_thread, "check_cancelled", lambda: None),
    ):
        profile.enable()
        try:
            yield
        finally:
            profile.disable()
    for order in ("tottime", "cumtime"):
        pstats.Stats(profile).strip_dirs().sort_stats(order).print_stats(lines)


@contextmanager
def patch(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """``replacement`` in the place of ``owner``'s attribute while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, before)


def counted(work: Callable[..., T], calls: list[None]) -> Callable[..., T]:
    """``work``, and one more of ``calls`` each time that it is called."""

    def call(*arguments: Any, **given: Any) -> T:
        calls.append(None)
        return work(*arguments, **given)

    return call


async def main(arguments: argparse.Namespace, home: Path) -> None:
    path = home / "queue.db"
    made = build_registrations([Flow("nothing", nothing, storage=Local(home / "flows", add_default_labels=False))])
    async with open_queue(f"sqlite:{path}") as queue:
        await queue.register(made)
        await all_of(home, queue, 8, runs=50, lines=arguments.lines)
        if arguments.profile:
            with profiled(arguments.profile):
                await all_of(home, queue, arguments.limits[-1], runs=arguments.runs, lines=arguments.lines)
            return
        rows = []
        for rows_before in (0, arguments.history) if arguments.history else (0,):
            if rows_before:
                await anyio.to_thread.run_sync(add_history, path, rows_before)
            for limit in arguments.limits:
                found = await all_of(home, queue, limit, runs=arguments.runs, lines=arguments.lines)
                behind = f", {rows_before} of history" if rows_before else ""
                rows.append([f"runs, limit {limit}{behind}", *found])
    rows.append(["four transactions by hand", *by_hand(home / "bare.db", arguments.runs)])
    harness.table(
        ["what", "a second", "CPU ms each", "of it in the loop", "transactions each", "thread calls each"], rows
    )
    disk = harness.fsyncs(home)
    woken = await wake_ups(home, f"sqlite:{path}", 100)
    async with open_queue(f"sqlite:{path}") as queue:
        share = await idle_share(home, queue, arguments.idle)
    print()
    columns = [
        (what, harness.quantile(s, 0.5) * 1e3, harness.quantile(s, 0.99) * 1e3)
        for what, s in (
            ("submit's transaction to the call of claim", woken),
            ("4 KiB on the disk (fdatasync)", disk),
        )
    ]
    harness.table(["what", "p50 ms", "p99 ms"], columns)
    print(f"\nidle agent: {share * 100:.2f} % of a core; budget 0.5 %")


def quiet(home: Path) -> None:
    """The agent's log as the command has it, but into a file."""
    log = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(log, 2)
    events.configure(style="json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the daemon itself costs for each run.")
    parser.add_argument("--limits", type=int, nargs="+", default=list(LIMITS))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=1, help="lines of log that each run writes")
    parser.add_argument("--history", type=int, default=0, help="ended runs that are in the file already")
    parser.add_argument("--idle", type=float, default=10, help="seconds for which the idle agent is looked at")
    parser.add_argument("--profile", type=int, default=0, help="print so many lines of a profile instead")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    chosen = parser.parse_args()
    harness.title("What does the daemon itself cost for each run?")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as created:
        said = os.dup(2)
        quiet(Path(created))
        try:
            anyio.run(main, chosen, Path(created))
        finally:
            os.dup2(said, 2)
