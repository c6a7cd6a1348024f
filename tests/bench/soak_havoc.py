"""Kills and stops what runs the soak's flows, at random: daemons, keepers, zygotes, attempts."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from harness import COMMAND
from soak_judge import Hits

KINDS = {"daemon": 4, "keeper": 6, "zygote": 3, "attempt": 3, "stop": 3, "drain": 1}
"""What is done, and how often beside the others."""


class Agents:
    """One agent that is never killed, so that its growth can be seen, and one that often is."""

    def __init__(self, home: Path, chance: random.Random, limit: int) -> None:
        self.home, self._chance, self._limit = home, chance, limit
        self.hits, self.done = Hits(), collections.Counter[str]()
        self.steady, self.victim = self._start("steady"), self._start("victim")

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    COMMAND,
                    "start",
                    "--name",
                    name,
                    "--limit",
                    str(self._limit),
                    "--env",
                    f"SOAK_SIGNS={self.home}/signs",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def strike(self) -> None:
        """Do one thing to somebody."""
        kind = self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        strikes: dict[str, Callable[[], bool]] = {
            "daemon": self._kill_daemon,
            "keeper": self._kill_keeper,
            "zygote": self._kill_zygote,
            "attempt": self._kill_attempt,
            "stop": self._stop_daemon,
            "drain": self._drain,
        }
        self.done[kind] += strikes[kind]()

    def stop(self) -> list[int]:
        """End both in order; their exit codes."""
        for agent in (self.steady, self.victim):
            agent.terminate()
        return [agent.wait(120) for agent in (self.steady, self.victim)]

    def _kill_daemon(self) -> bool:
        self.victim.kill()
        self.victim.wait()
        self.victim = self._start("victim")
        return True

    def _drain(self) -> bool:
        self.victim.terminate()
        self.victim.wait(120)
        self.victim = self._start("victim")
        return True

    def _stop_daemon(self) -> bool:
        agent = self._chance.choice([self.steady, self.victim])
        agent.send_signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.5, 3))
        agent.send_signal(signal.SIGCONT)
        return True

    def _kill_zygote(self) -> bool:
        return self._kill([process.pid for process in self._zygotes()])

    def _kill_keeper(self) -> bool:
        """Any keeper, one that waits too; the runs that it may have kept are noted before and after."""
        waiting = [keeper.pid for zygote in self._zygotes() for keeper in _children(zygote.pid)]
        kept = self._kept()
        victims = sorted({*waiting, *(keeper for keeper, _ in kept.values())})
        if not victims:
            return False
        victim = self._chance.choice(victims)
        try:
            os.kill(victim, signal.SIGSTOP)  # it takes nothing more from here on
        except ProcessLookupError:  # its run has ended just now
            return False
        self._note(self.hits.keepers, 0, victim)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        self._note(self.hits.keepers, 0, victim)
        return True

    def _kill_attempt(self) -> bool:
        attempts = sorted({attempt for _, attempt in self._kept().values()})
        if not attempts:
            return False
        victim = self._chance.choice(attempts)
        self._note(self.hits.attempts, 1, victim)
        return self._kill([victim])

    def _note(self, runs: set[str], which: int, victim: int) -> None:
        runs.update(run for run, pids in self._kept().items() if pids[which] == victim)

    def _kill(self, candidates: list[int]) -> bool:
        with contextlib.suppress(ProcessLookupError):
            if candidates:
                os.kill(self._chance.choice(candidates), signal.SIGKILL)
                return True
        return False

    def _zygotes(self) -> list[psutil.Process]:
        return [child for agent in (self.steady, self.victim) for child in _children(agent.pid)]

    def _kept(self) -> dict[str, tuple[int, int]]:
        """The runs that have a folder now, with the process ids of keeper and attempt."""
        found = {}
        for path in self.home.glob("spool/*/*/keeper.json"):
            with contextlib.suppress(OSError, ValueError):
                keeper = json.loads(path.read_text())
                found[path.parent.name.rpartition("-")[0]] = (keeper["pid"], keeper["child"])
        return found


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []
