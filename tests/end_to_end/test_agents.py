"""The daemon as a process: two agents on one queue, signals, time limits, cancelling, outages, bad ends."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import time

import psutil
import pytest

from command import COMMAND, Cli
from flow_agent.launchers import linux

FLOWS = """
import logging, os, signal, sys, time
from flow_agent import LocalRun, Secret, current_run, flow

@flow(name="quick")
def quick(n: int = 0):
    return n

@flow(name="slow")
def slow(seconds: float = 120.0):
    print("begun", flush=True)
    time.sleep(seconds)
    return "slept"

@flow(name="gated")
def gated(gate: str):
    while not os.path.exists(gate):
        time.sleep(0.02)

@flow(name="limited", timeout=1)
def limited():
    time.sleep(60)

@flow(name="secretive", secrets=["TOKEN"], run_config=LocalRun(env={"MAPPED": Secret("TOKEN"), "PLAIN": "x"}))
def secretive():
    token = current_run().secret("TOKEN")
    print("token", token, os.environ["MAPPED"], os.environ["PLAIN"], os.environ.get("TOKEN"))
    logging.warning("token %s", token)
    raise ValueError(token)

@flow(name="missing", secrets=["NO_SUCH_SECRET"])
def missing():
    pass

@flow(name="dies")
def dies(how: str):
    print("last words", file=sys.stderr)
    if how == "exit":
        sys.exit(9)
    if how == "quietly":
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, how))

@flow(name="unpicklable")
def unpicklable():
    return (i for i in range(3))

@flow(name="tuple")
def a_tuple():
    return (1, {2: 3})
