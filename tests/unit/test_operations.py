"""What the command line and the client share, on real queues."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from contextlib import aclosing
from datetime import datetime

import anyio
import pytest

from flow_agent import operations
from flow_agent.errors import InvalidInput, NotFound, ParametersInvalid, QueueUnavailable, ResultError
from flow_agent.model import AgentInfo, LogLine, Outcome, Parameter, Reason, Registration, Run, State
from flow_agent.ports import Leases
from flow_agent.results import LocalResult
from flow_agent.why import explain

pytestmark = pytest.mark.anyio

ADD = Registration(
    flow="add",
    kind="pickle",
    storage={"type": "Local"},
    location={},
    labels=("here",),
    parameters=(Parameter(name="a", required=True), Parameter(name="b", default=2)),
)
DONE = Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED, result={"inline": 3})


@pytest.fixture(params=["memory", "sqlite"])
async def queue(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/queue.db"
    async with operations.open_queue(url) as opened:
        await opened.register([ADD])
        yield opened


async def submitted(queue, **options) -> Run:
    (run,), _ = await operations.submit_runs(queue, "add", {"a": 1}, **options)
    return run


async def claimed(queue):
    agent = AgentInfo(id="a", name="one", incarnation="i", labels=frozenset({"here", "extra"}))
    (claim,) = await queue.claim(agent, 1, f"request {time.monotonic_ns()}")
    return claim


async def end(queue, outcome: Outcome = DONE) -> None:
    claim = await claimed(queue)
    await queue.started(claim, "ref")
    await queue.finish(claim, outcome)


@pytest.mark.parametrize("url", ["queue.db", "/var/queue.db", "", ":x", "post gres:x"])
async def test_what_is_no_queue_url_is_refused_with_an_example(url):
    with pytest.raises(InvalidInput) as caught:
        operations.open_queue(url)

    assert "sqlite:" in caught.value.hint


async def test_a_queue_that_nothing_opens_is_refused_with_what_is_there():
    with pytest.raises(InvalidInput, match="installed: http, https, memory, postgresql, sqlite"):
        operations.open_queue("carrier-pigeon://loft".replace("-", ""))


async def test_a_run_is_submitted_with_the_labels_of_flow_and_submission(queue):
    run = await submitted(queue, labels=["extra"], priority=3)

    assert (run.flow, run.version, run.priority, run.parameters) == ("add", 1, 3, {"a": 1})
    assert run.labels == {"here", "extra"}
    assert run.state is State.QUEUED


async def test_a_run_submitted_for_later_is_scheduled(queue):
    assert (await submitted(queue, at=time.time() + 60)).state is State.SCHEDULED


async def test_equal_runs_are_submitted_together(queue):
    runs, warning = await operations.submit_runs(queue, "add", {"a": 1}, count=3)

    assert len({run.id for run in runs}) == 3
    assert [run.id for run in runs] == sorted(run.id for run in runs)
    assert warning == ""


@pytest.mark.parametrize("count", [0, -1, operations.MOST_AT_ONCE + 1])
async def test_a_count_that_cannot_be_is_refused(queue, count):
    with pytest.raises(InvalidInput, match="count is"):
        await operations.submit_runs(queue, "add", {"a": 1}, count=count)


async def test_a_key_names_one_run(queue):
    first, second = await submitted(queue, key="k"), await submitted(queue, key="k")
    assert first.id == second.id

    with pytest.raises(InvalidInput, match="key"):
        await submitted(queue, key="k2", count=2)


async def test_parameters_that_do_not_fit_are_refused_and_nothing_is_submitted(queue):
    with pytest.raises(ParametersInvalid):
        await operations.submit_runs(queue, "add", {"c": 1})

    assert await queue.runs() == []


async def test_for_a_script_that_follows_its_source_they_are_a_warning(queue):
    script = Registration(flow="script", kind="script", storage={"type": "Local"}, location={}, pinned=False)
    await queue.register([script])

    (run,), warning = await operations.submit_runs(queue, "script", {"c": 1})

    assert run.parameters == {"c": 1}
    assert "follows its source" in warning


async def test_a_process_for_a_flow_in_an_image_is_refused_at_submit_whoever_registered_it(queue):
    given = {"kind": "image", "storage": {"type": "Docker"}, "location": {}, "launcher": "process"}
    await queue.register([Registration(flow="local", **given)])

    with pytest.raises(InvalidInput, match="lies in an image") as caught:
        await operations.submit_runs(queue, "local", {})

    assert "DockerRun()" in caught.value.hint


async def test_a_flow_that_is_not_there_or_a_label_that_is_none_is_refused(queue):
    with pytest.raises(NotFound):
        await operations.submit_runs(queue, "ad", {})
    with pytest.raises(InvalidInput):
        await submitted(queue, labels=[" "])


async def test_a_retry_is_a_new_run_of_the_same_version_that_names_the_old_one(queue):
    run = await submitted(queue, labels=["extra"], priority=7)
    with pytest.raises(InvalidInput, match="is queued, expected one that has ended"):
        await operations.retry_run(queue, run.id)
    await end(queue)
    await queue.register([ADD])

    again = await operations.retry_run(queue, run.id)

    assert again.id != run.id
    assert (again.retry_of, again.version, again.priority) == (run.id, 1, 7)
    assert (again.labels, again.parameters) == (run.labels, run.parameters)


async def test_waiting_gives_the_run_when_it_has_ended(queue):
    run = await submitted(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end, queue)
        with anyio.fail_after(5):
            ended = await operations.wait_run(queue, run.id)

    assert ended.state is State.SUCCEEDED


class Restarting:
    """A queue that does not answer now and then."""

    def __init__(self, queue) -> None:
        self.queue, self.asked = queue, 0

    def _away(self) -> None:
        self.asked += 1
        if self.asked in {2, 4}:
            raise QueueUnavailable("the queue restarts")

    async def get(self, run_id):
        self._away()
        return await self.queue.get(run_id)

    async def reap(self):
        self._away()
        return await self.queue.reap()

    async def logs(self, run_id, **options):
        self._away()
        return await self.queue.logs(run_id, **options)


async def test_a_queue_that_restarts_does_not_end_the_waiting(queue):
    run = await submitted(queue)
    restarting = Restarting(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(operations.wait_run, restarting, run.id)
        with anyio.fail_after(10):
            while restarting.asked < 5:
                await anyio.sleep(0.01)
            await end(queue)

    assert (await queue.get(run.id)).state is State.SUCCEEDED
    assert await lines_of(Restarting(queue), run.id) == []


@pytest.mark.parametrize("how", ["wait", "cancel", "follow"])
async def test_who_waits_learns_that_the_agent_was_lost(how):
    """No agent lives that could find it."""
    async with operations.open_queue("memory:", leases=Leases(claimed=0.1, running=0.1)) as queue:
        await queue.register([ADD])
        run = await submitted(queue)
        await queue.started(await claimed(queue), "ref")
        with anyio.fail_after(10):
            match how:
                case "wait":
                    await operations.wait_run(queue, run.id)
                case "cancel":
                    await operations.cancel_run(queue, run.id, wait=True)
                case "follow":
                    assert await lines_of(queue, run.id, follow=True) == []
        ended = await queue.get(run.id)

    assert ended.state is (State.CANCELLED if how == "cancel" else State.FAILED)


async def test_waiting_stops_at_its_time_limit_and_says_where_the_run_stands(queue):
    run = await submitted(queue)

    with pytest.raises(TimeoutError, match=r"is still queued after 0\.05 s"):
        await operations.wait_run(queue, run.id, 0.05)


async def test_a_waiting_run_is_cancelled_at_once(queue):
    run = await submitted(queue)

    assert (await operations.cancel_run(queue, run.id, wait=True)).state is State.CANCELLED


async def lines_of(queue, run_id: str, **options) -> list[str]:
    async with aclosing(operations.follow_logs(queue, run_id, **options)) as lines:
        return [line.text async for line in lines]


def log(number: int) -> LogLine:
    return LogLine(attempt=1, source="flow", seq=number, time=1.0, text=f"line {number}")


async def test_logs_are_what_is_there_however_much(queue):
    run = await submitted(queue)
    claim = await claimed(queue)
    await queue.started(claim, "ref")
    await queue.append_logs(claim, [log(n) for n in range(1, 2502)])

    texts = await lines_of(queue, run.id)

    assert texts == [f"line {n}" for n in range(1, 2502)]


async def test_followed_logs_end_with_the_run_and_miss_nothing(queue):
    run = await submitted(queue)

    async def work() -> None:
        claim = await claimed(queue)
        await queue.started(claim, "ref")
        for n in range(1, 30):
            await queue.append_logs(claim, [log(n)])
            await anyio.sleep(0.002)
        await queue.finish(claim, DONE)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        with anyio.fail_after(10):
            texts = await lines_of(queue, run.id, follow=True)

    assert texts == [f"line {n}" for n in range(1, 30)]


def ended_run(result, state: State = State.SUCCEEDED) -> Run:
    return Run(id="01jq", flow="add", version=1, state=state, result=result)


def stored(tmp_path, content: bytes, form: str) -> dict:
    source, store = tmp_path / "source", LocalResult(dir=tmp_path / "results")
    source.write_bytes(content)
    store.write("add/01jq/1", source)
    return {
        "store": store.describe(),
        "location": "add/01jq/1",
        "format": form,
        "size": len(content),
        "digest": hashlib.sha256(content).hexdigest(),
    }


async def test_a_result_kept_with_the_run_is_read():
    assert await operations.read_result(ended_run({"inline": None})) is None
    assert await operations.read_result(ended_run({"inline": {"a": [1]}})) == {"a": [1]}


async def test_a_stored_json_result_is_read_back(tmp_path):
    assert await operations.read_result(ended_run(stored(tmp_path, b'{"a": 1}', "json"))) == {"a": 1}


async def test_a_pickled_result_is_loaded_only_when_that_is_allowed(tmp_path):
    run = ended_run(stored(tmp_path, pickle.dumps({1, 2}), "pickle"))

    with pytest.raises(ResultError) as caught:
        await operations.read_result(run)
    assert "--unpickle" in caught.value.hint

    assert await operations.read_result(run, unpickle=True) == {1, 2}


class Unshowable:
    def __repr__(self):
        raise KeyError("half made")


def test_a_value_that_python_cannot_write_is_an_error_with_a_way_out():
    with pytest.raises(ResultError, match="is a Unshowable that cannot be shown: KeyError") as caught:
        operations.python_text("01jq", Unshowable())

    assert "result()" in caught.value.hint


async def test_a_pickle_that_does_not_load_is_no_traceback(tmp_path):
    run = ended_run(stored(tmp_path, b"cno_such_module\nthing\n.", "pickle"))

    with pytest.raises(ResultError, match="cannot be unpickled here: ModuleNotFoundError"):
        await operations.read_result(run, unpickle=True)


async def test_a_result_that_was_changed_is_refused(tmp_path):
    run = ended_run(stored(tmp_path, b"[1]", "json"))
    (tmp_path / "results/add/01jq/1").write_bytes(b"[2]")

    with pytest.raises(ResultError, match="is not what the run wrote"):
        await operations.read_result(run)


async def test_a_result_that_is_gone_says_so(tmp_path):
    run = ended_run(stored(tmp_path, b"[1]", "json"))
    os.unlink(tmp_path / "results/add/01jq/1")

    with pytest.raises(ResultError, match="there is no result at"):
        await operations.read_result(run)


@pytest.mark.parametrize(
    ("state", "said"),
    [(State.RUNNING, "has no result yet"), (State.FAILED, "ended as failed"), (State.SUCCEEDED, "no result was kept")],
)
async def test_a_run_without_a_result_says_why(state, said):
    with pytest.raises(NotFound, match=said):
        await operations.read_result(ended_run(None, state))


async def test_times_are_iso_or_from_now():
    assert operations.parse_time("2030-01-31T08:00:00Z") == 1896076800
    assert operations.parse_time("2030-01-31T08:00:00+02:00") == 1896069600
    assert operations.parse_time("2030-01-31 08:00") == datetime(2030, 1, 31, 8).timestamp()
    assert [operations.parse_time(text, now=10) for text in ("+30s", "+1.5m", "+2h", "+1d")] == [40, 100, 7210, 86410]


@pytest.mark.parametrize("text", ["+999999999999d", f"+{'9' * 400}d", "9999-12-31T23:59:59Z", "9999-12-31T23:59"])
async def test_a_time_beyond_the_calendar_is_refused_with_the_last_one(text):
    with pytest.raises(InvalidInput) as caught:
        operations.parse_time(text)

    assert "before 9999-12-31" in caught.value.hint


@pytest.mark.parametrize("at", [1e15, float("inf"), float("nan")])
async def test_no_run_is_submitted_for_a_time_beyond_the_calendar(queue, at):
    with pytest.raises(InvalidInput, match="is no time at which a run can be due"):
        await submitted(queue, at=at)

    assert await queue.runs() == []


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        (8.64e16, "9999-12-31T23:59:59.999999+00:00"),
        (float("inf"), "9999-12-31T23:59:59.999999+00:00"),
        (-1e15, "0001-01-01T00:00:00.000000+00:00"),
    ],
)
async def test_a_time_that_is_in_the_queue_is_shown_whatever_it_is(when, shown):
    assert operations.iso(when) == shown
    late = Run(id="01jq", flow="add", version=1, state=State.SCHEDULED, due_at=when)
    assert explain(late, ADD, [], now=0).sentence


@pytest.mark.parametrize("text", ["", "tomorrow", "+5", "5m", "+-5m", "2030-13-01", "+5 minutes"])
async def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(InvalidInput) as caught:
        operations.parse_time(text)

    assert "+30s" in caught.value.hint


async def test_a_run_as_json_has_the_promised_keys_and_times_in_utc_with_microseconds(queue):
    run = await submitted(queue)

    shown = json.loads(json.dumps(operations.run_json(run)))

    assert " ".join(shown) == (
        "id flow version state reason detail attempt labels parameters priority due_at created_at claimed_at"
        " started_at finished_at agent launcher ref revision exit_code result retry_of"
    )
    assert shown["labels"] == ["here"]
    assert shown["finished_at"] is None
    assert operations.iso(1.5) == "1970-01-01T00:00:01.500000+00:00"


async def test_an_agent_as_json_says_whether_it_is_alive():
    def alive(silent: float) -> bool:
        agent = AgentInfo(id="a", name="one", incarnation="i", silent=silent)
        return operations.agent_json(agent, alive_within=30)["alive"]

    assert alive(29)
    assert not alive(31)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("30d", 2592000), ("2w", 1209600)]
)
def test_a_span_of_time_is_a_number_and_a_unit(text, seconds):
    assert operations.parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1 y", "1e3s", "9999999999s", "1d2h"])
def test_what_is_no_span_of_time_is_refused(text):
    with pytest.raises(InvalidInput, match="is no time span"):
        operations.parse_age(text)


async def test_a_url_is_shown_without_its_password():
    assert operations.shown_url("postgresql://me:pass@host/db") == "postgresql://host/db"
    assert operations.shown_url("postgresql://me:p@ss@host/db?password=x") == "postgresql://host/db"
    assert operations.shown_url("postgresql://me:p/a@ss@host/db") == "postgresql://host/db"
    assert operations.shown_url("host=h password=s3cret user=me") == "host=h password=*** user=me"
    assert operations.shown_url("host=h password='s3 c\\'ret' user=me") == "host=h password=*** user=me"
    assert operations.shown_url("sqlite:/tmp/a@b.db") == "sqlite:/tmp/a@b.db"


def test_commands_that_write_no_log_do_not_pay_for_one() -> None:
    program = "import sys, flow_agent.cli.runs; print([name for name in ('structlog', 'httpx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
