"""The Python client, on a SQLite queue in a home of its own, with an agent played by the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import anyio
import pytest

from flow_agent import client, operations
from flow_agent.client import Handle, handle, register_flow, submit, submit_with
from flow_agent.errors import InvalidInput, NotFound, ParametersInvalid, RunError, SettingsError
from flow_agent.flow import Flow
from flow_agent.model import AgentInfo, LogLine, Outcome, Parameter, Reason, Registration, State

ADD = Registration(
    flow="add",
    kind="pickle",
    storage={"type": "Local"},
    location={},
    parameters=(Parameter(name="flow"), Parameter(name="a")),
)
DONE = Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED, result={"inline": 3})
FAILED = Outcome(state=State.FAILED, reason=Reason.RAISED, detail="ValueError: no")


@pytest.fixture(autouse=True)
def home(own_home) -> Iterator[None]:
    before = set(threading.enumerate())  # servers of other tests
    with_queue(lambda queue: queue.register([ADD]))
    yield
    # A worker thread of the test's own loop may take a moment to end.
    deadline = time.monotonic() + 2
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert set(threading.enumerate()) - before == set()


def with_queue(action):
    async def body():
        settings = client.load()
        async with operations.open_queue(settings.queue) as queue:
            return await action(queue)

    return anyio.run(body)


def work(outcome: Outcome = DONE, *texts: str) -> None:
    async def body(queue) -> None:
        agent = AgentInfo(id="a", name="one", incarnation="i", labels=frozenset({"x"}))
        (claim,) = await queue.claim(agent, 1, "request")
        await queue.started(claim, "ref")
        lines = [LogLine(attempt=1, source="flow", seq=n, time=1.0, text=text) for n, text in enumerate(texts, start=1)]
        await queue.append_logs(claim, lines)
        await queue.finish(claim, outcome)

    with_queue(body)


def test_a_run_is_submitted_watched_and_its_result_read():
    run = submit("add", a=1, flow="a parameter may have any name")

    assert run.state is State.QUEUED
    assert run.run().parameters == {"a": 1, "flow": "a parameter may have any name"}
    work(DONE, "hello", "world")
    assert run.wait(5) is State.SUCCEEDED
    assert run.reason is Reason.COMPLETED
    assert run.result() == 3
    assert [line.text for line in run.logs()] == ["hello", "world"]
    assert [line.text for line in run.logs(follow=True)] == ["hello", "world"]


def test_a_flow_is_as_good_as_its_name():
    assert submit(Flow("add", lambda: None)).run().flow == "add"


def test_submit_with_takes_what_the_command_line_takes():
    run = submit_with("add", {"a": 1}, labels=["x"], priority=4, key="k", at="+1h").run()

    assert (run.labels, run.priority, run.key, run.state) == ({"x"}, 4, "k", State.SCHEDULED)
    assert submit_with("add", key="k").id == run.id


def test_the_due_time_may_be_a_datetime_or_a_number():
    assert submit_with("add", at=datetime(2100, 1, 1, tzinfo=UTC)).run().due_at == 4102444800
    assert submit_with("add", at=4102444800.0).run().due_at == 4102444800


@pytest.mark.parametrize("at", [datetime.max, datetime.max.replace(tzinfo=UTC), 1e18, "+999999999999d"])
def test_a_due_time_beyond_the_calendar_is_refused(at):
    with pytest.raises(InvalidInput, match="no time at which a run can be due"):
        submit_with("add", at=at)


def test_everything_works_while_an_event_loop_runs():
    async def body() -> State:
        run = submit("add", a=1)
        return run.cancel()

    assert anyio.run(body) is State.CANCELLED


def test_a_failed_run_has_no_result_but_a_reason():
    run = submit("add")
    work(FAILED)

    with pytest.raises(RunError, match=r"failed \(raised\): ValueError: no") as caught:
        run.result()

    assert caught.value.reason is Reason.RAISED


def test_a_cancelled_run_says_so_when_its_result_is_asked_for():
    run = submit("add")
    assert run.cancel(wait=True) is State.CANCELLED

    with pytest.raises(RunError, match="was cancelled"):
        run.result()


def test_waiting_ends_at_its_time_limit():
    run = submit("add")
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        run.wait(0.05)
    with pytest.raises(TimeoutError):
        run.result(0.05)

    assert time.monotonic() - began < 5


def test_logs_that_are_not_read_to_their_end_leave_nothing_behind():
    run = submit("add")
    work(DONE, "one", "two")

    lines = run.logs(follow=True)

    assert next(lines).text == "one"
    lines.close()


def test_a_run_of_before_is_found_by_the_beginning_of_its_id():
    run = submit("add")

    assert handle(run.id[:20]).id == run.id
    assert repr(Handle("01jq")) == "<run 01jq>"
    with pytest.raises(NotFound):
        handle("zzzzzz")


def test_what_does_not_fit_is_refused_before_anything_is_submitted():
    with pytest.raises(NotFound):
        submit("no such flow")
    with pytest.raises(ParametersInvalid):
        submit("add", b=1)
    with pytest.raises(InvalidInput):
        submit_with("add", at="soon")

    assert with_queue(lambda queue: queue.runs()) == []


def test_a_script_whose_parameters_look_wrong_is_submitted_with_a_warning():
    script = Registration(flow="s", kind="script", storage={"type": "Local"}, location={}, pinned=False)
    with_queue(lambda queue: queue.register([script]))

    with pytest.warns(UserWarning, match="follows its source") as seen:
        submit("s", a=1)

    assert seen[0].filename == __file__


def test_settings_are_read_at_each_call(monkeypatch, tmp_path):
    submit("add")
    monkeypatch.setenv("FLOW_AGENT_QUEUE", f"sqlite:{tmp_path}/other.db")
    with pytest.raises(NotFound):
        submit("add")

    monkeypatch.setenv("FLOW_AGENT_QEUE", "x")
    with pytest.raises(SettingsError):
        submit("add")


def test_a_flow_registers_itself():
    def double(n: int) -> int:
        return 2 * n

    stored = register_flow(Flow("double", double), labels=["eu"])

    assert (stored.flow, stored.version) == ("double", 1)
    assert "eu" in stored.labels
    assert submit("double", n=2).run().labels >= {"eu"}
