"""Which pulls there are, and which calls of an engine wait for which."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from flow_agent.engine import client, images
from flow_agent.engine.client import Address, Engine
from flow_agent.errors import EngineError
from flow_agent.launchers.lookout import Lookout
from flow_agent.launchers.post import Post
from flow_agent.launchers.pulls import Pulls
from flow_agent.model import LaunchSpec

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

SPEC = LaunchSpec(
    run_id="run1",
    flow="f",
    claim=1,
    attempt=1,
    folder="/x/run1-1",
    payload={"kind": "pickle", "path": "payload/flow.pickle"},
    parameters={},
    deadline=0.0,
    grace=1.0,
)
LOGIN = {"REGISTRY": '{"username": "me", "password": "correct horse", "serveraddress": "there"}'}


@pytest.fixture
def engine() -> Engine:
    return Engine(None, Address(url="unix:///nowhere"))


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The images that were pulled; the pull of ``slow`` takes until the end of the test."""
    found: list[str] = []
    over = threading.Event()

    def pull(_: Engine, image: str, *__: Any) -> None:
        found.append(image)
        over.wait(20 if image == "there/slow" else 0.2)

    monkeypatch.setattr(images, "pull", pull)
    yield found
    over.set()


async def test_who_waited_for_a_pull_takes_what_the_next_one_in_turn_got(engine: Engine, pulled: list[str]) -> None:
    async with anyio.create_task_group() as tasks:
        pulls = Pulls(engine, tasks, 10.0)
        async with anyio.create_task_group() as group:
            group.start_soon(pulls.pull, SPEC, "there/a")
            await anyio.sleep(0.05)
            for _ in range(6):
                group.start_soon(pulls.pull, SPEC, "there/a")
        assert pulled == ["there/a"] * 2  # the first one began before the others asked
        pulled.clear()
        async with anyio.create_task_group() as group:
            for each in (SPEC, SPEC, replace(SPEC, registry=LOGIN), SPEC):  # who shows the registry more asks himself
                group.start_soon(pulls.pull, each, "there/a")
        assert pulled == ["there/a"] * 3
        assert pulls._turns == {}


async def test_only_what_is_missing_is_pulled(engine: Engine, pulled: list[str]) -> None:
    async with anyio.create_task_group() as tasks:
        pulls = Pulls(engine, tasks, 10.0)

        async def away() -> bool:
            raise EngineError("nobody is there", transient=True, away=True)

        async def there() -> bool:
            return True

        with pytest.raises(EngineError, match="nobody is there"):
            await pulls.pull(SPEC, "there/a", away)
        await pulls.pull(SPEC, "there/a", there)
        assert pulled == []
        assert pulls._turns == {}


async def test_what_waits_for_its_turn_waits_for_a_time_and_orders_do_not_wait_for_pulls(
    engine: Engine, pulled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with anyio.create_task_group() as tasks:
        pulls = Pulls(engine, tasks, 10.0)
        engine.pulls.total_tokens = 1
        tasks.start_soon(pulls.pull, SPEC, "there/slow")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(EngineError, match="b: had no turn within 0 s beside all else") as raised:
            await engine.call("b", lambda: None, seconds=0.1, lane=engine.pulls)
        assert raised.value.transient
        assert await engine.call("c", lambda: "told", seconds=5.0) == "told"
        tasks.cancel_scope.cancel()
    assert client.AT_ONCE > 1


async def test_an_order_that_nobody_wants_any_more_is_not_told_when_the_engine_is_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, back = threading.Event(), threading.Event()
    written: list[bytes] = []

    def tell(_: Engine, __: str, word: Any) -> None:
        asked.set()
        back.wait(10)
        written.append(word())

    monkeypatch.setattr("flow_agent.engine.containers.tell", tell)
    async with anyio.create_task_group() as tasks:
        post = Post(engine, Lookout(engine, {}), tasks, {"run1-1": "abc"}.get)
        told = post.send("run1-1", deadline=1e9, go=True)
        assert await anyio.to_thread.run_sync(asked.wait, 10)
        post.close("run1-1")  # its end was told, since its deadline is over
        back.set()
        await told.wait()
    assert (written, post.told) == ([], {})
