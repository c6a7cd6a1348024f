"""The installed command, in a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import flow_agent

COMMAND = str(Path(sys.executable).with_name("flow-agent"))
# Read now: tests take the variables of who runs them away.
ALL_IS_REQUIRED = os.environ.get("FLOW_AGENT_TEST_REQUIRE_ALL") == "1"


def unless_all_is_required(reason: str) -> None:
    """Leave the test out because of ``reason``; where every test is required, fail."""
    if ALL_IS_REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def as_nobody() -> list[str]:
    """What goes before a command, for root: in mounts of its own, what hides Python and the package is uncovered.

    The last word is a folder to delete when all such commands have ended.
    """
    tools = [shutil.which("unshare"), shutil.which("setpriv")]
    if None in tools:
        unless_all_is_required("there is no unshare or setpriv to become another user with")
    package = Path(flow_agent.__file__).parent.parent
    bases = sorted({path.resolve() for path in (Path(sys.base_prefix), Path(sys.prefix), package)})
    closed = {base: _closed(base) for base in bases}
    hidden = [(number, base) for number, base in enumerate(bases) if closed[base] is not None]
    script = "set -e\n"
    for number, base in hidden:
        script += f"mkdir -p $1/{number}; mount --bind '{base}' $1/{number}\n"
    for folder in sorted({str(folder) for folder in closed.values() if folder is not None}):
        script += f"mount -t tmpfs -o mode=755 none '{folder}'\n"
    for number, base in hidden:
        script += f"mkdir -p '{base}'; mount --bind $1/{number} '{base}'\n"
    script += 'umask 022; shift; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
    places = tempfile.mkdtemp(prefix="uncovered-")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", places]


def _closed(base: Path) -> Path | None:
    """The outermost folder on the way to ``base`` that others may not enter; itself is taken to be open."""
    return next((folder for folder in reversed(base.parents) if not folder.stat().st_mode & 0o001), None)


class Cli:
    """Runs ``flow-agent`` in a home; whatever it started is gone when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        keep = {key: value for key, value in os.environ.items() if not key.startswith("FLOW_AGENT_")}
        self.env = keep | {"FLOW_AGENT_HOME": str(self.home), "PYTHONWARNINGS": "error"}
        self.agents: list[subprocess.Popen[bytes]] = []
        self.command = COMMAND
        self.prefix: list[str] = []
        """What stands before the command: how to be another user."""

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", timeout: float = 60) -> str:
        """Standard output of the command; it must end with ``code`` and without a traceback."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.prefix, self.command, *arguments],
            env=self.env,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback (most recent call last)" not in done.stderr, done.stderr
        return done

    def error(self, *arguments: str, code: int) -> str:
        """Standard error of a command that must fail so: one message, perhaps a hint, no traceback."""
        done = self.run(*arguments)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.stdout == ""
        assert done.stderr.startswith("flow-agent: ")
        return done.stderr

    def json(self, *arguments: str, **kwargs: Any) -> Any:
        return json.loads(self(*arguments, "--json", **kwargs))

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def submit(self, flow: str, *arguments: str) -> list[str]:
        return self("submit", flow, *arguments).split()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """An agent in the background; its log goes to ``agent.log``."""
        with (self.folder / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                [self.command, "start", *arguments],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.agents.append(agent)
        return agent

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        """What ``condition`` gives once it is true."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"still not true after {seconds} s; agent.log:\n{self.log()[-3000:]}"
            time.sleep(0.02)
        return found

    def log(self) -> str:
        path = self.folder / "agent.log"
        return path.read_text() if path.exists() else ""

    def show(self, run: str) -> Any:
        return self.json("show", run)

    def state(self, run: str) -> str:
        state: str = self.show(run)["state"]
        return state

    def processes(self) -> list[psutil.Process]:
        """Every live process that belongs to this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and (
                    str(self.home) in process.cwd() or process.environ().get("FLOW_AGENT_HOME") == str(self.home)
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.send_signal(signal.SIGKILL)
            agent.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
