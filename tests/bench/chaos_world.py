"""The machines of the chaos test: a database, a server, agents with homes of their own, and what is done to them."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from harness import COMMAND, wait_for

from servers.postgres import PostgresServer
from servers.proxy import FaultProxy

KINDS = {
    "kill an agent": 4,
    "freeze an agent": 5,
    "drain an agent": 1,
    "kill a keeper": 5,
    "kill a zygote": 3,
    "kill an attempt": 2,
    "kill the database": 1,
    "freeze the database": 1,
    "kill the server": 2,
    "freeze the server": 1,
    "cut connections": 3,
    "slow connections": 2,
    "hang connections": 1,
}
"""What is done, each once at first, and how often beside the others then."""
LEASES = {"CLAIMED": "6", "RUNNING": "12", "HEARTBEAT": "2"}
"""Seconds: short ones, so that a freeze may outlast them."""
GRACE = "2"
FROZEN = (0.5, 20.0)
"""Seconds for which something stands still: also longer than a lease."""
AGENT_FROZEN = (8.0, 30.0)
"""The same for an agent, which mostly is to lose what it has while that goes on: another one takes the run then."""


class Machine:
    """One agent with its home, or the server."""

    def __init__(self, folder: Path, name: str, queue: str, *words: str) -> None:
        self.name, self.home, self._words = name, folder / name, words
        self.home.mkdir()
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("FLOW_AGENT_")}
        self._env |= {"FLOW_AGENT_HOME": str(self.home), "FLOW_AGENT_QUEUE": queue}
        self._env |= {f"FLOW_AGENT_LEASE__{name}": value for name, value in LEASES.items()}
        self._env["FLOW_AGENT_STOP__GRACE"] = GRACE
        self.frozen = False
        self.start()

    def start(self) -> None:
        """Begin, or begin again."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, *self._words], env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def revived(self) -> str | None:
        """Begin again if it has ended without being told to; what is to be said of that. What else is done to it here
        ends and begins it in one."""
        code = self.process.poll()
        if code is None:
            return None
        self.frozen = False
        self.start()
        return f"{self.name} ended by itself with {code}"

    def kill(self) -> None:
        """As the kernel does when there is no memory left; then it begins again."""
        self.process.kill()
        self.process.wait()
        self.frozen = False
        self.start()

    def drain(self) -> None:
        """An end in order, and a new beginning."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:  # what it waits for is away
            self.process.kill()
            self.process.wait()
        self.start()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def zygotes(self) -> list[psutil.Process]:
        return _children(self.process.pid)

    def kept(self) -> list[tuple[int, int]]:
        """The process ids of each keeper that has a run, and of its attempt."""
        found = []
        for path in self.home.glob("spool/*/*/keeper.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                keeper = json.loads(path.read_text())
                found.append((keeper["pid"], keeper["child"]))
        return sorted(found)


class World:
    """All of it. Every method blocks; ``heal`` ends what was done and is not over."""

    def __init__(self, folder: Path, database: PostgresServer, chance: random.Random, limit: int) -> None:
        self.remember(chance)
        self._database = database
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.proxies = [FaultProxy(database.port), FaultProxy(port)]
        for proxy in self.proxies:
            proxy.__enter__()
        self.far = self.proxies[1].url
        """The server, where its connections are cut, slow or hang."""
        slow_database = database.url.replace(f":{database.port}/", f":{self.proxies[0].port}/")
        listen = f"127.0.0.1:{port}"
        self.server = Machine(folder, "server", database.url, "server", "--listen", listen, "--server-access", "open")
        words = ("start", "--limit", str(limit), "--env", f"SOAK_SIGNS={folder}/signs", "--name")
        self.agents = [
            Machine(folder, "direct", database.url, *words, "direct"),
            Machine(folder, "direct-far", slow_database, *words, "direct-far"),
            Machine(folder, "by-http", f"http://{listen}", *words, "by-http"),
            Machine(folder, "by-http-far", self.far, *words, "by-http-far"),
        ]

    def remember(self, chance: random.Random) -> None:
        """Nothing has been done yet."""
        self._chance = chance
        self.done = collections.Counter[str]()
        self.faults: list[str] = []
        self._healing: list[tuple[float, Callable[[], None]]] = []
        self._frozen_database = False
        self._pending = list(KINDS)
        chance.shuffle(self._pending)

    def strike(self) -> None:
        """Do one thing to somebody: each kind once, then any."""
        kind = self._pending.pop(0) if self._pending else self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        strikes: dict[str, Callable[[], bool]] = {
            "kill an agent": lambda: self._on_agent(Machine.kill),
            "freeze an agent": lambda: self._freeze(self._chance.choice(self.agents), AGENT_FROZEN),
            "drain an agent": lambda: self._on_agent(Machine.drain),
            "kill a keeper": lambda: self._kill(self._keepers()),
            "kill a zygote": lambda: self._kill([one.pid for agent in self.agents for one in agent.zygotes()]),
            "kill an attempt": lambda: self._kill([child for agent in self.agents for _, child in agent.kept()]),
            "kill the database": self._kill_database,
            "freeze the database": self._freeze_database,
            "kill the server": self._kill_server,
            "freeze the server": lambda: self._freeze(self.server),
            "cut connections": lambda: self._on_proxy("reset", value=True),
            "slow connections": lambda: self._on_proxy("latency", value=self._chance.uniform(0.02, 1.0)),
            "hang connections": lambda: self._on_proxy("hang", value="head"),
        }
        happened = strikes[kind]()
        self.done[kind] += happened
        if not happened and not self.done[kind] and kind not in self._pending:
            self._pending.append(kind)  # it could not be done just now

    def heal(self, *, all_of_it: bool = False) -> None:
        """End what has lasted long enough; begin again what has ended by itself."""
        now = time.monotonic()
        due = [each for each in self._healing if all_of_it or each[0] <= now]
        self._healing = [each for each in self._healing if each not in due]
        for _, heal in due:
            heal()
        for machine in (*self.agents, self.server):
            if fault := machine.revived():
                self.faults.append(fault)

    def stop(self) -> list[str]:
        """End all in order; what did not, and what had ended before."""
        self.heal(all_of_it=True)
        faults = self.faults
        for machine in (*self.agents, self.server):
            machine.process.terminate()
            try:
                code = machine.process.wait(120)
            except subprocess.TimeoutExpired:
                machine.process.kill()
                code = machine.process.wait()
            faults += [f"{machine.name} ended with {code}, expected 0"] if code else []
        for proxy in self.proxies:
            proxy.__exit__(None, None, None)
        kept = {"bell", "zygote.log"}
        for agent in self.agents:
            left = [path for path in agent.home.glob("spool/*/*") if path.name not in kept]
            faults += [f"left over: {path}" for path in [*left, *agent.home.glob("unwritten/*")]]
        return faults

    def _later(self, heal: Callable[[], None], frozen: tuple[float, float] = FROZEN) -> None:
        self._healing.append((time.monotonic() + self._chance.uniform(*frozen), heal))

    def _on_agent(self, do: Callable[[Machine], None]) -> bool:
        agent = self._chance.choice(self.agents)
        if agent.frozen or agent.process.poll() is not None:
            return False
        do(agent)
        return True

    def _freeze(self, machine: Machine, frozen: tuple[float, float] = FROZEN) -> bool:
        if machine.frozen or machine.process.poll() is not None:
            return False
        machine.freeze()
        process = machine.process
        self._later(lambda: machine.thaw() if machine.process is process else None, frozen)
        return True

    def _kill_server(self) -> bool:
        if self.server.process.poll() is not None:
            return False
        self.server.kill()
        return True

    def _kill_database(self) -> bool:
        if self._frozen_database:
            return False
        self._database.kill()
        time.sleep(self._chance.uniform(0, 5))
        self._database.start()
        return True

    def _freeze_database(self) -> bool:
        if self._frozen_database:
            return False
        self._frozen_database = True
        self._database.freeze()

        def thaw() -> None:
            self._database.thaw()
            self._frozen_database = False

        self._later(thaw)
        return True

    def _on_proxy(self, fault: str, value: object) -> bool:
        proxy = self._chance.choice(self.proxies)
        usual = {"reset": False, "latency": 0.0, "hang": ""}[fault]
        if getattr(proxy, fault) != usual:
            return False
        setattr(proxy, fault, value)
        self._healing.append((time.monotonic() + self._chance.uniform(0.5, 6), lambda: setattr(proxy, fault, usual)))
        return True

    def _keepers(self) -> list[int]:
        waiting = [one.pid for agent in self.agents for zygote in agent.zygotes() for one in _children(zygote.pid)]
        return sorted({*waiting, *(keeper for agent in self.agents for keeper, _ in agent.kept())})

    def _kill(self, candidates: list[int]) -> bool:
        with contextlib.suppress(ProcessLookupError):
            if candidates:
                os.kill(self._chance.choice(candidates), signal.SIGKILL)
                return True
        return False

    def begin(self) -> None:
        """Wait until the server listens."""

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(self.server._words[2].rpartition(":")[2]))) == 0

        wait_for(listens, 60)


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []
