"""The bench's half of the talk with a driver (see ``serving``): starts it, asks it, ends it and all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = Path(sys.executable)
START = 180.0
"""Seconds for a driver to be ready, and to end: Prefect's server needs a minute beside others."""


def peers() -> Path:
    """The Python of the environment with RQ; Redis lies beside it.

    Raises SystemExit: it is not there.
    """
    return _python(Path(os.environ.get("FLOW_AGENT_TEST_PEERS", ROOT / ".venv-peers")), "make peers")


def procrastinate(url: str, *words: str) -> list[str]:
    """The command of its driver."""
    return [str(peers()), str(HERE / "peer_procrastinate.py"), url, *words]


def graphile(url: str, *words: str) -> list[str] | None:
    """The command of graphile-worker's driver; None where there was no npm for `make peers` to install it."""
    modules = peers().parents[1] / "graphile/node_modules"
    if not modules.exists():
        return None
    return ["env", f"NODE_PATH={modules}", "node", str(HERE / "peer_graphile.js"), url, *words]


def prefect() -> Path:
    """The Python of the environment with Prefect 3.

    Raises SystemExit: it is not there.
    """
    frameworks = Path(os.environ.get("FLOW_AGENT_TEST_FRAMEWORKS", ROOT / ".venv-frameworks"))
    return _python(frameworks / "prefect3", "make frameworks")


def _python(folder: Path, how: str) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"there is no {python}\nhint: `{how}` makes it")
    return python


class Driver:
    """A driver that is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.version: str = self._answer(START)["version"]

    def ask(self, question: str, number: int, seconds: float = START) -> dict[str, Any]:
        """The answer to a question of ``serving``; ``number`` says how many.

        Raises RuntimeError: the driver failed, and has said why on stderr. TimeoutError: it gave none in time.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the answer tells
            self._process.stdin.write(f"{question} {number}\n")
            self._process.stdin.flush()
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"{self._process.args!r} gave no answer within {seconds:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} failed")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def driver(python: Path, script: str, *arguments: str) -> Iterator[Driver]:
    """A driver that is ready; at the end its processes and files are gone. Only within ``processes.everything_ends``.

    What it left running is told on stderr.
    """
    # A session of its own: Ctrl-C reaches this process only, which ends all in order.
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [str(python), str(HERE / script), *arguments],
            env=_environment(python) | {"TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield Driver(process)
        finally:
            _end(process)
            if left := processes.end_descendants(patience=2):
                sys.stderr.write(f"left by {script}, and killed:\n" + "".join(f"  {line}\n" for line in left))


def _environment(python: Path) -> dict[str, str]:
    ours = {"PYTHONPATH", "VIRTUAL_ENV"} if python != OURS else set()
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("FLOW_AGENT_", "PREFECT_", "RQ_"))
    }


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    if sys.exc_info()[0] is not None:  # no time for the rest of an answer
        process.terminate()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(START)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
