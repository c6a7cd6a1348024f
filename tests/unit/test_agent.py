"""The daemon in virtual time, on the memory queue, with a launcher and a storage that do as the test says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from flow_agent.agent import Agent, Pace
from flow_agent.errors import FetchError, LaunchError, QueueUnavailable
from flow_agent.execute import Tools
from flow_agent.model import (
    AgentInfo,
    Ending,
    LaunchSpec,
    LogLine,
    Reason,
    Registration,
    Run,
    State,
    Submission,
)
from flow_agent.ports import Fetched, Leases, Queue, Sink
from flow_agent.prepare import Means
from flow_agent.queues.memory import open_queue
from flow_agent.retry import Policy
from virtual import LoopClock, VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture(autouse=True)
async def limiter() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.limiter = anyio.to_thread.current_default_thread_limiter()


@dataclass
class Script:
    """What attempts do: sleep so long, then end so. ``ends`` are used up one by one; the last one stays."""

    seconds: float = 1.0
    ends: list[Ending] = field(default_factory=lambda: [OK])
    lines: list[str] = field(default_factory=list)


OK = Ending(code=0, receipt={"ok": True, "result": None}, result=None)
FAILED = Ending(code=1, receipt={"ok": False, "reason": "raised", "detail": "ValueError: no"})


class FakeLauncher:
    """Attempts that exist in the loop's time only; keeps their deadline as a keeper does."""

    name, scope = "process", ""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.created: list[LaunchSpec] = []
        self.log: list[tuple[float, str, str]] = []
        self.deadlines: dict[str, float] = {}
        self.stopped: dict[str, anyio.Event] = {}
        self.gone: dict[str, anyio.Event] = {}
        self.refuse: LaunchError | None = None

    def note(self, what: str, ref: str) -> None:
        self.log.append((anyio.current_time(), what, ref))

    async def create(self, spec: LaunchSpec) -> str:
        if self.refuse is not None:
            raise self.refuse
        ref = Path(spec.folder).name
        self.created.append(spec)
        self.deadlines[ref] = spec.deadline
        self.stopped[ref], self.gone[ref] = anyio.Event(), anyio.Event()
        self.note("create", ref)
        return ref

    async def go(self, ref: str) -> None:
        self.note("go", ref)
        self.gone[ref].set()

    async def extend(self, ref: str, deadline: float) -> None:
        self.deadlines[ref] = deadline

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        await self.gone[ref].wait()
        for i, text in enumerate(self.script.lines):
            await sink([LogLine(attempt=attempt, source="flow", seq=i + 1, time=1.0, text=text)])
        end = anyio.current_time() + self.script.seconds
        while anyio.current_time() < min(end, self.deadlines[ref]):
            with anyio.CancelScope(deadline=min(end, self.deadlines[ref])):
                await self.stopped[ref].wait()
                self.note("ended by stop", ref)
                return Ending(signal=15, ended_by="stop")
        self.note("ended", ref)
        if anyio.current_time() < end:
            return Ending(signal=9, ended_by="deadline")
        ends = self.script.ends
        return ends.pop(0) if len(ends) > 1 else ends[0]

    async def stop(self, ref: str, grace: float) -> None:
        if ref in self.stopped:
            self.stopped[ref].set()

    async def adopt(self, refs: Collection[str]) -> None:
        self.log.append((anyio.current_time(), "adopt", ",".join(sorted(refs))))

    async def remove(self, ref: str) -> None:
        self.note("remove", ref)

    def times(self, what: str) -> list[float]:
        return [when for when, event, _ in self.log if event == what]


class FakeStorage:
    remote = False

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.fail: Callable[[int], Exception | None] = lambda _: None
        self.seconds = 0.0

    async def fetch(self, registration: Registration, into: Path, secrets: Any, known: Any = None) -> Fetched:
        self.calls.append(anyio.current_time())
        await anyio.sleep(self.seconds)
        if (error := self.fail(len(self.calls))) is not None:
            raise error
        payload = {"kind": "script", "root": "payload", "path": "f.py", "flow": "f"}
        return Fetched(payload=payload, revision="r1", digest="r1")


class Outage:
    """A queue that can be cut off."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self.down = queue, False

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._queue, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                raise QueueUnavailable("cut off")
            return await verb(*args, **kwargs)

        return call


@dataclass
class World:
    queue: Outage
    plain: Queue
    launcher: FakeLauncher
    storage: FakeStorage
    spool: Path
    leases: Leases

    def agent(self, *, limit: int = 2, until_empty: bool = False, name: str = "a", **changes: Any) -> Agent:
        info = AgentInfo(id=name, name=name, incarnation=f"{name}-{anyio.current_time()}", limit=limit, **changes)
        tools = Tools(
            queue=self.queue,
            launchers={"process": self.launcher},
            means=Means(storage=lambda _: self.storage, fetch=Policy(), grace=5.0),
            spool=self.spool,
            leases=self.leases,
            now=LoopClock().now,
        )
        return Agent(info, tools, Pace(), until_empty=until_empty)

    async def register(self, **changes: Any) -> None:
        registration = Registration(flow="f", kind="script", storage={"type": "Local"}, location={}, **changes)
        await self.plain.register([registration])

    async def submit(self, count: int = 1, **changes: Any) -> list[Run]:
        return await self.plain.submit([Submission(flow="f", **changes)] * count)

    @asynccontextmanager
    async def serving(self, agent: Agent) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: agent.serve(signals=False))
            yield
            agent.drain()
            agent.drain()

    async def ended(self, run: Run, within: float = 100_000) -> Run:
        with anyio.fail_after(within):
            while not (now := await self.plain.get(run.id)).state.terminal:
                await anyio.sleep(0.05)
            return now


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def world(tmp_path: Path, script: Script) -> AsyncIterator[World]:
    leases = Leases(claimed=30, running=120)
    async with open_queue("memory:", leases=leases, clock=LoopClock()) as queue:
        yield World(Outage(queue), queue, FakeLauncher(script), FakeStorage(), tmp_path / "spool", leases)


async def test_it_never_holds_more_runs_than_its_limit(world: World) -> None:
    await world.register()
    await world.submit(7)
    await world.agent(limit=2, until_empty=True).serve(signals=False)
    open_now = most = 0
    for _, what, _ in world.launcher.log:
        open_now += {"create": 1, "ended": -1}.get(what, 0)
        most = max(most, open_now)
    assert (most, len(world.launcher.created)) == (2, 7)
    assert {run.state for run in await world.plain.runs()} == {State.SUCCEEDED}


async def test_the_slot_of_what_has_ended_is_free_while_its_end_is_written(world: World) -> None:
    async def slow(*args: Any, **kwargs: Any) -> Run:
        await anyio.sleep(10)
        return await world.plain.finish(*args, **kwargs)

    world.queue.finish = slow
    await world.register()
    await world.submit(2)
    await world.agent(limit=1, until_empty=True).serve(signals=False)
    assert world.launcher.times("create")[1] - world.launcher.times("ended")[0] < 1
    assert {run.state for run in await world.plain.runs()} == {State.SUCCEEDED}


async def test_an_attempt_that_cannot_be_stopped_is_reported_as_a_fault_of_ours(world: World, script: Script) -> None:
    async def broken(ref: str, grace: float) -> None:
        if grace:
            raise RuntimeError("no answer")

    script.seconds = math.inf
    world.launcher.stop = broken
    await world.register(timeout=5.0)
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        run = await world.ended(run)
    assert (run.state, run.reason) == (State.FAILED, Reason.AGENT_ERROR)
    assert "no answer" in run.detail


async def test_user_code_runs_only_after_started_was_written(world: World) -> None:
    await world.register()
    (run,) = await world.submit()
    states = []
    go = world.launcher.go

    async def looked(ref: str) -> None:
        states.append((await world.plain.get(run.id)).state)
        await go(ref)

    world.launcher.go = looked
    await world.agent(until_empty=True).serve(signals=False)
    assert states == [State.RUNNING]


async def test_a_failed_attempt_is_tried_again_after_its_delay(world: World, script: Script) -> None:
    script.ends = [FAILED, FAILED, OK]
    await world.register(retries=2, retry_delay=60.0)
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    run = await world.plain.get(run.id)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 3)
    first, second, third = world.launcher.times("create")
    assert 60 <= second - first <= 63
    assert 60 <= third - second <= 63


async def test_retries_end(world: World, script: Script) -> None:
    script.ends = [FAILED]
    await world.register(retries=1)
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    run = await world.plain.get(run.id)
    assert (run.state, run.reason, run.attempt, run.detail) == (State.FAILED, Reason.RAISED, 2, "ValueError: no")


async def test_a_time_limit_ends_the_attempt(world: World, script: Script) -> None:
    script.seconds = math.inf
    await world.register(timeout=300.0)
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        run = await world.ended(run)
    assert (run.state, run.reason) == (State.FAILED, Reason.TIMED_OUT)
    assert "300 s" in run.detail
    assert world.launcher.times("ended by stop")[0] - world.launcher.times("go")[0] == pytest.approx(300, abs=1)


async def test_a_time_limit_does_not_cover_fetching(world: World, script: Script) -> None:
    world.storage.seconds, script.seconds = 20.0, 4.0
    await world.register(timeout=5.0)
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    assert (await world.plain.get(run.id)).state is State.SUCCEEDED


async def test_leases_are_kept_for_as_long_as_the_attempt_takes(world: World, script: Script) -> None:
    script.seconds = 86_400.0
    await world.register()
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    run = await world.plain.get(run.id)
    assert (run.state, run.claim) == (State.SUCCEEDED, 1)


async def test_cancelling_ends_the_attempt_at_once(world: World, script: Script) -> None:
    script.seconds = math.inf
    await world.register()
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        while not world.launcher.times("go"):
            await anyio.sleep(0.1)
        await anyio.sleep(100)
        asked = anyio.current_time()
        await world.plain.cancel(run.id)
        run = await world.ended(run)
    assert (run.state, run.reason) == (State.CANCELLED, Reason.CANCELLED)
    assert world.launcher.times("ended by stop")[0] - asked < 1.0


async def test_cancelling_while_it_is_fetched_starts_nothing(world: World) -> None:
    world.storage.seconds = 25.0
    await world.register()
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        while not world.storage.calls:
            await anyio.sleep(0.1)
        await world.plain.cancel(run.id)
        run = await world.ended(run)
    assert (run.state, run.attempt, world.launcher.created) == (State.CANCELLED, 0, [])


async def test_an_agent_cut_off_from_the_queue_has_ended_its_attempt_before_another_may_start_it(
    world: World, script: Script
) -> None:
    script.seconds = math.inf
    await world.register(retries=1)
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        while not world.launcher.times("go"):
            await anyio.sleep(0.1)
        await anyio.sleep(50)
        world.queue.down = True
        while not world.launcher.times("ended"):
            await anyio.sleep(0.1)
        ended = anyio.current_time()
        while (await world.plain.get(run.id)).state is State.RUNNING:
            await anyio.sleep(0.1)
            await world.plain.reap()
        assert ended <= anyio.current_time()
        assert (await world.plain.get(run.id)).reason is Reason.AGENT_LOST
        world.queue.down = False


async def test_a_short_outage_costs_nothing(world: World, script: Script) -> None:
    script.seconds, script.lines = 60.0, ["one", "two"]
    await world.register()
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        while not world.launcher.times("go"):
            await anyio.sleep(0.1)
        world.queue.down = True
        await anyio.sleep(80)
        world.queue.down = False
        run = await world.ended(run)
    assert (run.state, run.claim) == (State.SUCCEEDED, 1)
    assert [line.text for line in await world.plain.logs(run.id)] == ["one", "two"]


async def test_a_claim_that_waited_through_an_outage_holds_from_when_it_was_answered(world: World) -> None:
    await world.register()
    async with world.serving(world.agent(limit=1)):
        await anyio.sleep(1)
        world.queue.down = True
        (run,) = await world.submit()
        await anyio.sleep(300)
        world.queue.down = False
        run = await world.ended(run, within=60)
    assert (run.state, run.attempt, run.claim, run.losses) == (State.SUCCEEDED, 1, 1, 0)


async def test_an_attempt_that_could_not_be_started_for_an_outage_is_started_after_it(world: World) -> None:
    await world.register()
    world.storage.seconds = 10.0
    (run,) = await world.submit()
    async with world.serving(world.agent()), world.serving(world.agent(name="b")):
        while not world.storage.calls:
            await anyio.sleep(0.1)
        world.queue.down = True
        await anyio.sleep(300)
        assert len(world.launcher.created) == 1
        world.queue.down = False
        run = await world.ended(run, within=60)
    assert (run.state, run.attempt, run.claim) == (State.SUCCEEDED, 1, 1)


async def test_what_ended_in_an_outage_is_told_before_anybody_takes_it_for_lost(world: World, script: Script) -> None:
    script.seconds, script.lines = 20.0, ["one", "two"]
    await world.register(retries=3)
    runs = await world.submit(4)
    async with world.serving(world.agent()), world.serving(world.agent(name="b")):
        while len(world.launcher.times("go")) < 4:
            await anyio.sleep(0.1)
        world.queue.down = True
        await anyio.sleep(600)  # far longer than any lease
        world.queue.down = False
        ended = [await world.ended(run, within=60) for run in runs]
        logs = [[line.text for line in await world.plain.logs(run.id)] for run in runs]
    assert [(run.state, run.attempt, run.claim) for run in ended] == [(State.SUCCEEDED, 1, 1)] * 4
    assert logs == [["one", "two"]] * 4


async def test_a_time_limit_is_kept_in_an_outage(world: World, script: Script) -> None:
    script.seconds = math.inf
    await world.register(timeout=10)
    (run,) = await world.submit()
    go = world.launcher.go

    async def go_and_lose_the_queue(ref: str) -> None:
        await go(ref)
        world.queue.down = True

    world.launcher.go = go_and_lose_the_queue  # type: ignore[method-assign]  # a fault of this one test
    async with world.serving(world.agent()):
        await anyio.sleep(60)
        ((ended, began),) = zip(world.launcher.times("ended by stop"), world.launcher.times("go"), strict=True)
        world.queue.down = False
        assert (await world.ended(run)).reason is Reason.TIMED_OUT
    assert ended - began == pytest.approx(10, abs=0.1)


async def test_an_outage_is_told_once_with_since_and_why(world: World, script: Script, monkeypatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("flow_agent.events.queue_unavailable", lambda *words: told.append(words))
    monkeypatch.setattr("flow_agent.events.queue_back", lambda seconds: told.append("back"))
    script.seconds = math.inf
    await world.register()
    await world.submit(2)
    agent = world.agent()
    async with world.serving(agent):
        await anyio.sleep(30)
        assert agent.health.away() is None
        world.queue.down = True
        await anyio.sleep(60)
        away = agent.health.away()
        assert away is not None
        assert away.why == "cut off"
        world.queue.down = False
        await anyio.sleep(30)
        assert agent.health.away() is None
    assert [len(told), told[0][1:], told[1]] == [2, (away.since, "cut off"), "back"]


async def test_a_transient_fetch_failure_is_tried_in_place_then_given_back_for_ten_minutes(world: World) -> None:
    world.storage.fail = lambda _: FetchError("bucket 'b': no answer", transient=True)
    await world.register(retries=3)
    (run,) = await world.submit()
    started = anyio.current_time()
    async with world.serving(world.agent()):
        run = await world.ended(run)
    assert (run.state, run.reason, run.attempt) == (State.FAILED, Reason.FETCH_FAILED, 0)
    assert "no answer" in run.detail
    assert 600 <= anyio.current_time() - started <= 800
    assert run.claim > 5
    assert len(world.storage.calls) == 5 * run.claim


async def test_a_fetch_that_succeeds_after_a_while_starts_the_run(world: World) -> None:
    world.storage.fail = lambda number: FetchError("not yet", transient=True) if number < 12 else None
    await world.register()
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        run = await world.ended(run)
    assert (run.state, run.attempt, run.released_since) == (State.SUCCEEDED, 1, None)


async def test_a_lasting_fetch_failure_ends_the_run_at_once(world: World) -> None:
    world.storage.fail = lambda _: FetchError("gone", transient=False, reason=Reason.FLOW_NOT_FOUND, hint="register it")
    await world.register(retries=3)
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    run = await world.plain.get(run.id)
    assert (run.reason, run.attempt, len(world.storage.calls)) == (Reason.FLOW_NOT_FOUND, 0, 1)
    assert run.detail == "gone; register it"


async def test_a_storage_that_asks_for_patience_gets_it(world: World) -> None:
    def fail(number: int) -> Exception | None:
        return FetchError("slow down", transient=True, retry_after=17.0) if number == 1 else None

    world.storage.fail = fail
    await world.register()
    await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    assert world.storage.calls[1] - world.storage.calls[0] >= 17


async def test_a_longer_limit_of_a_host_is_waited_for_in_the_queue_and_told_in_the_runs_log(world: World) -> None:
    """GitHub's may last for minutes: no slot is kept for it."""

    def fail(number: int) -> Exception | None:
        return FetchError("the rate limit is reached", transient=True, retry_after=400.0) if number == 1 else None

    world.storage.fail = fail
    await world.register()
    (run,) = await world.submit()
    async with world.serving(world.agent()):
        run = await world.ended(run)
    assert (run.state, run.claim) == (State.SUCCEEDED, 2)
    assert world.storage.calls[1] - world.storage.calls[0] >= 399
    assert next(line.text for line in await world.plain.logs(run.id)) == (
        "the rate limit is reached; back to the queue for 400 s"
    )


async def test_an_attempt_that_cannot_be_launched_ends_with_the_reason(world: World) -> None:
    world.launcher.refuse = LaunchError("no such interpreter")
    await world.register()
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    run = await world.plain.get(run.id)
    assert (run.state, run.reason, run.detail) == (State.FAILED, Reason.LAUNCH_FAILED, "no such interpreter")


async def test_an_attempt_elsewhere_that_cannot_be_reached_is_handed_over_and_ends_no_other(world: World) -> None:
    bad: set[str] = set()
    launcher: Any = world.launcher
    launcher.scope, launcher.takes_secrets = "somewhere", False
    launcher.hand_over = lambda ref: launcher.note("handed over", ref)
    seen, stops = launcher.wait, launcher.stop

    async def wait(ref: str, *args: Any, **options: Any) -> Ending:
        bad.add(ref) if not bad else None
        if ref in bad:
            raise LaunchError("looking at it is forbidden")
        found: Ending = await seen(ref, *args, **options)
        return found

    async def stop(ref: str, grace: float) -> None:
        if ref in bad:
            raise LaunchError("looking at it is forbidden")
        await stops(ref, grace)

    async def create(spec: LaunchSpec) -> str:
        ref: str = await made(replace(spec, folder=f"/{spec.run_id}-{spec.claim}"))
        return ref

    made = launcher.create
    launcher.wait, launcher.stop, launcher.create = wait, stop, create
    await world.register()
    await world.submit(2)
    async with world.serving(world.agent()):
        with anyio.fail_after(100):
            while not (ended := await world.plain.runs(states=[State.SUCCEEDED, State.FAILED])):
                await anyio.sleep(0.05)
    assert [run.state for run in ended] == [State.SUCCEEDED]
    (other,) = await world.plain.runs(states=[State.RUNNING])
    assert other.agent is None
    assert launcher.times("handed over")


