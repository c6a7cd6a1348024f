"""What an agent answers to probes, asked over real sockets."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import math
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from command import Cli, unless_all_is_required

FLOWS = """
import os, time
from flow_agent import current_run, flow

@flow(name="good", secrets=["TOKEN"])
def good(n: str = ""):
    print(current_run().secret("TOKEN"))

@flow(name="bad")
def bad():
    raise ValueError("on purpose")

@flow(name="gated")
def gated(gate: str):
    while not os.path.exists(gate):
        time.sleep(0.02)
"""
SECRET = "correct-horse-battery-staple"


class Probed:
    """An agent, and how to ask it."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli

    def start(self, *arguments: str, address: str = "127.0.0.1:0") -> subprocess.Popen[bytes]:
        before = len(self.listening())
        agent = self.cli.start("--probes", address, *arguments)
        self.cli.until(lambda: len(self.listening()) > before)
        host, _, port = self.listening()[-1].rpartition(":")
        self.host, self.port = host.strip("[]") or "127.0.0.1", int(port)
        return agent

    def listening(self) -> list[str]:
        """The addresses that the log tells."""
        lines = [json.loads(line) for line in self.cli.log().splitlines() if line.startswith("{")]
        return [line["address"] for line in lines if line["event"] == "probes.listen"]

    def ask(self, path: str, method: str = "GET", **options: Any) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, **options)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def ready(self) -> tuple[int, Any]:
        status, body = self.ask("/readyz")
        return status, json.loads(body)

    def say(self, data: bytes) -> bytes:
        """What comes back for these bytes, until the other side ends it."""
        with socket.create_connection((self.host, self.port), timeout=20) as end:
            with contextlib.suppress(ConnectionError):
                end.sendall(data)
            return b"".join(iter(lambda: receive(end), b""))

    def metrics(self) -> dict[tuple[str, str], float]:
        """By the name and the value of its label."""
        status, text = self.ask("/metrics")
        assert status == 200
        families = list(text_string_to_metric_families(text))
        assert all(family.documentation for family in families)
        return {
            (sample.name, ",".join(value for name, value in sample.labels.items() if name != "le")): sample.value
            for family in families
            for sample in family.samples
        }


def receive(end: socket.socket) -> bytes:
    try:
        return end.recv(65536)
    except ConnectionError:
        return b""


@pytest.fixture
def probed(cli: Cli) -> Probed:
    cli("register", str(cli.write("flows.py", FLOWS)))
    return Probed(cli)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """An agent that several tests ask."""
    cli = Cli(tmp_path_factory.mktemp("one"))
    one = Probed(cli)
    one.start()
    cli.until(lambda: one.ready() == READY)
    yield one
    cli.close()


NOT_READY = 503
READY = (200, {"ready": True, "since": None, "why": None})
ALIVE = (200, '{"alive": true, "why": null}\n')


def test_a_working_agent_is_ready_and_alive_until_it_drains(probed: Probed) -> None:
    agent = probed.start()
    probed.cli.until(lambda: probed.ready() == READY)
    assert probed.ask("/livez") == ALIVE
    gate = probed.cli.folder / "gate"
    (run,) = probed.cli.submit("gated", "-p", f"gate={gate}")
    probed.cli.until(lambda: probed.cli.state(run) == "running")
    before = datetime.now(UTC)
    agent.send_signal(signal.SIGTERM)
    status, told = probed.cli.until(lambda: probed.ready() if probed.ready() != READY else None)
    assert (status, told["ready"], told["why"]) == (NOT_READY, False, "it drains: it claims nothing more")
    assert before <= datetime.fromisoformat(told["since"]) <= datetime.now(UTC)
    assert probed.ask("/livez") == ALIVE
    assert probed.metrics()["flow_agent_draining", ""] == 1
    gate.touch()
    assert agent.wait(20) == 0
    with pytest.raises(ConnectionError):
        probed.ask("/livez")


def test_an_agent_that_starts_with_its_queue_away_says_so_until_it_works(probed: Probed) -> None:
    cli, queue = probed.cli, probed.cli.home / "queue.db"
    with contextlib.closing(sqlite3.connect(queue, isolation_level=None)) as other:
        other.execute("begin exclusive")
        probed.start("--poll", "0.5")
        status, told = probed.ready()
        assert (status, told["ready"]) == (NOT_READY, False)
        assert datetime.fromisoformat(told["since"]) <= datetime.now(UTC)
        assert told["why"]
        assert probed.ask("/livez") == ALIVE
        other.execute("rollback")
    cli.until(lambda: probed.ready() == READY)


def test_a_locked_queue_is_told_with_since_and_why_and_is_no_reason_to_restart(probed: Probed) -> None:
    cli = probed.cli
    probed.start("--lease-heartbeat", "1")
    cli.until(lambda: probed.ready() == READY)
    before = datetime.now(UTC) - timedelta(seconds=1)  # a call that is on its way meets the lock too
    with Path(f"{cli.home}/queue.db.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, told = cli.until(lambda: probed.ready() if probed.ready() != READY else None)
        assert (status, told["ready"]) == (NOT_READY, False)
        assert before <= datetime.fromisoformat(told["since"]) <= datetime.now(UTC)
        assert "lock" in told["why"]
        assert probed.ask("/livez") == ALIVE
        assert probed.metrics()["flow_agent_queue_up", ""] == 0
        assert probed.metrics()["flow_agent_queue_silence_seconds", ""] > 1
        since = told["since"]
        assert probed.ready()[1]["since"] == since
    cli.until(lambda: probed.ready() == READY)
    assert probed.metrics()["flow_agent_queue_up", ""] == 1


def test_figures_count_ends_by_reason_and_tell_no_secret(probed: Probed) -> None:
    cli = probed.cli
    cli.env["TOKEN"] = SECRET
    probed.start("--limit", "3")
    runs = cli.submit("good", "-p", f"n={SECRET}", "--count", "3") + cli.submit("bad", "--count", "2")
    (going,) = cli.submit("gated", "-p", f"gate={cli.folder}/gate")
    cli.until(lambda: all(cli.state(run) in {"succeeded", "failed"} for run in runs))
    cli.until(lambda: cli.state(going) == "running")
    figures = probed.metrics()
    ends = {labels: value for (name, labels), value in figures.items() if name == "flow_agent_attempts_total"}
    assert ends == {"completed": 3, "raised": 2}
    assert figures["flow_agent_running", ""] == 1
    assert figures["flow_agent_slots", ""] == 3
    assert figures["flow_agent_queue_up", ""] == 1
    for phase in ("queued", "fetch", "launch", "run"):
        assert figures["flow_agent_phase_seconds_count", phase] == 5
    assert figures["flow_agent_queue_call_seconds_count", "claim"] >= 1
    told = "".join(probed.ask(path)[1] for path in ("/livez", "/readyz", "/metrics", f"/{SECRET}", f"/?{SECRET}"))
    assert SECRET not in told
    assert "good" not in told, "a flow's name"


def test_runs_that_wait_are_told_by_what_they_ask_for_and_for_what_scales_agents(probed: Probed) -> None:
    cli = probed.cli
    cli.submit("good", "-l", "gpu", "-l", "eu", "--count", "3")
    (going,) = cli.submit("gated", "-p", f"gate={cli.folder}/gate")
    probed.start("--limit", "1")
    cli.until(lambda: cli.state(going) == "running")
    cli.submit("gated", "-p", f"gate={cli.folder}/gate", "--count", "2")
    cli.until(lambda: json.loads(probed.ask("/waiting")[1])["waiting"] == 2)  # those of before are told for a while
    status, body = probed.ask("/waiting")
    told = json.loads(body)
    assert (status, told["waiting"], told["exact"]) == (200, 2, True)
    assert 0 <= told["oldest_wait_seconds"] < 60
    assert [(each["launcher"], each["waiting"]) for each in told["sets"]] == [(None, 2)]
    figures = probed.metrics()
    host = socket.gethostname()
    waiting = {labels: value for (name, labels), value in figures.items() if name == "flow_agent_waiting_runs"}
    assert waiting == {",".join(sorted(["eu", "gpu", host])) + ",": 3, f"{host},": 2}
    assert figures["flow_agent_takeable_runs", ""] == 2
    oldest = {labels: value for (name, labels), value in figures.items() if name == "flow_agent_oldest_wait_seconds"}
    assert oldest.keys() == waiting.keys()
    assert all(0 <= seconds < 60 for seconds in oldest.values())


def test_while_the_queue_is_away_nothing_is_told_of_what_waits(probed: Probed) -> None:
    cli = probed.cli
    cli.submit("good", "-l", "gpu")
    probed.start("--lease-heartbeat", "1")
    cli.until(lambda: probed.ready() == READY)
    (cli.home / "queue.db").rename(cli.home / "elsewhere.db")
    status, body = cli.until(lambda: found if (found := probed.ask("/waiting"))[0] != 200 else None)
    assert status == NOT_READY
    assert "was moved away" in json.loads(body)["error"]
    figures = probed.metrics()
    assert not [name for name, _ in figures if name in {"flow_agent_waiting_runs", "flow_agent_oldest_wait_seconds"}]
    assert math.isnan(figures["flow_agent_takeable_runs", ""])


def test_fetches_are_counted_by_where_from(probed: Probed) -> None:
    cli = probed.cli
    probed.start()
    run, *_ = cli.submit("bad")
    cli.until(lambda: cli.state(run) == "failed")
    figures = probed.metrics()
    assert figures["flow_agent_fetches_total", "disk"] == 1
    assert figures["flow_agent_cache_limit_bytes", ""] == 10_000_000_000
    assert math.isnan(figures["flow_agent_cache_bytes", ""])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/nowhere"])
def test_head_is_answered_as_get_without_the_body(one: Probed, path: str) -> None:
    answers = [one.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) for method in ("GET", "HEAD")]
    (whole, body), (head, nothing) = (answer.split(b"\r\n\r\n", 1) for answer in answers)
    assert nothing == b""
    assert f"Content-Length: {len(body)}".encode().lower() in whole.lower()
    if path != "/metrics":  # whose figures go on
        assert head == whole


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /livez/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET http://x/livez HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (
            b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
            200,
        ),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", 400),
        (b"garbage\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 100_000, 431),
    ],
)
def test_whatever_is_said_gets_one_answer_and_does_no_harm(one: Probed, data: bytes, status: int) -> None:
    answer = one.say(data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer.lower()
    assert one.ask("/livez") == ALIVE
    assert "Traceback" not in one.cli.log()


def test_those_who_say_nothing_more_are_hung_up_on(probed: Probed) -> None:
    agent = probed.start()
    probed.cli.until(lambda: probed.ready() == READY)
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(socket.create_connection((probed.host, probed.port), 20)) for _ in range(10)]
        for end in ends[:5]:
            end.sendall(b"GET /livez HTTP/1.1\r\nHo")
        assert probed.ask("/livez") == ALIVE
        assert [receive(end) for end in ends] == [b""] * 10
    for _ in range(50):
        socket.create_connection((probed.host, probed.port), 20).close()
    assert probed.ask("/livez") == ALIVE
    probed.cli.until(lambda: [each.status for each in tcp(agent)] == [psutil.CONN_LISTEN])


