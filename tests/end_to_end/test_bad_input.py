"""Bad input and hostile surroundings: one clear message each, the documented exit code, nothing lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from command import COMMAND, Cli, as_nobody
from disks import fill

FLOWS = """
import os, time
from flow_agent import flow

@flow(name="ok")
def ok(n: int = 0):
    print("hello", n)
    return n

@flow(name="needs")
def needs(day):
    return day

@flow(name="slow")
def slow():
    print("begun", flush=True)
    time.sleep(120)

@flow(name="patient")
def patient(flag: str, lines: int = 1):
    print("begun", flush=True)
    while not os.path.exists(flag):
        time.sleep(0.02)
    for number in range(lines):
        print(f"{number:05} " + "x" * 94)
    return "r" * 200_000
"""

OPENS = [
    ("register", "flows.py"),
    ("submit", "ok"),
    ("start", "--until-empty"),
    ("runs",),
    ("flows",),
    ("agents",),
    ("migrate",),
    ("show", "abcd"),
    ("logs", "abcd"),
    ("result", "abcd"),
    ("why", "abcd"),
    ("cancel", "abcd"),
    ("retry", "abcd"),
]
"""One call of each verb that opens the queue."""


@pytest.fixture
def flows(cli: Cli) -> Cli:
    cli("register", str(cli.write("flows.py", FLOWS)))
    return cli


def one_message(cli: Cli, *arguments: str, code: int, says: str, hint: str = "") -> None:
    """The command fails so, in one line and perhaps a hint, and leaves no report of a mistake of ours."""
    lines = cli.error(*arguments, code=code).splitlines()
    assert len(lines) <= 2, lines
    assert says in lines[0]
    assert hint in (lines[1] if len(lines) == 2 else "")
    assert not (cli.home.is_dir() and (cli.home / "crashes").exists())


# The database


def corrupt(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("create table theirs (a)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("insert into migrations values (9999, '9999_new.sql', 'x', 'breaking', '99.0', 0)")
        database.execute("pragma user_version = 9999")
        database.commit()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "says", "hint"),
    [
        (corrupt, "is not a SQLite database", "FLOW_AGENT_QUEUE"),
        (foreign, "is a SQLite database of another program", "FLOW_AGENT_QUEUE"),
        (newer, "was written by flow-agent 99.0", "upgrade"),
        (truncated, "is damaged", "restore it from a backup"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_by_every_verb_and_left_as_it_is(
    flows: Cli, spoil: Callable[[Path], None], says: str, hint: str
) -> None:
    path = flows.home / "queue.db"
    spoil(path)
    before = path.read_bytes()
    for verb in OPENS:
        one_message(flows, *verb, code=1, says=says, hint=hint)
    assert path.read_bytes() == before


def test_an_agent_outlives_a_database_that_is_away_for_a_while(flows: Cli) -> None:
    flows.start("--poll", "0.2")
    flag = flows.folder / "flag"
    (run,) = flows.submit("patient", "-p", f"flag={flag}", "-p", "lines=50")
    flows.until(lambda: "begun" in flows("logs", run))
    away = flows.folder / "away"
    away.mkdir()
    for path in flows.home.glob("queue.db*"):
        path.rename(away / path.name)
    flag.touch()
    flows.until(lambda: "queue.unavailable" in flows.log())
    for path in flows.home.glob("queue.db*"):
        path.unlink()
    for path in away.iterdir():
        path.rename(flows.home / path.name)
    flows.until(lambda: flows.state(run) == "succeeded")
    assert len(flows("logs", run).splitlines()) == 51
    (later,) = flows.submit("ok")
    flows.until(lambda: flows.state(later) == "succeeded")


# A full disk


def test_a_full_disk_is_said_and_loses_nothing(cli: Cli, disk: Path) -> None:
    cli("register", str(cli.write("flows.py", FLOWS)))
    before = cli.json("flows")
    filler = fill(disk)
    one_message(cli, "submit", "ok", code=1, says="its disk is full", hint="free some space")
    one_message(cli, "register", "flows.py", code=1, says="its disk is full", hint="free some space")
    one_message(cli, "start", "--until-empty", code=1, says="its disk is full", hint="free some space")
    filler.unlink()
    assert cli.json("flows") == before
    assert cli.json("runs") == []
    (run,) = cli.submit("ok", "-p", "n=5")
    cli("start", "--until-empty")
    assert cli("result", run) == "5\n"


def test_an_attempt_waits_for_room_and_loses_nothing_of_what_it_says(cli: Cli, disk: Path) -> None:
    cli("register", str(cli.write("flows.py", FLOWS)))
    agent = cli.start("--poll", "0.5")
    flag = cli.folder / "flag"
    (run,) = cli.submit("patient", "-p", f"flag={flag}", "-p", "lines=2000")
    cli.until(lambda: "begun" in cli("logs", run))
    filler = fill(disk)
    flag.touch()
    # Whether the lines or the agent's writes are held up first is the disk's choice; 2,000 lines fit nowhere.
    cli.until(lambda: "its disk is full" in cli.log())
    time.sleep(2)
    assert agent.poll() is None
    assert cli.state(run) == "running"
    filler.unlink()
    cli.until(lambda: cli.state(run) == "succeeded")
    assert cli("logs", run).splitlines() == ["begun", *(f"{number:05} " + "x" * 94 for number in range(2000))]
    assert cli("result", run) == "r" * 200_000 + "\n"


def test_a_return_value_waits_for_room(cli: Cli, disk: Path) -> None:
    cli("register", str(cli.write("flows.py", FLOWS)))
    cli.start("--poll", "0.5")
    flag = cli.folder / "flag"
    (run,) = cli.submit("patient", "-p", f"flag={flag}", "-p", "lines=0")
    cli.until(lambda: "begun" in cli("logs", run))
    filler = fill(disk)
    flag.touch()
    for _ in range(3):
        time.sleep(0.5)
        assert cli.state(run) == "running"
    filler.unlink()
    cli.until(lambda: cli.state(run) == "succeeded")
    assert cli("result", run) == "r" * 200_000 + "\n"
    assert "no room on the disk for the return value" in cli("logs", run)


def test_a_return_value_that_finds_no_room_leaves_room_for_the_queue(cli: Cli, disk: Path) -> None:
    cli("register", str(cli.write("big.py", "from flow_agent import flow\n@flow\ndef big(n: int): return 'q' * n\n")))
    cli.start("--poll", "0.5", "--limit", "2")
    (big,) = cli.submit("big", "-p", "n=20000000")
    cli.until(lambda: "no room on the disk for the return value" in cli("logs", big))
    (small,) = cli.submit("big", "-p", "n=10")
    cli.until(lambda: cli.state(small) == "succeeded")
    assert cli.state(big) == "running"
    cli("cancel", big, "--wait")
    assert cli.state(big) == "cancelled"


def test_a_disk_without_room_for_another_file_is_said(cli: Cli, disk: Path) -> None:
    cli("register", str(cli.write("flows.py", FLOWS)))
    names = (disk / f"file{number}" for number in range(10**6))
    with contextlib.suppress(OSError):
        for name in names:
            name.touch()
    one_message(cli, "submit", "ok", code=1, says="its disk is full", hint="free some space")


def test_printing_to_a_full_disk_is_said(flows: Cli) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, "flows"], env=flows.env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "flow-agent: the output cannot be written: No space left on device",
    )


# Another user


class Nobody(Cli):
    """The command as a user who is not root, with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.prefix = as_nobody() if os.geteuid() == 0 else []


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to others
        folder = Path(name)
        folder.chmod(0o755)
        nobody = Nobody(folder)
        nobody.write("flows.py", FLOWS)
        nobody.home.mkdir()
        if nobody.prefix:
            os.chown(nobody.home, 65534, 65534)
        yield nobody
        nobody.close()
        if nobody.prefix:
            shutil.rmtree(nobody.prefix[-1])


def test_an_agent_outlives_losing_its_permissions_for_a_while(nobody: Nobody) -> None:
    folder, flag = nobody.home / "queue", nobody.folder / "flag"
    nobody.env["FLOW_AGENT_QUEUE"] = f"sqlite:{folder}/queue.db"
    nobody("register", "flows.py")
    with (nobody.folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [*nobody.prefix, COMMAND, "start"], env=nobody.env, cwd=nobody.folder, stdout=log, stderr=log
        )
    nobody.agents.append(agent)
    (run,) = nobody.submit("patient", "-p", f"flag={flag}", "-p", "lines=5")
    nobody.until(lambda: "begun" in nobody("logs", run))
    folder.chmod(0)
    flag.touch()
    nobody.until(lambda: "queue.unavailable" in nobody.log())
    assert agent.poll() is None
    folder.chmod(0o700)
    nobody.until(lambda: nobody.state(run) == "succeeded")
    assert len(nobody("logs", run).splitlines()) == 6


def test_a_whole_life_as_a_user_who_is_not_root(nobody: Nobody) -> None:
    nobody("register", "flows.py")
    (run,) = nobody.submit("ok", "-p", "n=4")
    nobody("start", "--until-empty")
    assert (nobody("logs", run), nobody("result", run)) == ("hello 4\n", "4\n")
    with (nobody.folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [*nobody.prefix, COMMAND, "start"], env=nobody.env, cwd=nobody.folder, stdout=log, stderr=log
        )
    nobody.agents.append(agent)
    (slow,) = nobody.submit("slow")
    nobody.until(lambda: "begun" in nobody("logs", slow))
    nobody("cancel", slow, "--wait")
    assert nobody.state(slow) == "cancelled"
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(20) == 0
    assert nobody.processes() == []


def test_a_home_that_may_not_be_written_is_said(nobody: Nobody) -> None:
    if nobody.prefix:
        os.chown(nobody.home, 0, 0)
    nobody.home.chmod(0o555)
    for verb in OPENS:
        one_message(nobody, *verb, code=1, says="may not write to", hint="FLOW_AGENT_HOME")
    one_message(nobody, "dev", "flows.py", code=1, says="Permission denied", hint="FLOW_AGENT_HOME")
    nobody.env["FLOW_AGENT_QUEUE"] = f"sqlite:{tempfile.gettempdir()}/{nobody.folder.name}.db"
    try:
        one_message(nobody, "register", "flows.py", code=1, says="Permission denied", hint="FLOW_AGENT_HOME")
        one_message(nobody, "start", code=1, says="Permission denied", hint="FLOW_AGENT_HOME")
    finally:
        for left in Path(tempfile.gettempdir()).glob(f"{nobody.folder.name}.db*"):
            left.unlink()


def test_a_home_that_may_not_be_entered_is_said(nobody: Nobody) -> None:
    nobody.env["FLOW_AGENT_HOME"] = str(nobody.home / "inner")
    if nobody.prefix:
        os.chown(nobody.home, 0, 0)
    nobody.home.chmod(0)
    try:
        for verb in ("runs", "start"):
            lines = nobody.error(verb, code=1).splitlines()
            assert "Permission denied" in lines[0]
            assert lines[1].startswith("hint: give this user permission")
    finally:
        nobody.home.chmod(0o700)


def test_a_queue_that_may_only_be_read_is_said(nobody: Nobody) -> None:
    nobody("register", "flows.py")
    queue = nobody.home / "queue.db"
    if nobody.prefix:
        os.chown(queue, 0, 0)
    queue.chmod(0o444)
    for verb in OPENS:
        one_message(nobody, *verb, code=1, says="cannot be opened by user id", hint="write permission")


# Homes


def test_a_home_that_is_a_file_is_said(cli: Cli) -> None:
    cli.write("flows.py", FLOWS)
    cli.home.write_text("not a folder")
    for verb in OPENS:
        one_message(cli, *verb, code=1, says=f"{cli.home} is no folder", hint="FLOW_AGENT_HOME")
    assert cli.home.read_text() == "not a folder"