async def test_a_fault_in_one_attempt_does_not_end_the_others(world: World) -> None:
    world.storage.fail = lambda number: ZeroDivisionError("ours") if number == 1 else None
    await world.register()
    await world.submit(3)
    await world.agent(limit=1, until_empty=True).serve(signals=False)
    reasons = sorted(str(run.reason) for run in await world.plain.runs())
    assert reasons == [Reason.AGENT_ERROR, Reason.COMPLETED, Reason.COMPLETED]


async def test_a_drain_waits_for_what_runs_and_claims_nothing_more(world: World, script: Script) -> None:
    script.seconds = 1000.0
    await world.register()
    runs = await world.submit(3)
    agent = world.agent(limit=2)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: agent.serve(signals=False))
        while len(world.launcher.times("go")) < 2:
            await anyio.sleep(0.1)
        agent.drain()
    states = [(await world.plain.get(run.id)).state for run in runs]
    assert states == [State.SUCCEEDED, State.SUCCEEDED, State.QUEUED]
    assert await world.plain.agents() == []


async def test_a_second_signal_ends_attempts_and_gives_unstarted_claims_back(world: World, script: Script) -> None:
    script.seconds = math.inf
    await world.register(retries=1)
    (running,) = await world.submit()
    agent = world.agent(limit=2)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: agent.serve(signals=False))
        while not world.launcher.times("go"):
            await anyio.sleep(0.1)
        world.storage.seconds = 29.0
        (fetching,) = await world.submit()
        while len(world.storage.calls) < 2:
            await anyio.sleep(0.1)
        agent.drain()
        agent.drain()
    running, fetching = await world.plain.get(running.id), await world.plain.get(fetching.id)
    assert (running.state, running.reason, running.attempt) == (State.QUEUED, Reason.AGENT_STOPPING, 1)
    assert (fetching.state, fetching.attempt, fetching.losses) == (State.QUEUED, 0, 0)


