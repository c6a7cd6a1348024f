"""The server as people run it: an agent and the command line of another home know its address and a token, no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from command import Cli
from servers.secret_services import certificate

FLOW = """
import os, time
from flow_agent import flow

@flow(name="count")
def count(n: int = 3, pause: float = 0.0):
    assert "FLOW_AGENT_QUEUE_TOKEN" not in os.environ
    for number in range(n):
        print("line", number, flush=True)
        time.sleep(pause)
    return n
"""


class Served(Cli):
    """A home without a queue, and beside it a server with one."""

    def __init__(self, folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(folder / "client")
        self.folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.there = Cli(folder)
        self.there.env |= settings
        self.env |= settings
        self.server: subprocess.Popen[bytes] | None = None
        scopes = [word for scope in ("submit", "register", "read") for word in ("--scope", scope)]
        self.token = self.there("tokens", "create", "team", *scopes).strip()
        self.agents_token = self.there("tokens", "create", "agents", "--scope", "agent").strip()
        self.env |= {"FLOW_AGENT_QUEUE": f"http://127.0.0.1:{self.port}", "FLOW_AGENT_QUEUE_TOKEN": self.token}
        self.serve()

    def serve(self) -> None:
        with (self.there.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [self.command, "server", "--listen", f"127.0.0.1:{self.port}", "--log-format", "json"],
                env=self.there.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def agent(self, *arguments: str) -> subprocess.Popen[bytes]:
        file = self.write("token", self.agents_token)
        env = dict(self.env)
        del self.env["FLOW_AGENT_QUEUE_TOKEN"]
        try:
            return self.start("--queue-token-file", str(file), "--log-format", "json", *arguments)
        finally:
            self.env = env

    def stop_server(self, number: int) -> int:
        assert self.server is not None
        self.server.send_signal(number)
        return self.server.wait(20)

    def close(self) -> None:
        self.stop_server(signal.SIGKILL)
        super().close()
        self.there.close()


@pytest.fixture
def served(tmp_path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.close()


def test_an_agent_and_the_command_line_need_nothing_but_the_address_and_a_token(served):
    served.write("flows.py", FLOW)
    served("register", "flows.py")
    agent = served.agent()
    served("submit", "count", "-p", "n=2", "--wait")
    (run,) = served.json("runs")
    assert (run["state"], run["result"]) == ("succeeded", run["result"])
    assert [line for line in served("logs", run["id"]).splitlines() if line.startswith("line")] == ["line 0", "line 1"]
    assert served("result", run["id"]).strip() == "2"
    assert "succeeded" in served("why", run["id"])
    (listed,) = served.json("agents")
    assert (listed["alive"], listed["pid"]) == (True, agent.pid)
    (slow,) = served.submit("count", "-p", "n=100", "-p", "pause=1")
    served.until(lambda: served.state(slow) == "running")
    served("cancel", slow, "--wait")
    assert served.state(slow) == "cancelled"
    agent.terminate()
    assert agent.wait(20) == 0
    assert served.json("agents") == []
    assert not (served.home / "queue.db").exists()

    for token in (served.token, served.agents_token):
        assert token not in served.log()
        assert token not in (served.there.folder / "server.log").read_text()
        assert token not in " ".join(Path(f"/proc/{os.getpid()}/cmdline").read_text().split("\0"))
    assert served.stop_server(signal.SIGTERM) == 0


def test_by_tls_an_agent_goes_on_while_its_token_is_replaced_and_the_old_one_revoked(tmp_path):
    shown, kept = certificate(tmp_path, "localhost")
    with contextlib.closing(
        Served(tmp_path, {"FLOW_AGENT_SERVER__CERTIFICATE": str(shown), "FLOW_AGENT_SERVER__KEY": str(kept)})
    ) as served:
        served.env["FLOW_AGENT_QUEUE"] = f"https://localhost:{served.port}"
        assert "FLOW_AGENT_QUEUE_CA" in served.error("flows", code=1)
        served.env["FLOW_AGENT_QUEUE_CA"] = str(shown)
        served.write("flows.py", FLOW)
        served("register", "flows.py")
        agent = served.agent("--limit", "6", "--lease-heartbeat", "1")
        runs = served.submit("count", "-p", "n=60", "-p", "pause=0.1", "--count", "6")
        served.until(lambda: all(run["state"] == "running" for run in served.json("runs")))
        for _ in range(3):
            (old,) = [each["id"] for each in served.there.json("tokens", "list") if each["name"] == "agents"]
            served.write("token", served.there("tokens", "create", "agents", "--scope", "agent"))
            served.there("tokens", "revoke", old)
        served.until(lambda: all(served.state(run) == "succeeded" for run in runs), 60)
        for run in runs:
            lines = [line for line in served("logs", run).splitlines() if line.startswith("line")]
            assert lines == [f"line {number}" for number in range(60)]
            assert served.show(run)["attempt"] == 1
        assert agent.poll() is None


def test_what_a_token_may_not_do_is_told_with_the_way_out(served):
    served.env["FLOW_AGENT_QUEUE_TOKEN"] = served.agents_token
    error = served.error("runs", code=1)
    assert "scope" in error
    assert "hint: " in error
    served.env["FLOW_AGENT_QUEUE_TOKEN"] = "fa_wrong"
    error = served.error("flows", code=1)
    assert "fa_wrong" not in error
    assert "flow-agent tokens create" in error


def test_a_server_that_is_killed_in_the_middle_costs_nothing_but_time(served):
    served.write("flows.py", FLOW)
    served("register", "flows.py")
    served.agent("--limit", "4")
    runs = served.submit("count", "-p", "n=30", "-p", "pause=0.1", "--count", "6")
    served.until(lambda: any(run["state"] == "running" for run in served.json("runs")))
    for _ in range(2):
        served.stop_server(signal.SIGKILL)
        served.until(lambda: "queue.unavailable" in served.log())
        served.serve()
    served.until(lambda: all(run["state"] == "succeeded" for run in served.json("runs")), seconds=60)
    for run in runs:
        found = [line for line in served("logs", run).splitlines() if line.startswith("line")]
        assert found == [f"line {n}" for n in range(30)]
        assert served.show(run)["attempt"] == 1
    assert "queue.back" in served.log()


def test_agents_wait_for_a_server_that_is_too_old_for_its_queue(served):
    """Upgrading them would change nothing, and when it has been upgraded all goes on."""
    served.write("flows.py", FLOW)
    served("register", "flows.py")
    agent = served.agent("--poll", "0.2")
    served.until(lambda: served.json("agents"))
    with contextlib.closing(sqlite3.connect(served.there.home / "queue.db")) as queue:
        (known,) = queue.execute("pragma user_version").fetchone()
        queue.execute("pragma user_version = 999")
        queue.execute("insert into migrations values (999, '0999_new.sql', 'x', 'breaking', '99.0', 0)")
        queue.commit()
        served.until(lambda: "queue.unavailable" in served.log())
        assert "the server is flow-agent" in served.log()
        assert "upgrade the server" in served.error("submit", "count", code=1)
        assert agent.poll() is None
        queue.execute("delete from migrations where number = 999")
        queue.execute(f"pragma user_version = {known}")
        queue.commit()
    served.stop_server(signal.SIGTERM)
    served.serve()
    served("submit", "count", "-p", "n=1", "--wait")
    assert agent.poll() is None


def test_tokens_are_made_listed_and_revoked(cli):
    made = cli.json("tokens", "create", "build", "--scope", "agent", "--scope", "read", "--days", "2")
    assert made["token"].startswith(f"fa_{made['id']}_")
    (listed,) = cli.json("tokens", "list")
    assert (listed["name"], listed["scopes"], listed["expired"]) == ("build", ["agent", "read"], False)
    assert "token" not in listed
    assert "is no name" in cli.error("tokens", "create", "Büld", "--scope", "agent", code=2)
    assert "hint: the scopes are" in cli.error("tokens", "create", "x", "--scope", "everything", code=2)
    cli("tokens", "revoke", listed["id"])
    assert cli.json("tokens", "list") == []
    assert "tokens list" in cli.error("tokens", "revoke", listed["id"], code=1)


def test_what_cannot_be_served_is_told_before_anything_listens(cli):
    assert "expected HOST:PORT" in cli.error("server", "--listen", "here", "--server-access", "open", code=2)
    open_to_all = ("server", "--listen", "0.0.0.0:0", "--server-access", "open")
    assert "may run code" in cli.error(*open_to_all, code=2)
    assert "behind a server already" in cli.error("server", "--queue", "http://127.0.0.1:1", code=2)
    missing = cli.run("server", "--listen", "127.0.0.1:0", "--server-certificate", "nothing.pem")
    assert missing.returncode == 1
    assert "server.certificate nothing.pem cannot be read: No such file" in missing.stderr
    assert "holds a login" in cli.error("flows", "--queue", "http://user:pw@127.0.0.1:1", code=2)


@pytest.fixture
def short_leases(monkeypatch):
    for name, seconds in {
        "LEASE__RUNNING": "5",
        "LEASE__CLAIMED": "3",
        "LEASE__HEARTBEAT": "1",
        "STOP__GRACE": "1",
    }.items():
        monkeypatch.setenv(f"FLOW_AGENT_{name}", seconds)
    return {name: value for name, value in os.environ.items() if name.startswith("FLOW_AGENT_")}


def test_the_server_s_clock_ends_the_lease_of_an_agent_that_is_gone(tmp_path, short_leases):
    with contextlib.closing(Served(tmp_path, short_leases)) as served:
        served.write("flows.py", FLOW)
        served("register", "flows.py")
        agent = served.agent("--name", "one")
        (lost,) = served.submit("count", "-p", "n=1", "-p", "pause=600")
        served.until(lambda: served.state(lost) == "running")
        agent.kill()
        agent.wait()
        served.agent("--name", "two")
        (after,) = served.submit("count")
        served.until(lambda: served.state(after) == "succeeded")
        served.until(lambda: served.show(lost)["reason"] == "agent_lost")


def test_an_agent_with_longer_leases_than_the_servers_is_told_what_to_set(tmp_path, short_leases):
    with contextlib.closing(Served(tmp_path, short_leases)) as served:
        for name in short_leases:
            del served.env[name]
        agent = served.agent()
        assert agent.wait(20) == 2
        assert "set lease.claimed to at most 3 and lease.running to at most 5" in served.log()