@pytest.mark.parametrize(
    "name", ["/".join(["l" * 60] * 3), 'ho me\'s "quoted" \u00e9\U0001f600\nsecond line'], ids=["long", "odd"]
)
def test_a_home_may_be_long_and_have_any_name(cli: Cli, name: str) -> None:
    cli.home = cli.folder / name
    cli.env["FLOW_AGENT_HOME"] = str(cli.home)
    cli("register", str(cli.write("flows.py", FLOWS)))
    (run,) = cli.submit("ok", "-p", "n=3")
    cli("start", "--until-empty")
    assert (cli("logs", run), cli("result", run)) == ("hello 3\n", "3\n")


# Flow files


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:", "line 1: invalid syntax"),
        ("raise ValueError('at import')", "raises ValueError: at import"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("x = 1", "there is no flow in bad.py"),
        ("import os; os._exit(3)", "ended with exit code 3 before it was done"),
        ("import sys; sys.exit(4)", "sys.exit(4)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        (
            "from flow_agent import Flow\na = Flow('same', lambda: 1)\nb = Flow('same', lambda: 2)",
            "two flows are named 'same'",
        ),
        ("from flow_agent import flow\n@flow(name='p')\ndef p(a, /): pass", "'a' is positional-only"),
        ("import threading as t\nfrom flow_agent import flow\nL = t.Lock()\n@flow\ndef p(): return L", "uses 'L'"),
        ("from flow_agent import flow\nL = (i for i in 'ab')\n@flow\ndef p(): return L", "'generator'"),
        ("from flow_agent import flow\nL = open('out', 'w')\n@flow\ndef p(): return L", "uses 'L'"),
        ("from flow_agent import Flow\na = Flow('n' * 300, lambda: 1)", "expected 1 to 255 characters"),
        ("from flow_agent import Flow\na = Flow('a', lambda: 1, labels=['b\\nc'])", "a label is 'b\\nc'"),
    ],
)
def test_a_file_that_cannot_be_registered_says_why_and_registers_nothing(flows: Cli, text: str, says: str) -> None:
    before = flows.json("flows")
    flows.write("bad.py", text)
    assert says in flows.error("register", "flows.py", "bad.py", code=1)
    assert flows.json("flows") == before


def test_odd_flow_names_stay_inside_the_home(cli: Cli) -> None:
    names = ["a/b", "..", "../../x", "\U0001f600", "x y", "a:b", "."]
    cli.write(
        "odd.py",
        f"from flow_agent import Flow\nf = lambda: 1\nall_ = {names!r}\nfor i, n in enumerate(all_):"
        "\n    globals()[f'f{i}'] = Flow(n, f)\n",
    )
    cli("register", "odd.py")
    runs = [cli.submit(name)[0] for name in names]
    cli("start", "--until-empty")
    assert [cli("result", run) for run in runs] == ["1\n"] * len(names)
    assert sorted(path.name for path in cli.folder.iterdir()) == ["home", "odd.py"]
    assert all(path.suffix == ".flow" or path.is_dir() for path in (cli.home / "flows").iterdir())


# What is typed and set