async def test_a_drain_does_not_wait_for_a_queue_that_is_away(world: World) -> None:
    agent = world.agent()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: agent.serve(signals=False))
        await anyio.sleep(30)
        world.queue.down = True
        await anyio.sleep(30)
        with anyio.fail_after(30):
            agent.drain()
            while (await world.plain.agents())[0].draining:
                await anyio.sleep(1)


async def test_a_successor_adopts_what_runs_and_gives_the_rest_back(world: World, script: Script) -> None:
    script.seconds = 100.0
    await world.register()
    running, unstarted = await world.submit(2)
    first = AgentInfo(id="a", name="a", incarnation="first")
    (claim,) = await world.plain.claim(first, 1, "q1")
    await world.plain.started(claim, f"{running.id}-1")
    await world.plain.claim(first, 1, "q2")
    ref = f"{running.id}-1"
    world.launcher.stopped[ref], world.launcher.gone[ref] = anyio.Event(), anyio.Event()
    world.launcher.deadlines[ref] = math.inf
    await world.agent(until_empty=True).serve(signals=False)
    assert world.launcher.log[0][1:] == ("adopt", ref)
    running, unstarted = await world.plain.get(running.id), await world.plain.get(unstarted.id)
    assert (running.state, running.attempt, running.claim) == (State.SUCCEEDED, 1, 2)
    assert (unstarted.state, unstarted.attempt, unstarted.losses) == (State.SUCCEEDED, 1, 0)


