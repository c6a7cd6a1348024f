"""Whatever a bench has started is gone at its end, however far it went off."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

BENCH = str(Path(__file__).parents[1] / "bench")

# A process that has left its parent and its session, and another that is asked nothing and would go on.
SCRIPT = f"""
import subprocess, sys, time
sys.path.insert(0, {BENCH!r})
from processes import descendants, everything_ends, run

def main():
    with everything_ends():
        subprocess.run(["sh", "-c", "setsid sleep 60 & sleep 60 &"], check=True)
        until, found = time.monotonic() + 10, []
        while [process.name() for process in found] != ["sleep"] * 2 and time.monotonic() < until:
            time.sleep(0.01)
            found = descendants()
        print(*(process.pid for process in found), flush=True)
        if sys.argv[1] == "wait":
            sys.stdin.read()
    return 7

run(main)
"""


def started(how: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A bench, and the processes that it has started."""
    bench = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert bench.stdout is not None
    return bench, [int(pid) for pid in bench.stdout.readline().split()]


def test_what_is_left_at_the_end_is_killed_and_told():
    bench, left = started("go on")

    _, told = bench.communicate(timeout=30)

    assert bench.returncode == 7
    assert len(left) == 2
    assert [pid for pid in left if psutil.pid_exists(pid)] == []
    assert told.count("sleep 60") == 2


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)],
)
def test_nothing_is_left_after_a_signal(sent, code):
    bench, left = started("wait")

    bench.send_signal(sent)
    bench.communicate(timeout=30)

    assert bench.returncode == code
    assert len(left) == 2
    assert [pid for pid in left if psutil.pid_exists(pid)] == []