@pytest.mark.parametrize(
    ("arguments", "code", "says", "hint"),
    [
        (("register", "none.py"), 1, "none.py does not exist", "name a Python file"),
        (("register", "flows.py:none"), 1, "there is no flow 'none'", ""),
        (("register", "flows.py", "-l", ""), 2, "label '' is not a label", ""),
        (("submit", "okk"), 1, "flow 'okk' is not registered; the nearest known one is 'ok'", "register"),
        (("submit", "needs"), 2, "needs the parameter 'day'", ""),
        (("submit", "needs", "-p", "dya=1"), 2, "no parameter 'dya'", "did you mean 'day'?"),
        (("submit", "ok", "-p", "n"), 2, "has no name or no '='", "-p NAME=VALUE"),
        (("submit", "ok", "-p", "n=1", "-p", "n=2"), 2, "'n' is given twice", ""),
        (("submit", "ok", "-p", "n=" + "x" * 70_000), 2, "expected at most 65536", "pass its place"),
        (("submit", "ok", "-p", "n=1e999"), 2, "which 'n' cannot be", "give text, numbers"),
        (("submit", "ok", "-p", 'n="\\ud800"'), 2, "half of a pair", ""),
        (("submit", "ok", "--key", "a\udcff"), 2, "no text in UTF-8", ""),
        (("submit", "a\udcff"), 2, "no text in UTF-8", ""),
        (("show", "a\udcff"), 2, "no text in UTF-8", ""),
        (("runs", "--flow", "a\udcff"), 2, "no text in UTF-8", ""),
        (("submit", "ok", "--at", "tomorrow"), 2, "'tomorrow' is no time", "expected ISO 8601"),
        (("submit", "ok", "--count", "0"), 2, "count is 0", ""),
        (("submit", "ok", "--priority", "9" * 20), 2, "is not in the range", ""),
        (("submit", "ok", "--key", ""), 2, "the idempotency key is empty", "leave it out"),
        (("submit", "ok", "-l", "a\nb"), 2, "label 'a\\nb' is not a label", ""),
        (("sumbit", "ok"), 2, "no such verb 'sumbit'", "did you mean submit?"),
        (("submit", "ok", "--prioritty", "1"), 2, "no such option --prioritty", "did you mean --priority?"),
        (("runs", "--state", "bogus"), 2, "'bogus' is not one of 'scheduled'", ""),
        (("runs", "--flow", "okk"), 1, "flow 'okk' is not registered", ""),
        (("show", "01"), 1, "too short", ""),
        (("show", "zzzzzz"), 1, "no run begins with 'zzzzzz'", "`flow-agent runs`"),
        (("start", "--limit", "0"), 2, "option --limit", ""),
        (("start", "--grace", "-1"), 2, "option --grace", ""),
        (("start", "--env", "FOO"), 2, "option --env: expected NAME=VALUE", ""),
        (("start", "--launcher", "none"), 2, "no launcher is called 'none'; installed:", ""),
        (("start", "--name", "a/b"), 2, "agent name 'a/b' is not a name", ""),
        (("start", "--lease-running", "1"), 2, "lease.running is 1 s, expected more than", "raise lease.running"),
        (("start", "--queue", "bogus:x"), 2, "no queue is called 'bogus'; installed:", ""),
        (("runs", "--queue", "sqlite:/"), 2, "names a folder", ""),
        (("runs", "--config", "none.toml"), 2, "there is no such file", ""),
    ],
)
def test_what_does_not_fit_is_said_in_one_message(
    flows: Cli, arguments: tuple[str, ...], code: int, says: str, hint: str
) -> None:
    one_message(flows, *arguments, code=code, says=says, hint=hint)
    assert flows.json("runs") == []


@pytest.mark.parametrize(
    ("variable", "value", "says", "hint"),
    [
        ("FLOW_AGENT_AGENT__LIMT", "3", "FLOW_AGENT_AGENT__LIMT is no setting", "FLOW_AGENT_AGENT__LIMIT?"),
        ("FLOW_AGENT_AGENT__LIMIT", "abc", "FLOW_AGENT_AGENT__LIMIT", ""),
        ("FLOW_AGENT_LEASE__CLAIMED", "-1", "FLOW_AGENT_LEASE__CLAIMED", ""),
        ("FLOW_AGENT_LOG__FORMAT", "xml", "FLOW_AGENT_LOG__FORMAT", ""),
        ("FLOW_AGENT_STOP__GRACE", "nan", "FLOW_AGENT_STOP__GRACE", ""),
        ("FLOW_AGENT_QUEUE", "nocolon", "queue 'nocolon' is no URL", "sqlite:"),
    ],
)
def test_a_variable_that_fits_no_setting_is_said(flows: Cli, variable: str, value: str, says: str, hint: str) -> None:
    flows.env[variable] = value
    one_message(flows, "runs", code=2, says=says, hint=hint)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nosuch = 1", "nosuch is no setting"),
        ("[agent]\nlimt = 3", "agent.limt is no setting"),
        ('[agent]\nlimit = "x"', "agent.limit"),
        ("[agent", "is no TOML"),
        ("agent = 3", "agent is not a table"),
    ],
)
def test_a_settings_file_that_does_not_fit_is_said(flows: Cli, text: str, says: str) -> None:
    flows.write("bad.toml", text)
    one_message(flows, "runs", "--config", "bad.toml", code=2, says=says)


def test_an_ambiguous_beginning_of_an_id_lists_the_runs(flows: Cli) -> None:
    first, second = flows.submit("ok", "--count", "2")
    message = flows.error("show", first[:10], code=1)
    assert first in message
    assert second in message


def test_labels_that_nobody_has_are_explained(flows: Cli) -> None:
    flows.start()
    flows.until(lambda: flows.json("agents"))
    (run,) = flows.submit("ok", "-l", "nobody-has-this")
    said = flows.json("why", run)
    assert "nobody-has-this" in said["sentence"] + said["hint"]


def test_a_second_agent_of_the_same_name_is_refused(flows: Cli) -> None:
    agent = flows.start("--name", "same")
    flows.until(lambda: "agent.started" in flows.log())
    one_message(flows, "start", "--name", "same", code=1, says=f"(pid {agent.pid})", hint="--name")
    assert agent.poll() is None


# Pipes and signals


def test_a_reader_that_goes_away_ends_the_command_quietly(flows: Cli) -> None:
    flows.submit("ok", "--count", "2000")
    command = f"'{COMMAND}' runs --limit 2000 --json | head -0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=flows.env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(flows: Cli, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"'{COMMAND}' submit ok {closed}"], env=flows.env, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [run["flow"] for run in flows.json("runs")] == ["ok"]


@pytest.mark.parametrize("verb", ["logs", "submit", "dev"])
def test_ctrl_c_ends_a_long_verb_without_a_traceback(flows: Cli, verb: str) -> None:
    arguments = {"submit": ["submit", "ok", "--wait"], "dev": ["dev", "slow.py"]}
    flows.write(
        "slow.py",
        "import time\nfrom flow_agent import flow\n@flow\ndef s():\n    print('up', flush=True)\n    time.sleep(60)\n",
    )
    waits = arguments.get(verb) or ["logs", "-f", flows.submit("ok")[0]]
    before = len(flows.json("runs"))
    process = subprocess.Popen(
        [COMMAND, *waits], env=flows.env, cwd=flows.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    flows.agents.append(process)
    assert process.stdout is not None
    if verb == "submit":
        flows.until(lambda: len(flows.json("runs")) > before)
    elif verb == "dev":
        assert process.stdout.readline() == "up\n"
    else:
        flows.until(lambda: has_open(process.pid, "queue.db"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (0 if verb == "dev" else 130)
    assert "Traceback" not in errors


def has_open(pid: int, name: str) -> bool:
    return any(Path(file.path).name == name for file in psutil.Process(pid).open_files())


# Flows that misbehave

ODD = """
import asyncio, atexit, json, logging, multiprocessing, os, shutil, signal, subprocess, sys, threading, time
from flow_agent import flow
from flow_agent.storages import Local

def square(n):
    return n * n

@flow(name="moves")
def moves():
    os.chdir("/")
    return {"cwd": os.getcwd()}

@flow(name="deletes")
def deletes():
    shutil.rmtree(os.getcwd())
    print("gone")
    return 7

@flow(name="closes")
def closes():
    print("before", flush=True)
    os.close(1)
    os.close(2)
    return 8

@flow(name="fat")
def fat():
    sys.stdout.write("x" * 50_000_000)

@flow(name="bytes")
def bytes_():
    sys.stdout.buffer.write(b"\\xff\\xfe\\x00nul\\x00 ok\\n")

@flow(name="daemon")
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        os._exit(0)
    os.wait()

@flow(name="descriptors")
def descriptors():
    kept = []
    try:
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        globals()["kept"] = kept
    print("none left")
    return 12

@flow(name="thread")
def thread():
    threading.Thread(target=lambda: (time.sleep(0.5), print("late"))).start()

@flow(name="thread_exits")
def thread_exits():
    thread = threading.Thread(target=lambda: sys.exit(3))
    thread.start()
    thread.join()
    return 14

@flow(name="atexit")
def at_exit():
    atexit.register(print, "bye")

@flow(name="replaces")
def replaces():
    sys.stdout = sys.stderr = None
    return 16

@flow(name="pools", storage=Local(stored_as_script=True))
def pools():
    with multiprocessing.get_context("spawn").Pool(1) as spawned, multiprocessing.get_context("fork").Pool(1) as forked:
        return spawned.map(square, [2]) + forked.map(square, [3])

@flow(name="programs")
def programs():
    subprocess.run(["echo", "from below"], check=True)

@flow(name="loop")
def loop():
    async def inner():
        await asyncio.sleep(0.01)
        return 17
    return asyncio.run(inner())

@flow(name="signals")
def signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: print("heard"))
    os.kill(os.getpid(), signal.SIGTERM)
    return 18

@flow(name="logging")
def own_logging():
    logging.basicConfig(force=True, level=logging.DEBUG)
    logging.debug("said")
"""


def test_flows_may_do_odd_things_to_their_process(cli: Cli) -> None:
    cli("register", str(cli.write("odd.py", ODD)))
    names = [each["flow"] for each in cli.json("flows")]
    runs = {name: cli.submit(name)[0] for name in names}
    cli("start", "--limit", "4", "--until-empty", timeout=100)
    shown = {name: cli.show(run) for name, run in runs.items()}
    assert {name: each["state"] for name, each in shown.items() if each["state"] != "succeeded"} == {
        "descriptors": "failed"
    }
    assert shown["descriptors"]["reason"] == "result_failed"
    assert "Too many open files" in shown["descriptors"]["detail"]
    results = {"moves": '{\n  "cwd": "/"\n}', "deletes": "7", "closes": "8", "thread_exits": "14", "replaces": "16"}
    results |= {"pools": "[\n  4,\n  9\n]", "loop": "17", "signals": "18"}
    assert {name: cli("result", runs[name]).strip() for name in results} == results
    logs = {
        "deletes": "gone",
        "closes": "before",
        "bytes": "\ufffd\ufffd\ufffdnul\ufffd ok",
        "descriptors": "none left",
    }
    logs |= {"thread": "late", "atexit": "bye", "programs": "from below", "signals": "heard"}
    logs |= {"logging": "DEBUG:root:said", "replaces": "", "moves": ""}
    assert {name: cli("logs", runs[name]).strip() for name in logs} == logs
    assert cli("logs", runs["fat"]).replace("\n", "") == "x" * 50_000_000
    assert "the flow left 1 of its processes running" in cli("logs", runs["daemon"])
    assert cli.processes() == []


def test_a_script_may_lie_beside_files_named_like_standard_modules(cli: Cli) -> None:
    for name in ("stat", "json", "logging"):
        cli.write(f"app/{name}.py", "WHO = 'mine'\n")
    cli.write(
        "app/main.py",
        "from flow_agent import flow\nfrom flow_agent.storages import Local\nfrom pathlib import Path\n"
        "here = Path(__file__).parent\n"
        "@flow(name='beside', storage=Local(stored_as_script=True, root=here, path=here / 'main.py'))\n"
        "def beside():\n    return sorted(path.name for path in here.glob('*.py'))\n",
    )
    cli("register", "app/main.py")
    (run,) = cli.submit("beside")
    cli("start", "--until-empty")
    assert cli.state(run) == "succeeded", cli("logs", run)
    assert cli("result", run).split('"')[1::2] == ["json.py", "logging.py", "main.py", "stat.py"]