async def test_until_empty_does_not_wait_for_runs_that_are_due_later(world: World) -> None:
    await world.register()
    (later,) = await world.submit(due_at=LoopClock().now() + 3600)
    (now,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    assert (await world.plain.get(now.id)).state is State.SUCCEEDED
    assert (await world.plain.get(later.id)).state is State.SCHEDULED


async def test_until_empty_waits_for_runs_that_were_given_back_for_another_fetch(world: World) -> None:
    world.storage.fail = lambda number: FetchError("not yet", transient=True) if number < 12 else None
    await world.register()
    (run,) = await world.submit()
    await world.agent(until_empty=True).serve(signals=False)
    assert (await world.plain.get(run.id)).state is State.SUCCEEDED


async def test_a_scheduled_run_starts_when_it_is_due(world: World) -> None:
    await world.register()
    async with world.serving(world.agent()):
        await anyio.sleep(1)
        due = LoopClock().now() + 3600
        (run,) = await world.submit(due_at=due)
        await world.ended(run)
    started = 1_800_000_000.0 + world.launcher.times("go")[0]
    assert 0 <= started - due < 0.5


async def test_a_full_agent_does_not_spin_over_overdue_runs(world: World, script: Script) -> None:
    script.seconds = 5000.0
    await world.register()
    async with world.serving(world.agent(limit=1)):
        await world.submit()
        await anyio.sleep(1)
        await world.submit(due_at=LoopClock().now() + 1)
        calls = 0
        wait = world.plain.wait

        async def counted(seconds: float) -> None:
            nonlocal calls
            calls += 1
            await wait(seconds)

        world.plain.wait = counted
        await anyio.sleep(1000)
        assert calls < 300


async def test_an_agent_told_to_stop_before_the_queue_ever_answered_ends_in_order(world: World) -> None:
    agent = world.agent()
    world.queue.down = True
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: agent.serve(signals=False))
            await anyio.sleep(20)
            agent.drain()
    assert await world.plain.agents() == []


