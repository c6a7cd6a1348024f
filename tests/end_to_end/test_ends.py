"""How attempts end, on real processes: each end has its own reason and tells what is known of it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from command import Cli, unless_all_is_required
from flow_agent.launchers import cgroup, linux

FLOWS = """
import ctypes, os, resource, signal, subprocess, sys, time
from flow_agent import LocalRun, flow

SMALL = LocalRun(memory_limit="160M")
GROWS = "x = []\\nimport time\\nwhile True: x.append(b'x' * 2**20); time.sleep(0.01)"

def last_words():
    for number in range(20):
        print("line", number)
    print("last words", file=sys.stderr)

@flow(name="grows", run_config=SMALL)
def grows():
    last_words()
    exec(GROWS)

@flow(name="child grows", run_config=SMALL)
def child_grows():
    last_words()
    kept = b"x" * (60 * 2**20)
    subprocess.run([sys.executable, "-c", GROWS], check=True)

@flow(name="burns", run_config=LocalRun(cpu_time_limit=1))
def burns():
    last_words()
    while True:
        pass

@flow(name="burns on", run_config=LocalRun(cpu_time_limit=1))
def burns_on():
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    last_words()
    while True:
        pass

@flow(name="is told of no limit")
def xcpu():
    last_words()
    os.kill(os.getpid(), signal.SIGXCPU)

@flow(name="leaves")
def leaves():
    last_words()
    os._exit(3)

@flow(name="leaves content")
def leaves_content():
    last_words()
    os._exit(0)

@flow(name="exits")
def exits():
    last_words()
    sys.exit(7)

@flow(name="exits with words")
def exits_with_words():
    last_words()
    sys.exit("no such table")

@flow(name="dies")
def dies(of: str):
    last_words()
    os.kill(os.getpid(), getattr(signal, of))

@flow(name="overflows")
def overflows():
    last_words()
    resource.setrlimit(resource.RLIMIT_STACK, (262_144, 262_144))  # before Python counts too many calls
    call = ctypes.CFUNCTYPE(None)(lambda: call())
    call()

@flow(name="nice", run_config=LocalRun(nice=5))
def is_nice():
    return [os.nice(0), int(subprocess.check_output(["nice"]))]

@flow(name="usual")
def is_usual():
    return [os.nice(0), int(subprocess.check_output(["nice"]))]
"""

ENDS: dict[str, tuple[str, int | None, str]] = {
    "grows": ("out_of_memory", None, "memory_limit is 167772160"),
    "child grows": ("out_of_memory", None, "memory_limit is 167772160"),
    "burns": ("timed_out", 152, "cpu_time_limit is 1 s"),
    "burns on": ("timed_out", 137, "cpu_time_limit is 1 s"),
    "is told of no limit": ("killed", 152, "killed by SIGXCPU"),
    "leaves": ("exited", 3, "exited with code 3"),
    "leaves content": ("exited", 0, "exited with code 0 before the flow returned"),
    "exits": ("exited", 7, "sys.exit(7)"),
    "exits with words": ("exited", 1, "sys.exit('no such table')"),
    "dies of SIGKILL": ("killed", 137, "killed by SIGKILL, perhaps out of memory"),
    "dies of SIGSEGV": ("killed", 139, "killed by SIGSEGV"),
    "dies of SIGABRT": ("killed", 134, "killed by SIGABRT"),
    "overflows": ("killed", 139, "perhaps its stack overflowed; last output"),
}
"""By the run: reason, exit code (None: whichever), and words of the detail."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, dict[str, Any]]]:
    """One of each, run side by side."""
    cli = Cli(tmp_path_factory.mktemp("ends"))
    cli("register", str(cli.write("flows.py", FLOWS)))
    runs = {}
    for name in ENDS:
        flow, _, of = name.partition(" of SIG")
        arguments = ["-p", f"of=SIG{of}"] if of else []
        (runs[name],) = cli.submit(flow, *arguments)
    cli("start", "--until-empty", "--limit", "4", timeout=60)
    yield cli, {name: cli.show(run) for name, run in runs.items()}
    cli.close()


@pytest.mark.parametrize("name", ENDS)
def test_an_end_is_told_with_its_reason_and_the_last_words(told: tuple[Cli, dict[str, Any]], name: str) -> None:
    cli, shown = told
    reason, code, words = ENDS[name]
    run = shown[name]
    assert (run["state"], run["reason"]) == ("failed", reason), run["detail"]
    assert code in {None, run["exit_code"]}
    assert words in run["detail"]
    assert "last words" in run["detail"]
    assert "last words" in cli("logs", run["id"]).splitlines()


def test_niceness_is_added_to_that_of_the_agent_and_reaches_children(told: tuple[Cli, dict[str, Any]]) -> None:
    cli, _ = told
    runs = [cli.submit(name)[0] for name in ("nice", "usual")]
    cli("start", "--until-empty")
    own = os.nice(0)
    assert [json.loads(cli("result", run)) for run in runs] == [[own + 5] * 2, [own] * 2]