"""


@pytest.fixture
def flows(cli: Cli) -> Cli:
    cli("register", str(cli.write("flows.py", FLOWS)))
    return cli


def test_two_agents_with_different_labels_share_a_thousand_runs(cli: Cli) -> None:
    trace = cli.folder / "trace"
    cli.write(
        "shared.py",
        "\n".join(
            [
                "from flow_agent import current_run, flow",
                "from flow_agent.storages import Local",
                "def work():",
                f"    with open({str(trace)!r}, 'a') as trace:",
                "        trace.write(current_run().id + '\\n')",
                *(
                    f"@flow(name={name!r}, labels={labels!r}, storage=Local(add_default_labels=False))\n"
                    f"def {name}(): work()"
                    for name, labels in [("red", ["red"]), ("blue", ["blue"]), ("anyone", [])]
                ),
            ]
        ),
    )
    cli("register", str(cli.folder / "shared.py"))
    runs = {name: cli.submit(name, "--count", "250") for name in ("red", "blue")}
    runs["anyone"] = cli.submit("anyone", "--count", "500")
    red = cli.start("--name", "red-agent", "-l", "red", "--no-hostname-label", "--limit", "8", "--until-empty")
    blue = cli.start("--name", "blue-agent", "-l", "blue", "--no-hostname-label", "--limit", "8", "--until-empty")
    assert [agent.wait(240) for agent in (red, blue)] == [0, 0]
    ended = {run["id"]: run for run in cli.json("runs", "--limit", "2000")}
    assert {run["state"] for run in ended.values()} == {"succeeded"}
    started = collections.Counter(trace.read_text().split())
    assert set(started) == {run for group in runs.values() for run in group}
    assert set(started.values()) == {1}
    assert {ended[run]["agent"] for run in runs["red"]} == {"red-agent"}
    assert {ended[run]["agent"] for run in runs["blue"]} == {"blue-agent"}
    assert {ended[run]["agent"] for run in runs["anyone"]} == {"red-agent", "blue-agent"}


def test_a_submit_wakes_an_idle_agent(flows: Cli) -> None:
    flows.start("--poll", "30")
    flows.until(lambda: "agent.started" in flows.log())
    time.sleep(0.5)
    begun = time.monotonic()
    (run,) = flows.submit("quick", "-p", "n=5")
    flows.until(lambda: flows.state(run) == "succeeded", 10)
    assert time.monotonic() - begun < 10
    assert json.loads(flows("result", run)) == 5


def test_the_first_signal_drains_and_the_second_ends_attempts(flows: Cli) -> None:
    agent = flows.start("--limit", "2")
    (short,) = flows.submit("gated", "-p", f"gate={flows.folder}/gate")
    (long,) = flows.submit("slow")
    flows.until(lambda: {flows.state(short), flows.state(long)} == {"running"})
    (later,) = flows.submit("quick")
    agent.send_signal(signal.SIGTERM)
    flows.until(lambda: "agent.draining" in flows.log())
    flows.write("gate", "")
    flows.until(lambda: flows.state(short) == "succeeded")
    assert agent.poll() is None
    assert flows.state(later) == "queued"
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(20) == 1
    shown = flows.show(long)
    assert (shown["state"], shown["reason"]) == ("failed", "agent_stopping")
    assert flows.processes() == []


def test_a_drained_agent_that_holds_nothing_ends_with_0(flows: Cli) -> None:
    agent = flows.start()
    flows.until(lambda: "agent.started" in flows.log())
    agent.send_signal(signal.SIGINT)
    assert agent.wait(10) == 0
    assert flows.json("agents") == []


def test_cancelling_ends_the_whole_group(flows: Cli) -> None:
    flows.start()
    (run,) = flows.submit("slow")
    flows.until(lambda: "begun" in flows("logs", run))
    flows("cancel", run, "--wait")
    shown = flows.show(run)
    assert (shown["state"], shown["reason"]) == ("cancelled", "cancelled")
    assert all("runner" not in " ".join(process.cmdline()) for process in flows.processes())


def test_a_time_limit_is_told(flows: Cli) -> None:
    (run,) = flows.submit("limited")
    flows("start", "--until-empty")
    shown = flows.show(run)
    assert (shown["state"], shown["reason"], shown["detail"]) == (
        "failed",
        "timed_out",
        "ran longer than its time limit of 1 s",
    )


@pytest.mark.parametrize(
    ("how", "reason", "code", "words"),
    [
        ("exit", "exited", 9, "sys.exit(9)"),
        ("quietly", "exited", 0, "before the flow returned"),
        ("SIGKILL", "killed", 137, "SIGKILL, perhaps out of memory"),
        ("SIGSEGV", "killed", 139, "SIGSEGV"),
    ],
)
def test_every_bad_end_has_its_own_reason(flows: Cli, how: str, reason: str, code: int, words: str) -> None:
    (run,) = flows.submit("dies", "-p", f"how={how}")
    flows("start", "--until-empty")
    shown = flows.show(run)
    assert (shown["state"], shown["reason"], shown["exit_code"]) == ("failed", reason, code)
    assert words in shown["detail"]
    assert "last words" in flows("logs", run)


def test_a_secret_reaches_the_flow_and_nothing_else(flows: Cli) -> None:
    flows.env["TOKEN"] = "tr0ub4dor-and-more"
    (run,) = flows.submit("secretive")
    flows("start", "--until-empty")
    log = flows("logs", run)
    assert "token [redacted] [redacted] x None" in log
    shown = flows.show(run)
    assert (shown["reason"], shown["detail"]) == ("raised", "ValueError: [redacted]")
    (missing,) = flows.submit("missing")
    flows("start", "--until-empty")
    assert flows.show(missing)["reason"] == "secret_not_found"
    for path in flows.home.rglob("*"):
        assert not path.is_file() or b"tr0ub4dor" not in path.read_bytes(), path


def test_a_result_that_cannot_be_stored_says_so(flows: Cli) -> None:
    (run,) = flows.submit("unpicklable")
    flows("start", "--until-empty")
    shown = flows.show(run)
    assert (shown["state"], shown["reason"]) == ("failed", "result_failed")
    assert "generator" in shown["detail"]


def test_a_pickled_result_is_read_only_when_asked(flows: Cli) -> None:
    (run,) = flows.submit("tuple")
    flows("start", "--until-empty")
    assert "--unpickle" in flows.error("result", run, code=1)
    assert flows("result", run, "--unpickle").strip() == "(1, {2: 3})"


def test_a_changed_payload_is_never_unpickled(flows: Cli) -> None:
    mark = flows.folder / "unpickled"
    evil = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    payload = flows.home / "flows" / "quick.flow"
    payload.resolve().write_bytes(evil)
    (run,) = flows.submit("quick")
    flows("start", "--until-empty")
    shown = flows.show(run)
    assert (shown["state"], shown["reason"], shown["attempt"]) == ("failed", "digest_mismatch", 0)
    assert not mark.exists()


def test_an_upgrade_in_the_middle_interrupts_nothing(flows: Cli) -> None:
    first = flows.start("--name", "same")
    (run,) = flows.submit("slow", "-p", "seconds=3")
    flows.until(lambda: flows.state(run) == "running")
    first.send_signal(signal.SIGKILL)
    first.wait()
    flows("start", "--name", "same", "--until-empty")
    shown = flows.show(run)
    assert (shown["state"], shown["attempt"]) == ("succeeded", 1)
    assert flows("logs", run).splitlines() == ["begun"]


def test_an_attempt_without_an_agent_ends_with_its_lease(flows: Cli) -> None:
    flags = ("--lease-running", "4", "--lease-claimed", "3", "--lease-heartbeat", "1", "--grace", "1")
    first = flows.start("--name", "first", *flags)
    (run,) = flows.submit("slow")
    flows.until(lambda: flows.state(run) == "running")
    first.send_signal(signal.SIGKILL)
    first.wait()
    flows.until(lambda: not flows.processes(), 10)
    flows.start("--name", "second", *flags)
    flows.until(lambda: flows.state(run) != "running", 10)
    shown = flows.show(run)
    assert (shown["state"], shown["reason"]) == ("failed", "agent_lost")


def test_the_daemon_never_holds_user_code(flows: Cli) -> None:
    flows.write("heavy.py", "import cProfile\nfrom flow_agent import flow\n@flow\ndef heavy(): pass\n")
    flows("register", "heavy.py")
    agent = flows.start()
    (run,) = flows.submit("heavy")
    flows.until(lambda: flows.state(run) == "succeeded")
    mapped = {entry.path for entry in psutil.Process(agent.pid).memory_maps()}
    assert any("_json" in path or "_sqlite3" in path for path in mapped)
    assert not any("_lsprof" in path for path in mapped)


FENCED = """
import time
from flow_agent import current_run, flow

@flow(name="fenced", retries=1)
def fenced():
    attempt = current_run().attempt
    end = time.time() + (600 if attempt == 1 else 1)
    while time.time() < end:
        with open({trace!r}, "a") as trace:
            trace.write(f"{{attempt}} {{time.time()}}\\n")
        time.sleep(0.02)
    return attempt
"""


def test_a_frozen_agent_cannot_make_two_attempts_run_at_once(cli: Cli) -> None:
    trace = cli.folder / "trace"
    cli("register", str(cli.write("fenced.py", FENCED.format(trace=str(trace)))))
    flags = ("--lease-running", "4", "--lease-claimed", "3", "--lease-heartbeat", "1", "--grace", "1")
    first = cli.start("--name", "first", *flags)
    (run,) = cli.submit("fenced")
    cli.until(lambda: trace.exists() and len(trace.read_text().splitlines()) > 10)
    first.send_signal(signal.SIGSTOP)
    cli.start("--name", "second", "--poll", "0.5", *flags)
    cli.until(lambda: cli.state(run) == "succeeded")
    moments: dict[str, list[float]] = {"1": [], "2": []}
    for attempt, moment in map(str.split, trace.read_text().splitlines()):
        moments[attempt].append(float(moment))
    assert max(moments["1"]) < min(moments["2"])
    first.send_signal(signal.SIGCONT)
    cli.until(lambda: "claim.lost" in cli.log() or "lease" in cli.log())
    shown = cli.show(run)
    assert (shown["state"], shown["attempt"], shown["agent"]) == ("succeeded", 2, "second")
    assert [attempt["reason"] for attempt in shown["attempts"]] == ["agent_lost", "completed"]
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0


def test_an_attempt_whose_keeper_is_killed_is_lost_and_tried_again(cli: Cli) -> None:
    trace = cli.folder / "trace"
    cli("register", str(cli.write("fenced.py", FENCED.format(trace=str(trace)))))
    cli.start("--name", "first")
    (run,) = cli.submit("fenced")
    cli.until(lambda: trace.exists() and len(trace.read_text().splitlines()) > 10)
    keeper = json.loads((cli.home / "spool" / "first" / f"{run}-1" / "keeper.json").read_text())
    psutil.Process(keeper["pid"]).kill()
    cli.until(lambda: cli.state(run) == "succeeded")
    assert [attempt["reason"] for attempt in cli.show(run)["attempts"]] == ["agent_lost", "completed"]
    assert linux.start_time(keeper["child"]) != keeper["child_start"]


@pytest.mark.parametrize("reader", ["stuck", "gone"])
def test_nobody_needs_to_read_the_log(flows: Cli, reader: str) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, bytes(4096)):
            pass
    os.set_blocking(write, True)
    if reader == "gone":
        os.close(read)
    agent = subprocess.Popen([COMMAND, "start", "--log-level", "debug"], env=flows.env, stdout=write, stderr=write)
    flows.agents.append(agent)
    os.close(write)
    runs = flows.submit("quick", "--count", "5")
    flows.until(lambda: {flows.state(run) for run in runs} == {"succeeded"})
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(20) == 0
    if reader == "stuck":
        os.close(read)


def test_a_signal_right_at_the_start_is_a_drain(flows: Cli) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        agent = flows.start()
        flows.until(lambda: "agent.started" in flows.log())
        agent.send_signal(number)
        assert agent.wait(20) == 0
        (flows.folder / "agent.log").unlink()


def test_a_full_agent_still_resolves_the_runs_of_one_that_is_gone(flows: Cli) -> None:
    flags = ("--lease-running", "4", "--lease-claimed", "3", "--lease-heartbeat", "1", "--grace", "1", "--limit", "1")
    gone = flows.start("--name", "gone", *flags)
    (lost,) = flows.submit("slow")
    flows.until(lambda: flows.state(lost) == "running")
    gone.send_signal(signal.SIGKILL)
    gone.wait()
    flows.start("--name", "full", *flags)
    flows.submit("slow")
    flows.until(lambda: flows.show(lost)["reason"] == "agent_lost")
