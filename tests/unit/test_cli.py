"""The command line: what it prints where, exit codes, and what a person sees when something is wrong."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import click
import pytest

from flow_agent import operations
from flow_agent.cli import VERBS, cli, main
from flow_agent.cli.failures import report
from flow_agent.cli.parameters import parse
from flow_agent.errors import FlowAgentError, InvalidInput, QueueError, QueueUnavailable
from flow_agent.model import AgentInfo, LogLine, Outcome, Parameter, Reason, Registration, State
from flow_agent.ports import Leases
from flow_agent.queues import pruning

COMMAND = str(Path(sys.executable).with_name("flow-agent"))
ADD = Registration(
    flow="add",
    kind="pickle",
    storage={"type": "Local", "dir": "/flows"},
    location={},
    labels=("here",),
    digest="ab" * 32,
    parameters=(Parameter(name="a", required=True), Parameter(name="b", default=2)),
)
RUN_KEYS = [
    *["id", "flow", "version", "state", "reason", "detail", "attempt", "labels", "parameters", "priority"],
    *["due_at", "created_at", "claimed_at", "started_at", "finished_at"],
    *["agent", "launcher", "ref", "revision", "exit_code", "result", "retry_of"],
]


@pytest.fixture(autouse=True)
def home(own_home) -> Path:
    return own_home


@pytest.fixture
def flow() -> None:
    with_queue(lambda queue: queue.register([ADD]))


@pytest.fixture
def run(capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def with_queue(action, **options):
    async def body():
        async with operations.open_queue(f"sqlite:{os.environ['FLOW_AGENT_HOME']}/queue.db", **options) as queue:
            return await action(queue)

    return anyio.run(body)


def agent(**changes) -> AgentInfo:
    return AgentInfo(id="a", name="one", incarnation="i", labels=frozenset({"here"}), **changes)


def work(outcome: Outcome, *lines: LogLine) -> None:
    async def body(queue) -> None:
        (claim,) = await queue.claim(agent(), 1, f"request {time.monotonic_ns()}")
        await queue.started(claim, "ref", revision="r1")
        await queue.append_logs(claim, lines)
        await queue.finish(claim, outcome)

    with_queue(body)


def succeeded(value=None) -> Outcome:
    return Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED, result={"inline": value}, exit_code=0)


FAILED = Outcome(state=State.FAILED, reason=Reason.RAISED, detail="ValueError: no", exit_code=1)


# Help


def test_help_lists_every_verb_with_a_line_of_its_own(run):
    code, out, err = run("--help")

    assert (code, err) == (0, "")
    for verb, (_, line) in VERBS.items():
        assert f"  {verb} " in out
        assert line in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_or_a_sentence(run, verb):
    code, out, err = run(verb, "--help")

    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: flow-agent {verb} [OPTIONS]")
    if verb not in (
        "secrets",
        "cache",
        "tokens",
        "limits",
        "inside",
    ):  # groups: their verbs have the options; no queue is known inside a container
        assert "--queue URL" in out
        assert "FLOW_AGENT_HOME" in out


def test_help_imports_neither_verbs_nor_what_they_need():
    program = "import sys; from flow_agent.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not loaded & {"pydantic", "rich", "anyio", "sqlite3", "flow_agent.cli.runs", "flow_agent.settings"}
    # What it takes is measured in tests/bench/startup.py, beside the bare interpreter; this is what keeps it so.
    others = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {"__main__"}
    assert {name for name in others if not name.startswith("_")} <= {"click", "flow_agent"}


def test_the_version_is_printed(run):
    assert run("--version")[1].strip().count(".") == 2


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "flow_agent", "no-such"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("flow-agent: no such verb 'no-such'\nhint: ")


# What is typed wrong


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["sumbit"], "no such verb 'sumbit'", "did you mean submit?"),
        (["xyzzy"], "no such verb 'xyzzy'", "`flow-agent --help` lists the verbs"),
        (["submit", "add", "--priorty", "1"], "no such option --priorty", "did you mean --priority?"),
        (["submit"], "missing argument 'FLOW'", "`flow-agent submit --help` shows what there is"),
        (["submit", "add", "--count", "x"], "invalid value for '--count': 'x' is not a valid integer", "--help"),
        (["runs", "--state", "dead"], "invalid value for '--state': 'dead' is not one of", "--help"),
        (["submit", "add", "-p", "a"], "parameter 'a' has no name or no '='", "write -p NAME=VALUE"),
        (["submit", "add", "-p", "a=1", "-p", "a=2"], "parameter 'a' is given twice", "JSON"),
        (["submit", "add", "--at", "soon"], "'soon' is no time", "ISO 8601"),
        (["runs", "--queue", "nowhere"], "queue 'nowhere' is no URL", "sqlite:"),
        (["runs", "--config", "/no/such.toml"], "--config names the settings file /no/such.toml", None),
        (["submit", "add", "-p", "c=1"], "flow 'add' has no parameter 'c'", None),
    ],
)
def test_what_is_typed_wrong_is_one_line_with_a_way_out_and_exit_code_2(run, flow, words, message, hint):
    code, out, err = run(*words)

    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert lines[0].startswith(f"flow-agent: {message}")
    assert not lines[0].endswith(".")
    if hint:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]


def test_a_wrong_setting_is_told_the_same_way(run, monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_POL", "1")

    assert run("runs") == (
        2,
        "",
        "flow-agent: environment variable FLOW_AGENT_POL is no setting\nhint: did you mean FLOW_AGENT_AGENT__POLL?\n",
    )


def test_what_is_not_there_is_exit_code_1(run, flow):
    code, out, err = run("show", "zzzzzz")

    assert (code, out) == (1, "")
    assert err.startswith("flow-agent: ")
    assert run("submit", "ad")[0] == 1


def test_a_queue_that_is_no_database_is_no_traceback(run, home):
    (home / "queue.db").write_text("this is no database, and long enough to be seen as none" * 10)

    code, _, err = run("runs")

    assert code == 1
    assert err.startswith("flow-agent: ")
    assert "Traceback" not in err


# Runs


def test_submit_prints_the_id_and_nothing_else(run, flow):
    code, out, err = run("submit", "add", "-p", "a=3", "-p", "b=text", "-l", "gpu", "--priority", "2")

    shown = with_queue(lambda queue: queue.get(out.strip()))
    assert (code, err) == (0, "")
    assert shown.parameters == {"a": 3, "b": "text"}
    assert shown.labels == {"here", "gpu"}
    assert shown.priority == 2


def test_submit_as_json_is_an_object_and_with_count_a_list(run, flow):
    one = json.loads(run("submit", "add", "-p", "a=1", "--json")[1])
    several = json.loads(run("submit", "add", "-p", "a=1", "--json", "--count", "2")[1])

    assert list(one) == RUN_KEYS
    assert [list(each) for each in several] == [RUN_KEYS, RUN_KEYS]


def test_a_key_gives_the_same_run_again(run, flow):
    assert run("submit", "add", "-p", "a=1", "--key", "k")[1] == run("submit", "add", "-p", "a=1", "--key", "k")[1]


def test_parameters_are_json_if_they_parse_else_text():
    texts = ("a=3", "b=x=y", "c=[1, 2]", "d=", "e=NaN", 'f="3"', "g=null", "h=1e999x")

    assert parse(texts) == {"a": 3, "b": "x=y", "c": [1, 2], "d": "", "e": "NaN", "f": "3", "g": None, "h": "1e999x"}


def installed(*words: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen([COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize(("outcome", "code"), [(succeeded(), 0), (FAILED, 1)])
def test_submit_and_wait_tells_how_it_ended_by_exit_code_and_on_stderr(flow, outcome, code):
    with installed("submit", "add", "-p", "a=1", "--wait") as process:
        wait_until(lambda: with_queue(lambda queue: queue.runs()))
        work(outcome)
        out, err = process.communicate(timeout=20)

    assert process.returncode == code
    assert len(out.split()) == 1
    assert f"run {out.strip()} {outcome.state}" in err


def test_ctrl_c_ends_waiting_quietly_and_the_run_goes_on(flow):
    with installed("submit", "add", "-p", "a=1", "--wait") as process:
        wait_until(lambda: with_queue(lambda queue: queue.runs()))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (130, "")
    (left,) = with_queue(lambda queue: queue.runs())
    assert left.state is State.QUEUED


def test_a_reader_that_goes_away_is_no_error(flow):
    with_queue(lambda queue: operations.submit_runs(queue, "add", {"a": 1}, count=2000))

    with installed("runs", "--limit", "2000", "--json") as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=20)

    assert (process.returncode, err) == (141, "")


def test_runs_in_a_pipe_are_lines_of_fields(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()
    work(FAILED)

    code, out, _ = run("runs")

    fields = out.strip().split("\t")
    assert code == 0
    assert fields[:4] == [run_id, "add", "failed", "raised"]
    assert fields[6] == "one"


def test_runs_can_be_chosen_by_state_and_flow_and_are_a_list_as_json(run, flow):
    run("submit", "add", "-p", "a=1")
    run("submit", "add", "-p", "a=2", "--at", "+1h")

    (queued,) = json.loads(run("runs", "--state", "queued", "--json")[1])
    assert list(queued) == RUN_KEYS
    assert len(json.loads(run("runs", "--state", "queued", "--state", "scheduled", "--json")[1])) == 2
    assert json.loads(run("runs", "--flow", "add", "--state", "failed", "--json")[1]) == []
    assert len(json.loads(run("runs", "--limit", "1", "--json")[1])) == 1


def test_show_tells_everything_of_a_run(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()
    work(FAILED)

    _, out, _ = run("show", run_id[:20])

    for part in (
        run_id,
        "add, version 1",
        "failed, raised",
        "ValueError: no",
        "a=1",
        "Local",
        "attempt 1 on one",
        "r1",
    ):
        assert part in out
    shown = json.loads(run("show", run_id, "--json")[1])
    assert list(shown) == [*RUN_KEYS, "attempts", "registration"]
    assert shown["attempts"][0]["reason"] == "raised"
    assert shown["registration"]["digest"] == "ab" * 32


def test_logs_are_plain_output_and_records_with_time_and_level(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()
    lines = [
        LogLine(attempt=1, source="flow", seq=1, time=1.0, text="printed"),
        LogLine(attempt=1, source="flow", seq=2, time=1.0, text="logged", level="WARNING"),
        LogLine(attempt=1, source="agent.1", seq=1, time=1.0, text="fetched again", level="INFO"),
    ]
    work(succeeded(), *lines)

    first, second, third = run("logs", run_id)[1].splitlines()

    assert first == "printed"
    assert second.endswith(" WARNING logged")
    assert third.endswith(" INFO [agent] fetched again")
    assert run("logs", run_id, "-f")[1].splitlines()[0] == "printed"


def test_a_result_is_text_as_it_is_and_other_values_as_json(run, flow):
    run("submit", "add", "-p", "a=1")
    work(succeeded("héllo"))
    run_id = with_queue(lambda queue: queue.runs())[0].id
    assert run("result", run_id)[1] == "héllo\n"
    assert json.loads(run("result", run_id, "--json")[1]) == "héllo"

    run("submit", "add", "-p", "a=1")
    work(succeeded({"a": [1, None]}))
    run_id = with_queue(lambda queue: queue.runs())[0].id
    assert json.loads(run("result", run_id)[1]) == {"a": [1, None]}


def test_the_result_of_a_run_that_waits_is_an_error_with_a_way_out(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()

    code, out, err = run("result", run_id)

    assert (code, out) == (1, "")
    assert f"hint: `flow-agent why {run_id}`" in err


def test_why_says_it_in_one_sentence_with_the_way_out(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()

    code, out, _ = run("why", run_id)

    assert code == 0
    assert out == f"run {run_id} waits, and no agent is alive\nhint: start one: `flow-agent start -l here`\n"
    assert json.loads(run("why", run_id, "--json")[1]) == {
        "id": run_id,
        "state": "queued",
        "sentence": f"run {run_id} waits, and no agent is alive",
        "hint": "start one: `flow-agent start -l here`",
    }


def test_cancel_and_retry(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()
    code, _, err = run("retry", run_id)
    assert code == 2
    assert "expected one that has ended" in err

    code, out, err = run("cancel", run_id)
    assert (code, out) == (0, "")
    assert f"run {run_id} cancelled" in err
    assert json.loads(run("cancel", run_id, "--wait", "--json")[1])["state"] == "cancelled"

    again = run("retry", run_id)[1].strip()
    assert again != run_id
    assert json.loads(run("show", again, "--json")[1])["retry_of"] == run_id


def test_cancelling_a_run_that_runs_says_that_its_agent_was_asked(run, flow):
    run_id = run("submit", "add", "-p", "a=1")[1].strip()
    with_queue(lambda queue: queue.claim(agent(), 1, "request"))

    assert "is claimed; its agent was asked to end it" in run("cancel", run_id)[2]


# Registering and lists


def test_register_prints_name_and_version_and_sends_what_the_file_prints_to_stderr(run, tmp_path):
    file = tmp_path / "flows.py"
    file.write_text(
        "from flow_agent import flow\nprint('loading')\n\n@flow(labels=['x'])\ndef hello(): return 1\n",
        encoding="utf-8",
    )

    code, out, err = run("register", str(file), "-l", "eu")

    assert (code, out) == (0, "hello\t1\n")
    assert "loading" in err
    (listed,) = json.loads(run("flows", "--json")[1])
    assert set(listed["labels"]) >= {"x", "eu"}
    assert json.loads(run("register", str(file), "--json")[1])[0]["version"] == 2


def test_two_files_with_one_flow_name_are_refused_and_nothing_is_registered(run, tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("from flow_agent import flow\n\n@flow\ndef hello(): return 1\n")

    code, _, err = run("register", str(tmp_path / "a.py"), str(tmp_path / "b.py"))

    assert code == 1
    assert "flow 'hello' is defined by" in err
    assert run("flows") == (0, "", "")


def test_a_target_that_is_refused_leaves_nothing_of_the_others_behind(run, home, tmp_path):
    (tmp_path / "a.py").write_text("from flow_agent import flow\n\n@flow\ndef hello(): return 1\n")
    (tmp_path / "b.py").write_text("1 / 0\n")

    assert run("register", str(tmp_path / "a.py"), str(tmp_path / "b.py"))[0] == 1

    assert list((home / "flows").rglob("*.flow")) == []


def test_flows_and_agents_are_listed(run, flow):
    with_queue(lambda queue: queue.announce(agent(limit=4, running=1)))

    assert run("flows")[1].split("\t")[:4] == ["add", "1", "Local", "here"]
    assert run("agents")[1].split("\t")[:5] == ["one", "alive", "1/4", "here", "process"]
    (shown,) = json.loads(run("agents", "--json")[1])
    assert (shown["name"], shown["alive"], shown["limit"]) == ("one", True, 4)


def test_migrate_says_that_the_queue_is_up_to_date(run, home):
    assert run("migrate") == (0, "", f"sqlite:{home}/queue.db is up to date\n")


def test_a_home_can_be_given(run, home):
    assert run("migrate", "--home", str(home / "other"))[0] == 0
    assert (home / "other" / "queue.db").exists()


# An agent


HELLO = """
from flow_agent import flow