async def test_a_disk_without_room_for_a_spool_is_waited_for(world: World) -> None:
    await world.register()
    (run,) = await world.submit()
    world.spool.parent.mkdir(exist_ok=True)
    world.spool.touch()  # no folder can be made below a file
    async with world.serving(world.agent()):
        while not (waiting := await world.plain.get(run.id)).detail:
            await anyio.sleep(0.1)
        assert (waiting.state, waiting.attempt) == (State.SCHEDULED, 0)
        assert "no folder for the attempt could be made" in waiting.detail
        world.spool.unlink()
        run = await world.ended(run)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 1)


# Attempts that go on without their agent


class FarLauncher(FakeLauncher):
    """Attempts elsewhere: they end when they end, whoever watches."""

    name, scope = "process", "cluster/flows"
    takes_secrets = True

    async def create(self, spec: LaunchSpec) -> str:
        ref = f"{spec.run_id}-{spec.claim}"
        self.created.append(spec)
        self.deadlines[ref] = math.inf
        self.stopped[ref], self.gone[ref] = anyio.Event(), anyio.Event()
        return ref

    async def extend(self, ref: str, deadline: float) -> None: ...

    def hand_over(self, ref: str) -> None:
        self.note("handed over", ref)


@pytest.fixture
def far(world: World, script: Script) -> World:
    script.seconds = 500
    world.launcher = FarLauncher(script)
    world.storage.same_machine = False  # type: ignore[attr-defined]  # a fake, bent for this one test
    return world


FAR = {"launchers": {"process": "cluster/flows"}}


async def test_a_drain_hands_over_what_goes_on_and_does_not_wait(far: World):
    await far.register()
    (run,) = await far.submit()
    agent, began = far.agent(**FAR), anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: agent.serve(signals=False))
        while not far.launcher.times("go"):
            await anyio.sleep(0.1)
        agent.drain()
    assert anyio.current_time() - began < 60
    now = await far.plain.get(run.id)
    assert (now.state, now.attempt, now.agent) == (State.RUNNING, 1, None)
    assert far.launcher.times("ended by stop") == []
    assert len(far.launcher.times("handed over")) == 1


async def test_a_live_agent_goes_on_with_what_another_handed_over(far: World):
    await far.register()
    (run,) = await far.submit()
    first, second = far.agent(**FAR), far.agent(name="b", **FAR)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: first.serve(signals=False))
        while not far.launcher.times("go"):
            await anyio.sleep(0.1)
        async with far.serving(second):
            first.drain()
            now = await far.ended(run)
            assert (now.state, now.agent, now.attempt, now.claim) == (State.SUCCEEDED, "b", 1, 2)
    assert len(far.launcher.created) == 1


async def test_an_attempt_that_another_agent_watches_is_let_alone(far: World):
    await far.register()
    (run,) = await far.submit()
    agent = far.agent(**FAR)
    async with far.serving(agent):
        while not far.launcher.times("go"):
            await anyio.sleep(0.1)
        far.queue.down = True
        await anyio.sleep(130)
        other = AgentInfo(id="b", name="b", incarnation="b-1", **FAR)
        assert len(await far.plain.take_over(other, 1, "t")) == 1
        far.queue.down = False
        while not far.launcher.times("handed over"):
            await anyio.sleep(1)
    assert far.launcher.times("ended by stop") == []
    assert (await far.plain.get(run.id)).state is State.RUNNING


async def test_a_cancelled_attempt_is_ended_before_its_agent_leaves(far: World):
    await far.register()
    (run,) = await far.submit()
    agent = far.agent(**FAR)
    async with far.serving(agent):
        while not far.launcher.times("go"):
            await anyio.sleep(0.1)
        await far.plain.cancel(run.id)
        assert (await far.ended(run, within=60)).state is State.CANCELLED