# What an attempt started and let go

ESCAPES = """
import subprocess, sys, time
from flow_agent import current_run, flow

CHILD = '''
import os, signal, sys, time
run, way, trace = sys.argv[1:]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if way == "twice" and (os.fork() or os.setsid() or os.fork()):
    os._exit(0)
while True:
    with open(trace, "a") as witness:
        witness.write(f"{run} {way} {os.getpid()} {time.time()}\\\\n")
    time.sleep(0.01)
'''

def escape(trace):
    run = current_run().id
    for way in ("group", "session", "twice", "bare"):
        subprocess.Popen(
            [sys.executable, "-c", CHILD, run, way, trace],
            start_new_session=way in ("session", "bare"),
            env={} if way == "bare" else None,
        )
    time.sleep(300)

@flow(name="escapes")
def escapes(trace: str):
    escape(trace)

@flow(name="escapes within limits", timeout=6)
def limited(trace: str):
    escape(trace)
"""
WAYS = {"group", "session", "twice", "bare"}


class Escaped:
    """What the children of runs did, by their own account."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def of(self, run: str) -> dict[str, tuple[int, float]]:
        """By the way in which it got away: the child's pid, and when it last did something."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        seen = [line.split() for line in lines if line.startswith(run) and line.count(" ") == 3]
        return {way: (int(pid), float(moment)) for _, way, pid, moment in seen}

    def last(self, run: str) -> list[float]:
        """When each last did something."""
        return [moment for _, moment in self.of(run).values()]

    def alive(self, run: str) -> set[str]:
        return {way for way, (pid, _) in self.of(run).items() if linux.start_time(pid) is not None}


@pytest.mark.parametrize("start", ["fork", "fresh"])
def test_a_cancelled_attempt_takes_along_all_that_got_away_and_nothing_of_others(cli: Cli, start: str) -> None:
    escaped = Escaped(cli.folder / "trace")
    cli("register", str(cli.write("escapes.py", ESCAPES)))
    cli.start("--limit", "2", "--grace", "0.5", "--process-start", start)
    one, other = (cli.submit("escapes", "-p", f"trace={escaped.trace}")[0] for _ in range(2))
    cli.until(lambda: escaped.alive(one) == escaped.alive(other) == WAYS)
    assert_cancelled(cli, escaped, one)
    assert cli.state(other) == "running"
    assert escaped.alive(other) == WAYS
    cli.until(lambda: min(escaped.last(other)) > max(escaped.last(one)) + 0.1)
    assert_cancelled(cli, escaped, other)


def assert_cancelled(cli: Cli, escaped: Escaped, run: str) -> None:
    """Cancel it, and see that by the time at which that is written nothing of it did anything any more."""
    cli("cancel", run, "--wait")
    assert escaped.alive(run) == set()
    shown = cli.show(run)
    assert (shown["state"], shown["reason"]) == ("cancelled", "cancelled")
    assert max(escaped.last(run)) <= datetime.fromisoformat(shown["finished_at"]).timestamp()


def test_a_time_limit_reaches_all_that_got_away_and_nothing_of_others(cli: Cli) -> None:
    escaped = Escaped(cli.folder / "trace")
    cli("register", str(cli.write("escapes.py", ESCAPES)))
    cli.start("--limit", "2", "--grace", "0.5")
    (other,) = cli.submit("escapes", "-p", f"trace={escaped.trace}")
    cli.until(lambda: escaped.alive(other) == WAYS)
    (limited,) = cli.submit("escapes within limits", "-p", f"trace={escaped.trace}")
    cli.until(lambda: escaped.alive(limited) == WAYS)
    cli.until(lambda: cli.state(limited) != "running")
    assert escaped.alive(limited) == set()
    run = cli.show(limited)
    assert (run["reason"], run["detail"]) == ("timed_out", "ran longer than its time limit of 6 s")
    assert max(escaped.last(limited)) <= datetime.fromisoformat(run["finished_at"]).timestamp()
    assert escaped.alive(other) == WAYS


# A full disk

FILLS = """
import os, time
from flow_agent import flow

def fill():
    with open("rubbish", "wb", buffering=0) as rubbish:
        while True:
            rubbish.write(bytes(65_536))

@flow(name="fills")
def fills():
    print("last words", flush=True)
    fill()

@flow(name="fills and goes on")
def goes_on(lines: int):
    print("first words", flush=True)
    try:
        fill()
    except OSError as error:
        print("caught", error)
    for number in range(lines):
        print(number, "x" * 90)
    return lines

@flow(name="works")
def works():
    return 1

@flow(name="fills and leaves")
def leaves():
    print("last words", flush=True)
    try:
        fill()
    except OSError:
        os._exit(4)
"""