def tcp(agent: subprocess.Popen[bytes]) -> list[Any]:
    """The TCP sockets of an agent."""
    return psutil.Process(agent.pid).net_connections(kind="tcp")


def test_fifty_at_once_are_all_answered(probed: Probed) -> None:
    probed.start()
    probed.cli.until(lambda: probed.ready() == READY)
    with ThreadPoolExecutor(50) as threads:
        answers = list(
            threads.map(lambda number: probed.ask(["/livez", "/readyz", "/metrics"][number % 3]), range(150))
        )
    assert {status for status, _ in answers} == {200}


def test_those_who_say_nothing_do_not_keep_others_out(probed: Probed) -> None:
    agent = probed.start()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection((probed.host, probed.port), 20))
        assert probed.ask("/livez") == ALIVE
        assert len(tcp(agent)) < 100


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as end:
            end.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "shown"), [("[::1]:0", "[::1]:"), ("localhost:0", "localhost:"), ("0.0.0.0:0", "0.0.0.0:"), (":0", ":")]
)
def test_the_log_tells_the_real_address(probed: Probed, address: str, shown: str) -> None:
    if "::" in address and not has_ipv6():
        unless_all_is_required("this machine has no IPv6")
    probed.start(address=address)
    (told,) = probed.listening()
    assert told.startswith(shown)
    assert probed.port > 0
    assert probed.ask("/livez") == ALIVE


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_in_use_is_said_in_one_message(probed: Probed, taken: str) -> None:
    said = probed.cli.error("start", "--probes", taken, code=1).splitlines()
    assert len(said) == 2
    assert f"the probes cannot listen at {taken}: " in said[0]
    assert "in use" in said[0]
    assert said[1].startswith("hint: give another address in --probes")
    assert probed.cli.json("agents") == []


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("8080", 2, "expected HOST:PORT"),
        ("127.0.0.1", 2, "expected HOST:PORT"),
        ("127.0.0.1:", 2, "expected HOST:PORT"),
        ("127.0.0.1:http", 2, "expected HOST:PORT"),
        ("::1:8080", 2, "expected HOST:PORT"),
        ("[::1]", 2, "expected HOST:PORT"),
        ("http://127.0.0.1:8080", 2, "expected HOST:PORT"),
        ("127.0.0.1:65536", 2, "expected HOST:PORT"),
        ("127.0.0.1:99999", 2, "expected HOST:PORT"),
        ("192.0.2.1:18080", 1, "the probes cannot listen at 192.0.2.1:18080"),
        ("no-such-host.invalid:18080", 1, "the probes cannot listen at no-such-host.invalid:18080"),
        ("a..b:18080", 1, "the probes cannot listen at a..b:18080"),
    ],
)
def test_an_address_that_cannot_be_is_said_in_one_message(probed: Probed, address: str, code: int, words: str) -> None:
    said = probed.cli.error("start", "--probes", address, code=code)
    assert words in said.splitlines()[0]
    assert len(said.splitlines()) <= 2


def test_without_an_address_nothing_listens(probed: Probed) -> None:
    agent = probed.cli.start()
    probed.cli.until(lambda: "agent.started" in probed.cli.log())
    assert tcp(agent) == []