@flow(labels=["gpu"])
def hello(name="you"):
    print("hello", name)
    return {"greeted": name}
"""


def test_a_flow_goes_all_the_way_from_its_file_to_its_result(run, tmp_path):
    (tmp_path / "flows.py").write_text(HELLO)
    run("register", str(tmp_path / "flows.py"))
    run_id = run("submit", "hello", "-p", "name=Ada")[1].strip()

    with installed("start", "--until-empty", "-l", "gpu", "--log-format", "json") as process:
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, "")
    assert [json.loads(each)["event"] for each in err.splitlines()] == [
        "agent.started",
        "attempt.ended",
        "agent.stopped",
    ]
    assert run("logs", run_id)[1] == "hello Ada\n"
    assert json.loads(run("result", run_id)[1]) == {"greeted": "Ada"}
    assert "succeeded on agent" in run("why", run_id)[1]


def test_an_agent_leaves_alone_what_it_has_no_label_for(run, tmp_path):
    (tmp_path / "flows.py").write_text(HELLO)
    run("register", str(tmp_path / "flows.py"))
    run_id = run("submit", "hello")[1].strip()

    with installed("start", "--until-empty", "--name", "other") as process:
        process.communicate(timeout=60)

    assert process.returncode == 0
    assert json.loads(run("show", run_id, "--json")[1])["state"] == "queued"


def test_a_second_agent_of_the_same_name_is_refused(run):
    with installed("start", "--name", "one") as first:
        wait_until(lambda: run("agents")[1].startswith("one\talive"))
        with installed("start", "--name", "one") as second:
            out, err = second.communicate(timeout=60)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)

    assert (second.returncode, out) == (1, "")
    assert "an agent named 'one' already works" in err
    assert first.returncode == 0


def test_a_name_that_cannot_be_is_refused(run):
    code, _, err = run("start", "--name", "a/b")

    assert code == 2
    assert "agent name 'a/b' is not a name" in err


def test_cancelling_says_what_it_waits_for_and_ends_where_no_agent_lives(run, flow):
    async def lost(queue) -> str:
        ((one,), _) = await operations.submit_runs(queue, "add", {"a": 1})
        (claim,) = await queue.claim(agent(), 1, "request")
        await queue.started(claim, "ref")
        return one.id

    run_id = with_queue(lost, leases=Leases(claimed=3, running=3))

    code, _, err = run("cancel", run_id, "--wait")

    waiting, hint, ended = err.splitlines()
    assert code == 0
    assert waiting.startswith("waiting: agent 'one' has run it for ")
    assert waiting.endswith("and was asked to cancel it; that agent is not listed any more")
    assert hint.startswith("hint: start an agent: `flow-agent start -l here`")
    assert f"run {run_id} cancelled" in ended


def test_waiting_for_a_run_that_nobody_takes_says_so(flow):
    with installed("submit", "add", "-p", "a=1", "--wait") as process:
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert "waits, and no agent is alive" in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("width", "head"),
    [
        (200, ["id", "flow", "state", "reason", "created", "took", "agent"]),
        (90, ["id", "flow", "state", "reason", "created", "UTC", "took", "agent"]),
        (80, ["id", "flow", "state", "reason", "created", "UTC", "took"]),
        (70, ["id", "flow", "state", "created", "UTC"]),
    ],
)
def test_a_narrow_terminal_shows_each_run_on_one_line(width, head, flow, monkeypatch):
    run_id = with_queue(lambda queue: operations.submit_runs(queue, "add", {"a": 1}))[0][0].id
    work(Outcome(state=State.FAILED, reason=Reason.PARAMETERS_INVALID, detail="d" * 200))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", screen := Terminal())

    main(("runs",))

    shown = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()).splitlines()
    assert shown[0].split() == head
    assert len(shown) == 2
    assert shown[1].startswith(run_id)
    assert len(shown[1]) <= width


def test_files_of_one_name_are_worked_on_side_by_side_and_one_file_only_once(tmp_path):
    with contextlib.ExitStack() as sessions:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "flows.py").write_text(
                f"from flow_agent import flow\n@flow\ndef {name}(): return '{name}' + 'x' * 3_000_000\n"
            )
            said = tmp_path / f"{name}.said"
            process = sessions.enter_context(
                subprocess.Popen(
                    [COMMAND, "dev", "flows.py"],
                    cwd=tmp_path / name,
                    stdout=sessions.enter_context(said.open("w")),
                    stderr=subprocess.STDOUT,
                )
            )
            sessions.callback(process.send_signal, signal.SIGINT)
            wait_until(lambda said=said: "waiting for a change" in said.read_text(), 30)
            assert f"returned '{name}xxx" in said.read_text()
            assert "(3000005 characters in all)" in said.read_text()
            assert len(said.read_text()) < 5_000
        again = subprocess.run(
            [COMMAND, "dev", str(tmp_path / "one/../two/flows.py")],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert again.returncode == 1
    message, hint = again.stderr.splitlines()
    assert "another `flow-agent dev` runs" in message
    assert "--home FOLDER" in hint


def test_dev_runs_a_file_again_after_each_change_and_survives_mistakes(run, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    file, said = folder / "flows.py", tmp_path / "said"
    file.write_text(HELLO)

    with (
        said.open("w") as target,
        subprocess.Popen(
            [COMMAND, "dev", str(file), "-p", "name=Ada"], stdout=target, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: "returned {'greeted': 'Ada'}" in said.read_text(), 30)
            file.write_text("no python at all(")
            wait_until(lambda: "was never closed" in said.read_text(), 30)
            file.write_text(HELLO.replace("hello", "goodbye"))
            wait_until(lambda: "returned" in said.read_text().rpartition("changed")[2], 30)
            file.write_text(HELLO.replace("print(", "import time; print('sleeping'); time.sleep(100); print("))
            wait_until(lambda: "sleeping" in said.read_text(), 30)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)

    assert process.returncode == 0
    assert "goodbye Ada" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert run("flows") == (0, "", "")


# What went wrong in the program


def test_a_mistake_of_ours_is_one_line_and_a_file_with_the_traceback(home, capsys):
    try:
        raise ZeroDivisionError("inside")
    except ZeroDivisionError as error:
        code = report(error)

    (crash,) = (home / "crashes").iterdir()
    err = capsys.readouterr().err
    assert code == 1
    assert str(crash) in err
    assert "report it" in err
    assert "Traceback" not in err
    assert "ZeroDivisionError: inside" in crash.read_text()
    assert crash.stat().st_mode & 0o777 == 0o600


def test_an_error_inside_task_groups_is_told_as_the_error_it_is(capsys):
    code = report(ExceptionGroup("one", [ExceptionGroup("two", [QueueError("broken", hint="mend it")])]))

    assert code == 1
    assert capsys.readouterr().err == "flow-agent: broken\nhint: mend it\n"


def test_of_several_errors_for_people_the_first_is_told(capsys):
    assert report(ExceptionGroup("two", [InvalidInput("first"), FlowAgentError("second")])) == 2
    assert capsys.readouterr().err == "flow-agent: first\n"


def test_a_prune_that_fails_tells_what_has_gone_before(run, flow, monkeypatch):
    run("submit", "add", "-p", "a=1")
    work(succeeded(), LogLine(attempt=1, source="flow", seq=1, time=1.0, level="INFO", text="said"))

    def away(*_):
        raise QueueUnavailable("the queue is away", hint="wait")

    monkeypatch.setattr(pruning, "unused", away)
    code, out, err = run("prune", "--older-than", "0s")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "removed 1 run, 1 line of their logs, 0 registrations, 0 agents, then it failed",
        "flow-agent: the queue is away",
        "hint: wait",
    ]
    assert json.loads(run("runs", "--json")[1]) == []


@pytest.mark.parametrize("days", ["nan", "inf", "1e400", "-inf", "1e9", "0", "-1"])
def test_a_token_is_valid_for_a_number_of_days(run, days):
    code, out, err = run("tokens", "create", "x", "--scope", "read", "--days", days)
    assert (code, out) == (2, "")
    assert "a token cannot be valid for" in err
    assert "hint: leave --days out" in err
    assert run("tokens", "list", "--json")[1] == "[]\n"


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "+nans", "+1e400d", "+99999999999999d"])
def test_times_and_spans_are_finite(run, flow, text):
    for words in (("submit", "add", "-p", "a=1", "--at", text), ("prune", "--older-than", text)):
        code, _, err = run(*words)
        assert code == 2
        assert "Traceback" not in err
    assert run("runs", "--json")[1] == "[]\n"


def test_interrupts_are_quiet(capsys):
    assert report(KeyboardInterrupt()) == 130
    assert report(BaseExceptionGroup("one", [KeyboardInterrupt()])) == 130
    assert report(click.exceptions.Abort()) == 130
    assert capsys.readouterr().err == ""


def test_without_a_verb_the_help_is_shown(run):
    code, _, err = run()

    assert code == 2
    assert "Verbs:" in err


def test_every_verb_is_a_command():
    context = click.Context(cli)

    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        assert command.name == verb