@pytest.mark.parametrize(
    ("flow", "reason", "code", "words"),
    [
        ("fills", "raised", 1, "No space left on device"),
        ("fills and leaves", "exited", 4, "exited with code 4; last output:\nlast words"),
    ],
)
def test_an_attempt_that_filled_the_disk_itself_ends_and_makes_room(
    cli: Cli, disk: Path, flow: str, reason: str, code: int, words: str
) -> None:
    cli("register", str(cli.write("fills.py", FILLS)))
    cli.start("--poll", "0.5")
    (run,) = cli.submit(flow)
    cli.until(lambda: cli.state(run) == "failed")
    shown = cli.show(run)
    assert (shown["reason"], shown["exit_code"]) == (reason, code)
    assert words in shown["detail"]
    assert cli("logs", run).splitlines()[0] == "last words"
    assert_it_works(cli)


@pytest.mark.slow
def test_an_attempt_that_fills_the_disk_and_goes_on_is_ended_with_its_lease_and_makes_room(
    cli: Cli, disk: Path
) -> None:
    cli("register", str(cli.write("fills.py", FILLS)))
    cli.start(
        *("--poll", "0.5", "--grace", "1", "--lease-running", "6", "--lease-claimed", "4", "--lease-heartbeat", "1")
    )
    (run,) = cli.submit("fills and goes on", "-p", "lines=5000")
    cli.until(lambda: cli.state(run) == "failed")
    shown = cli.show(run)
    assert (shown["reason"], shown["attempt"]) == ("agent_lost", 1)
    assert "its lease ended" in shown["detail"]
    words, caught, *lines = cli("logs", run).splitlines()
    assert (words, caught) == ("first words", "caught [Errno 28] No space left on device")
    assert lines[:-1] == [f"{number} " + "x" * 90 for number in range(len(lines) - 1)]
    assert_it_works(cli)


def assert_it_works(cli: Cli) -> None:
    (good,) = cli.submit("works")
    cli.until(lambda: cli.state(good) == "succeeded")
    assert cli("result", good) == "1\n"


# Memory that ran out for the kernel

EATS = """
import os, signal, subprocess, sys, time
from flow_agent import flow

GROWS = "x = []\\nwhile True: x.append(b'x' * 2**23)"

@flow(name="eats")
def eats():
    print("last words", file=sys.stderr)
    exec(GROWS)

@flow(name="child eats")
def child_eats():
    subprocess.run([sys.executable, "-c", GROWS], check=True)

@flow(name="is shot")
def is_shot():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def memory_group(cli: Cli) -> Iterator[Path]:
    """A cgroup whose processes may hold 300 MB together; agents of ``cli`` are started in it."""
    group, limits = some_memory_group()
    for name, value in limits.items():
        with contextlib.suppress(FileNotFoundError, PermissionError):  # no swap is counted, so there is none of it
            (group / name).write_text(value)
    command = cli.write("in-group", f'#!/bin/sh\necho $$ > {group}/cgroup.procs && exec {cli.command} "$@"\n')
    command.chmod(0o755)
    cli.command = str(command)
    yield group
    cli.close()
    cli.until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def some_memory_group() -> tuple[Path, dict[str, str]]:
    """A new memory cgroup, and the files of its limits; without one the test is left out.

    A container usually may not make any: then there is nothing here by which the kernel could be made to kill.
    """
    size = str(300 * 2**20)
    older = {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
    newer = {"memory.max": size, "memory.swap.max": "0"}
    own = cgroup.memory_folder(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    for parent in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"), Path(own or "/sys/fs/cgroup")):
        group = parent / f"flow-agent-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            for limits in (older, newer):
                if (group / next(iter(limits))).exists() and os.access(group / "cgroup.procs", os.W_OK):
                    return group, limits
            group.rmdir()
    unless_all_is_required("no memory cgroup can be made here")
    raise AssertionError  # that left the test


@pytest.mark.slow
def test_an_attempt_that_the_kernel_kills_for_want_of_memory_is_told_so(cli: Cli, memory_group: Path) -> None:
    cli("register", str(cli.write("eats.py", EATS)))
    (shot_before,) = cli.submit("is shot")
    cli.start("--limit", "1")
    (eaten,), (child,), (shot,) = cli.submit("eats"), cli.submit("child eats"), cli.submit("is shot")
    runs = (shot_before, eaten, child, shot)
    cli.until(lambda: all(cli.state(run) == "failed" for run in runs), 60)
    assert [cli.show(run)["reason"] for run in runs] == ["killed", "out_of_memory", "raised", "killed"]
    shown = cli.show(eaten)
    assert shown["exit_code"] == 137
    assert shown["detail"] == (
        "the kernel killed a process of its memory cgroup because memory ran out, and this one was killed then;"
        " last output:\nlast words"
    )
    assert "SIGKILL" in cli.show(child)["detail"]
    assert "of its memory cgroup that the kernel killed while this ran, as memory ran out: 1" in cli("logs", child)
    for run in (shot_before, shot):
        assert "the kernel" not in cli("logs", run)
