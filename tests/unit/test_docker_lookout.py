"""What a look at all containers tells those who follow one."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from flow_agent.engine import containers
from flow_agent.engine.client import Address, Engine
from flow_agent.errors import EngineError
from flow_agent.launchers import lookout
from flow_agent.launchers.lookout import Lookout

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the engine lists."""
    listed: list[dict[str, Any]] = []
    monkeypatch.setattr(containers, "listed", lambda *_: list(listed))
    return listed


@pytest.fixture
def looks() -> Lookout:
    return Lookout(Engine(None, Address(url="unix:///nowhere")), {"of": "us"})


async def test_who_hears_nothing_of_a_container_that_has_ended_is_cut_off(
    looks: Lookout, found: list[dict[str, Any]]
) -> None:
    bytes_read, seen = 0, list[str]()
    found.append({"Id": "a", "State": "running"})

    async def drive() -> None:
        nonlocal bytes_read
        await looks.look()
        found.clear()
        for _ in range(4):  # it has ended, and what it wrote is still being read
            bytes_read += 1
            await looks.look()
        for _ in range(lookout.ENDED_AFTER):
            assert not cut.is_set()
            await looks.look()

    async def follow() -> None:
        with looks.listening("a", seen.append, lambda: bytes_read):
            group.start_soon(drive)
            try:
                await anyio.sleep(20)
            finally:
                cut.set()

    cut = anyio.Event()
    async with anyio.create_task_group() as group:
        with pytest.raises(EngineError, match="its stream did not") as raised:
            await follow()
        assert raised.value.transient
    assert seen == ["running"]


async def test_silence_cuts_off_all_and_keeps_others_from_asking_until_it_is_over(
    looks: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(lookout, "SILENT_AFTER", 0.2)
    monkeypatch.setattr(containers, "listed", lambda *_: over.wait(20) and [])

    async def follow() -> None:
        with looks.listening("a", lambda _: None, lambda: 0):
            group.start_soon(looks.look)
            await anyio.sleep(20)

    async with anyio.create_task_group() as group:
        with pytest.raises(EngineError, match="does not answer: it said nothing") as raised:
            await follow()
        assert raised.value.away
        with pytest.raises(EngineError, match="does not answer"):
            looks.check()
        over.set()
        await looks.look()
        looks.check()
