"""The agent as a service: what it tells its service manager, and what it is as the first process of a container."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from command import COMMAND, Cli, unless_all_is_required

FLOWS = """
import os, subprocess, sys, time
from flow_agent import flow

@flow(name="environment")
def environment():
    return sorted(name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG")))

@flow(name="naps")
def naps(seconds: float):
    print("napping", flush=True)
    time.sleep(seconds)
    return seconds

@flow(name="orphans")
def orphans():
    for _ in range(5):
        subprocess.run([sys.executable, "-c", "import os; os.fork() or os.setsid() or os._exit(0)"], check=True)
"""


class Manager:
    """A socket as systemd has one, and what was said to it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(0.05)
        self.address = address
        self.said: list[str] = []

    def hear(self, seconds: float = 0.0) -> list[str]:
        """All that was said by now, and within so many seconds."""
        until = time.monotonic() + seconds
        while True:
            try:
                self.said.append(self.socket.recv(4096).decode())
            except TimeoutError:
                if time.monotonic() >= until:
                    return self.said

    def heard(self, beginning: str) -> bool:
        return any(each.startswith(beginning) for each in self.hear())


@pytest.fixture(params=["a file", "a name"])
def manager(request: pytest.FixtureRequest, cli: Cli) -> Iterator[Manager]:
    found = Manager(str(cli.folder / "notify") if request.param == "a file" else f"@flow-agent-test-{os.getpid()}")
    cli.env["NOTIFY_SOCKET"] = found.address
    cli("register", str(cli.write("flows.py", FLOWS)))
    yield found
    found.socket.close()


def test_a_service_manager_hears_when_it_works_how_it_is_and_that_it_stops(manager: Manager, cli: Cli) -> None:
    agent = cli.start("--limit", "3")
    cli.until(lambda: manager.heard("READY=1"))
    assert cli.json("agents")[0]["name"]
    cli.until(lambda: manager.heard("STATUS=0 of 3 runs"))
    (run,) = cli.submit("naps", "-p", "seconds=3")
    cli.until(lambda: manager.heard("STATUS=1 of 3 runs"))
    assert not manager.heard("STOPPING=1")
    agent.terminate()
    cli.until(lambda: manager.heard("STOPPING=1"))
    cli.until(lambda: manager.heard("STATUS=1 of 3 runs; it drains"))
    assert agent.wait(30) == 0
    assert cli.state(run) == "succeeded"
    assert not manager.heard("WATCHDOG=1")
    assert manager.said.count("READY=1") == 1


def test_nothing_that_it_starts_can_speak_in_its_place(manager: Manager, cli: Cli) -> None:
    cli.env["WATCHDOG_USEC"] = "5000000"
    cli.start()
    (run,) = cli.submit("environment", "--wait")[:1]
    assert cli.json("result", run) == []
    for process in cli.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            if "flow-agent" not in " ".join(process.cmdline()):
                assert not [name for name in process.environ() if name.startswith(("NOTIFY", "WATCHDOG"))]


def test_the_watchdog_hears_of_a_loop_that_turns_and_of_a_queue_that_is_away_but_of_none_that_hangs(
    manager: Manager, cli: Cli
) -> None:
    cli.env["WATCHDOG_USEC"] = "1000000"
    agent = cli.start("--poll", "0.5")
    cli.until(lambda: manager.said.count("WATCHDOG=1") + len(manager.hear()) and manager.said.count("WATCHDOG=1") > 2)
    queue, away = cli.home / "queue.db", cli.folder / "away.db"
    queue.rename(away)
    cli.until(lambda: manager.heard("STATUS=0 of") and any("moved away" in each for each in manager.hear()))
    before = manager.hear().count("WATCHDOG=1")
    cli.until(lambda: manager.hear().count("WATCHDOG=1") > before + 2)
    away.rename(queue)
    agent.send_signal(signal.SIGSTOP)
    manager.hear(0.5)  # what was under way
    before = len(manager.said)
    assert len(manager.hear(2)) == before
    agent.send_signal(signal.SIGCONT)
    cli.until(lambda: len(manager.hear()) > before)


def test_a_watchdog_of_another_process_and_a_manager_that_is_gone_are_none(manager: Manager, cli: Cli) -> None:
    cli.env |= {"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}
    agent = cli.start()
    cli.until(lambda: manager.heard("READY=1"))
    assert "WATCHDOG=1" not in manager.hear(2)
    manager.socket.close()
    with contextlib.suppress(FileNotFoundError):
        Path(manager.address).unlink()
    (run,) = cli.submit("naps", "-p", "seconds=0.1")
    cli.until(lambda: cli.state(run) == "succeeded")
    agent.terminate()
    assert agent.wait(30) == 0


def test_an_agent_that_was_killed_by_its_watchdog_is_followed_by_one_that_goes_on(manager: Manager, cli: Cli) -> None:
    cli.env["WATCHDOG_USEC"] = "1000000"
    agent = cli.start()
    (run,) = cli.submit("naps", "-p", "seconds=4")
    cli.until(lambda: "napping" in cli("logs", run))
    agent.send_signal(signal.SIGSTOP)
    agent.send_signal(signal.SIGABRT)  # what systemd does first
    agent.kill()
    agent.wait()
    cli.start("--until-empty").wait(60)
    assert [attempt["reason"] for attempt in cli.show(run)["attempts"]] == ["completed"]


# As process 1


@pytest.fixture
def container(cli: Cli) -> list[str]:
    """A command that runs the rest as process 1 of its own space of processes."""
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if not unshare or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        unless_all_is_required("only root with unshare may start a process 1")
    cli("register", str(cli.write("flows.py", FLOWS)))
    return command


def inside(started: subprocess.Popen[bytes]) -> psutil.Process:
    """The process 1 that ``unshare`` has started, as it is known out here."""
    return psutil.Process(started.pid).children()[0]


def test_as_process_1_it_collects_what_attempts_leave_and_passes_signals_on(cli: Cli, container: list[str]) -> None:
    with (cli.folder / "agent.log").open("wb") as log:
        started = subprocess.Popen([*container, COMMAND, "start"], env=cli.env, stdout=log, stderr=log)
    cli.agents.append(started)
    runs = [cli.submit("orphans")[0] for _ in range(3)]
    cli.until(lambda: {cli.state(run) for run in runs} == {"succeeded"})
    first = inside(started)
    assert len(first.children()) >= 1

    def zombies() -> list[psutil.Process]:
        return [child for child in first.children(recursive=True) if status(child) == psutil.STATUS_ZOMBIE]

    def status(child: psutil.Process) -> str:
        with contextlib.suppress(psutil.NoSuchProcess):
            return child.status()
        return psutil.STATUS_DEAD

    cli.until(lambda: not zombies())
    for child in first.children()[0].children(recursive=True):  # zygotes and keepers, whose children come to process 1
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    cli.until(lambda: not zombies())
    assert cli.until(lambda: cli.state(cli.submit("orphans")[0]))
    (last,) = cli.submit("naps", "-p", "seconds=1")
    cli.until(lambda: "napping" in cli("logs", last))
    first.send_signal(signal.SIGTERM)
    assert started.wait(30) == 0
    assert cli.state(last) == "succeeded"
    assert any(json.loads(line)["event"] == "agent.stopped" for line in cli.log().splitlines())


def test_as_process_1_it_ends_with_the_code_of_the_agent(cli: Cli, container: list[str]) -> None:
    done = subprocess.run(
        [*container, COMMAND, "start", "--queue", f"sqlite:{cli.folder}"],
        env=cli.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is a folder: expected a file" in done.stderr
    started = subprocess.Popen([*container, COMMAND, "start"], env=cli.env, stderr=subprocess.DEVNULL)
    cli.agents.append(started)
    cli.until(lambda: cli.json("agents"))
    inside(started).children()[0].kill()
    assert started.wait(30) == 128 + signal.SIGKILL
    cli.until(lambda: not cli.processes())
