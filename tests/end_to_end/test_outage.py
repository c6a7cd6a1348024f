"""The queue is locked, away, or failing: attempts go on, and all they have to tell arrives once when it is back."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from command import Cli, unless_all_is_required

FLOWS = """
import os, time
from flow_agent import current_run, flow

def work(lines, wait=0.05):
    run = current_run()
    with open({witness!r}, "a", buffering=1) as witness:
        for number in range(lines):
            witness.write(f"{{run.id}} {{run.attempt}} {{number}} {{time.time()}}\\n")
            print("line", run.attempt, number, flush=True)
            time.sleep(wait)
    return lines

@flow(name="lines")
def lines(n: int):
    return work(n)

@flow(name="endless", retries=1)
def endless():
    return work(10_000 if current_run().attempt == 1 else 20)

@flow(name="gated")
def gated(gate: str):
    work(1)
    while not os.path.exists(gate):
        time.sleep(0.02)
    return work(20)

@flow(name="talkative")
def talkative(gate: str, megabytes: int):
    work(1)
    while not os.path.exists(gate):
        time.sleep(0.02)
    for _ in range(megabytes * 1000):
        print("x" * 999)
"""

SHORT = ("--lease-running", "6", "--lease-claimed", "4", "--lease-heartbeat", "1", "--grace", "1")
"""Leases that end within an outage of some seconds."""


class Outages:
    """A queue in a folder of its own, and ways to take it away from an agent."""

    def __init__(self, cli: Cli) -> None:
        self.cli, self.folder = cli, cli.folder / "queue"
        self.folder.mkdir(mode=0o700)
        self.file = self.folder / "queue.db"
        cli.env["FLOW_AGENT_QUEUE"] = f"sqlite:{self.file}"
        self.trace = cli.folder / "witness"
        self._mounted = False

    def register(self) -> None:
        self.cli("register", str(self.cli.write("flows.py", FLOWS.format(witness=str(self.trace)))))

    def witnessed(self, run: str, attempt: int = 1) -> list[float]:
        """The times at which that attempt did something."""
        words = [line.split() for line in self.trace.read_text().splitlines()] if self.trace.exists() else []
        return [float(moment) for one, number, _, moment in words if (one, number) == (run, str(attempt))]

    def count(self, event: str) -> int:
        """How many lines of the agents' log tell that event."""
        return sum(json.loads(line)["event"] == event for line in self.cli.log().splitlines() if line.startswith("{"))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Another program holds the lock of the writers."""
        with Path(f"{self.file}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A database tool has an open transaction."""
        with contextlib.closing(sqlite3.connect(self.file, isolation_level=None)) as other:
            other.execute("begin exclusive")
            yield
            other.execute("rollback")

    @contextlib.contextmanager
    def move(self) -> Iterator[None]:
        """The file is elsewhere."""
        elsewhere = self.cli.folder / "elsewhere.db"
        self.file.rename(elsewhere)
        yield
        elsewhere.rename(self.file)

    @contextlib.contextmanager
    def move_folder(self) -> Iterator[None]:
        """The whole folder is elsewhere."""
        elsewhere = self.cli.folder / "elsewhere"
        self.folder.rename(elsewhere)
        yield
        elsewhere.rename(self.folder)

    @contextlib.contextmanager
    def fill(self) -> Iterator[None]:
        """The queue's disk is full."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    def mount(self) -> None:
        """Put the queue on a small disk."""
        mount = shutil.which("mount")
        command = [mount or "", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(self.folder)]
        if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
            unless_all_is_required("only root may mount a small disk")
        self._mounted = True

    def close(self) -> None:
        self.cli.close()
        if self._mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def outages(cli: Cli) -> Iterator[Outages]:
    outages = Outages(cli)
    yield outages
    outages.close()


WAYS: dict[str, Callable[[Outages], contextlib.AbstractContextManager[None]]] = {
    "locked": Outages.lock,
    "in a transaction of another": Outages.transaction,
    "moved away": Outages.move,
    "folder moved away": Outages.move_folder,
    "disk full": Outages.fill,
}


@pytest.mark.parametrize("way", WAYS)
def test_attempts_go_on_through_an_outage_and_tell_all_once(outages: Outages, way: str) -> None:
    cli = outages.cli
    if way == "disk full":
        outages.mount()
    outages.register()
    agent = cli.start("--poll", "0.5", "--limit", "3")
    (ends,), gate = cli.submit("lines", "-p", "n=60"), cli.folder / "gate"
    (goes_on,) = cli.submit("gated", "-p", f"gate={gate}")
    cli.until(lambda: outages.witnessed(ends) and outages.witnessed(goes_on))
    process = psutil.Process(agent.pid)
    spool = cli.home / "spool"
    with WAYS[way](outages):
        used, began = sum(process.cpu_times()[:2]), time.monotonic()
        cli.until(lambda: outages.count("queue.unavailable"))
        cli.until(lambda: list(spool.glob(f"*/{ends}-1/exit.json")))
        gate.touch()
        cli.until(lambda: len(outages.witnessed(goes_on)) > 5)
        used = sum(process.cpu_times()[:2]) - used
        assert agent.poll() is None
        assert used < 0.3 * (time.monotonic() - began), "it spins"
        assert (outages.count("queue.unavailable"), outages.count("queue.back")) == (1, 0)
    cli.until(lambda: {cli.state(run) for run in (ends, goes_on)} == {"succeeded"})
    (later,) = cli.submit("lines", "-p", "n=1")
    cli.until(lambda: cli.state(later) == "succeeded")
    cli.until(lambda: outages.count("queue.back"))
    assert (outages.count("queue.unavailable"), outages.count("queue.back")) == (1, 1), cli.log()
    assert cli("logs", ends).splitlines() == [f"line 1 {n}" for n in range(60)]
    assert cli("logs", goes_on).splitlines() == ["line 1 0", *(f"line 1 {n}" for n in range(20))]
    assert [cli("result", run).strip() for run in (ends, goes_on)] == ["60", "20"]
    assert len(outages.witnessed(ends)) == 60
    assert [path.name for path in spool.glob("*/*-1")] == []
    (away,) = [json.loads(line) for line in cli.log().splitlines() if "queue.unavailable" in line]
    assert away["since"] < away["timestamp"].replace("Z", "+00:00")
    assert str(outages.file) in away["why"] or "has not answered" in away["why"]


def test_an_attempt_ends_with_its_lease_before_anybody_runs_it_again(outages: Outages) -> None:
    cli = outages.cli
    outages.register()
    for name in ("first", "second"):
        cli.start("--name", name, "--poll", "0.5", "--limit", "3", *SHORT)
    cli.until(lambda: outages.count("agent.started") == 2)
    (endless,), (ends,) = cli.submit("endless"), cli.submit("lines", "-p", "n=20")
    cli.until(lambda: outages.witnessed(endless) and outages.witnessed(ends))
    with outages.move():
        away = time.time()
        cli.until(lambda: time.time() - outages.witnessed(endless)[-1] > 1)  # it was ended by its keeper
        last = outages.witnessed(endless)[-1]
        assert 2 < last - away < 6
        cli.until(lambda: time.time() > away + 9)  # every lease is over by now
    cli.until(lambda: cli.state(endless) == "succeeded")
    assert [attempt["reason"] for attempt in cli.show(endless)["attempts"]] == ["agent_lost", "completed"]
    assert outages.witnessed(endless, 1)[-1] == last
    assert last < outages.witnessed(endless, 2)[0]
    # What ended in time was told late, by who held it, and nobody took it for lost.
    cli.until(lambda: cli.state(ends) == "succeeded")
    assert [attempt["reason"] for attempt in cli.show(ends)["attempts"]] == ["completed"]
    assert cli("logs", ends).splitlines() == [f"line 1 {n}" for n in range(20)]
    lines = cli("logs", endless).splitlines()
    counts = collections.Counter(line.split()[1] for line in lines if line.startswith("line"))
    assert counts["2"] == 20
    assert [line for line in lines if line.startswith("line 1")] == [f"line 1 {n}" for n in range(counts["1"])]
    assert counts["1"] >= len(outages.witnessed(endless, 1)) - 1  # killed between the one and the other


def test_output_waits_in_the_spool_within_its_limit_and_not_in_the_daemon(outages: Outages) -> None:
    cli, gate = outages.cli, outages.cli.folder / "gate"
    outages.register()
    agent = cli.start("--limit", "1", "--output-limit", "3_000_000")
    (run,) = cli.submit("talkative", "-p", f"gate={gate}", "-p", "megabytes=40")
    cli.until(lambda: outages.witnessed(run))
    process = psutil.Process(agent.pid)
    before = process.memory_info().rss
    with outages.move():
        gate.touch()
        cli.until(lambda: list(cli.home.glob(f"spool/*/{run}-1/exit.json")))
        time.sleep(1)
        assert process.memory_info().rss - before < 10_000_000
        assert sum(path.stat().st_size for path in cli.home.glob(f"spool/*/{run}-1/*") if path.is_file()) < 9_000_000
    cli.until(lambda: cli.state(run) == "succeeded")
    first, *lines, last = cli("logs", run).splitlines()
    assert first == "line 1 0"
    (gap,) = re.findall(r"(\d+) bytes of output were left out", last)
    printed = len(first) + 1 + sum(len(line) for line in lines) + len(lines)
    assert {len(line) for line in lines[:-1]} == {999}
    assert 0 <= printed + int(gap) - (40_000_000 + len("line 1 0\n")) <= 1  # the last line may be cut in the middle


@pytest.mark.slow
def test_an_agent_can_be_stopped_while_the_queue_is_locked(outages: Outages) -> None:
    cli = outages.cli
    outages.register()
    agent = cli.start("--report-seconds", "1", "--grace", "1")
    (run,) = cli.submit("endless")
    cli.until(lambda: outages.witnessed(run))
    with outages.lock():
        cli.until(lambda: outages.count("queue.unavailable"))
        agent.terminate()
        cli.until(lambda: outages.count("agent.draining"))
        agent.terminate()
        assert agent.wait(60) == 1
        last = outages.witnessed(run)[-1]
        time.sleep(0.3)
        assert outages.witnessed(run)[-1] == last
    successor = cli.start("--until-empty")
    assert successor.wait(60) == 0
    assert [attempt["reason"] for attempt in cli.show(run)["attempts"]] == ["agent_stopping", "completed"]


def test_an_outage_at_any_moment_of_many_runs_loses_and_doubles_nothing(outages: Outages) -> None:
    cli = outages.cli
    outages.register()
    cli.start("--poll", "0.5", "--limit", "4")
    # One that starts while the file is away begins a queue of its own.
    cli.until(lambda: outages.count("agent.started"))
    runs = cli.submit("lines", "-p", "n=3", "--count", "60")
    for way in itertools.islice(itertools.cycle([Outages.move, Outages.transaction, Outages.lock]), 12):
        with way(outages):
            time.sleep(0.4)
        time.sleep(0.3)
    cli.until(lambda: all(run["state"] == "succeeded" for run in cli.json("runs", "--limit", "100")), 60)
    assert {(run["attempt"], run["id"] in runs) for run in cli.json("runs", "--limit", "100")} == {(1, True)}
    witnessed = collections.Counter(line.rpartition(" ")[0] for line in outages.trace.read_text().splitlines())
    assert len(witnessed) == 180
    assert set(witnessed.values()) == {1}
    for run in runs[::6]:
        assert cli("logs", run).splitlines() == ["line 1 0", "line 1 1", "line 1 2"]
