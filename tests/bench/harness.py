"""What the benches share: tables, quantiles, the machine, and the limits that their numbers stand beside."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
from figures import Budget, quantile

COMMAND = str(Path(sys.executable).with_name("flow-agent"))


def machine() -> str:
    """The machine in one line; numbers of two machines, or of two loads, cannot be compared."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}: {cores} cores, Python {platform.python_version()},"
        f" {platform.system()} {platform.release()}, load {load}"
    )


def title(question: str) -> None:
    """Print what is measured and where."""
    print(f"\n{question}\n{machine()}\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print ``rows`` in columns: text to the left, numbers to the right with three digits that count."""
    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    right = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(head))]
    for number, row in enumerate(cells):
        print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()


def budgets(found: Sequence[Budget]) -> bool:
    """Print each budget with what was found beside it; whether all are kept."""
    rows = [[budget.what, budget.found, budget.wanted, "kept" if budget.kept else "OVER"] for budget in found]
    if rows:
        table(["budget", "found", "wanted", ""], rows)
    return all(budget.kept for budget in found)


def cell(value: object) -> str:
    """``value`` as tables show it."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if value else "0"
    return str(value)


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def times(action: Callable[[], object], rounds: int) -> list[float]:
    """Seconds that each of ``rounds`` calls takes; one more call before them warms caches up."""
    action()
    return [timed(action) for _ in range(rounds)]


def program(*arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run a program to its end.

    Raises CalledProcessError: it failed.
    """
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)


# Limits: what no product of this kind can be faster than, measured in the same minute


def bare_start(rounds: int = 20) -> list[float]:
    """Seconds from start to end of ``python -c pass`` of this environment."""
    return times(lambda: program(sys.executable, "-c", "pass"), rounds)


def cloudpickle_start(folder: Path, rounds: int = 20) -> list[float]:
    """Seconds from the start of a fresh interpreter to the first line of a function out of a pickle."""

    def first_line() -> float:
        return time.time()

    payload = folder / "first_line.pickle"
    payload.write_bytes(cloudpickle.dumps(first_line))
    line = f"import cloudpickle; print(cloudpickle.loads(open({str(payload)!r}, 'rb').read())())"
    found = []
    for _ in range(rounds + 1):
        began = time.time()
        done = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, text=True)
        found.append(float(done.stdout) - began)
    return found[1:]


def bare_fork(rounds: int = 50) -> list[float]:
    """Seconds to fork this process and see the child's end."""

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    return times(fork, rounds)


def fsyncs(folder: Path, rounds: int = 100) -> list[float]:
    """Seconds to write a page into a file of ``folder`` and have it on the disk."""
    path = folder / "fsync"
    with path.open("wb", buffering=0) as file:

        def write() -> None:
            file.seek(0)
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())

        found = times(write, rounds)
    path.unlink()
    return found


def limits(folder: Path) -> None:
    """Print the limits of this machine."""
    rows = [
        [what, quantile(found, 0.5) * 1000, quantile(found, 0.99) * 1000]
        for what, found in (
            ("start and end of the bare interpreter", bare_start()),
            ("fresh interpreter to the first line out of a pickle", cloudpickle_start(folder)),
            ("fork and end of this process", bare_fork()),
            ("4 KiB on the disk (fdatasync)", fsyncs(folder)),
        )
    ]
    table(["limit", "p50 ms", "p99 ms"], rows)


# An agent to measure


@contextmanager
def new_home(flows: str) -> Iterator[Path]:
    """A fresh home for the commands and clients of this process and its children, with the ``flows`` of this text
    registered; removed at the end."""
    before = os.environ.get("FLOW_AGENT_HOME")
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as folder:
        os.environ["FLOW_AGENT_HOME"] = folder
        try:
            file = Path(folder, "flow.py")
            file.write_text(flows)
            flow_agent("register", str(file))
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["FLOW_AGENT_HOME"]
            else:
                os.environ["FLOW_AGENT_HOME"] = before


def flow_agent(*arguments: str) -> str:
    """What the command prints on stdout.

    Raises CalledProcessError: it failed; what it said on stderr has been shown.
    """
    done = subprocess.run(
        [COMMAND, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@contextmanager
def agent(home: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running agent, given when the queue lists it; it is stopped, and its log shown if it did not end well."""
    there = len(json.loads(flow_agent("agents", "--json")))
    log = home / f"bench-agent-{there}.log"
    with log.open("wb") as said:
        process = subprocess.Popen([COMMAND, "start", *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        wait_for(lambda: process.poll() is not None or len(json.loads(flow_agent("agents", "--json"))) > there, 20)
        yield process
    finally:
        process.terminate()
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code:
            sys.stderr.write(log.read_text())


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> None:
    """Return when ``condition`` holds.

    Raises TimeoutError: it did not within ``seconds``.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"what was waited for did not come within {seconds:g} s")
        time.sleep(pause)


def main() -> None:
    """Print the limits of this machine."""
    title("What can this machine do at best?")
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as folder:
        limits(Path(folder))


if __name__ == "__main__":
    main()
