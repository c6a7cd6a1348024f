"""What waits for a run leaves nothing behind, whenever the launcher ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest

from flow_agent import workspace
from flow_agent.home import make_private
from flow_agent.launchers.environments import environment
from flow_agent.launchers.nursery import LOG, Care, Nursery
from flow_agent.launchers.process import open_launcher


async def take_and_close(nursery: Nursery, language: str) -> None:
    nursery.close(await nursery.take(environment(None, {"LANG": language}), "pickle"))


OPTIONS = {"env": {"PATH": os.environ["PATH"]}}


@pytest.mark.parametrize("turns", range(6))
def test_a_launcher_that_is_closed_just_as_the_zygote_is_ready_leaves_no_process(tmp_path: Path, turns: int) -> None:
    before = set(psutil.Process().children())

    async def open_and_close() -> None:
        async with open_launcher(tmp_path, "test", OPTIONS):
            await anyio.sleep(0.1)
            time.sleep(1)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()

    anyio.run(open_and_close)
    assert set(psutil.Process().children()) <= before


@pytest.mark.anyio
@pytest.mark.parametrize("start", ["fork", "fresh"])
async def test_an_environment_that_is_given_up_while_it_gets_ready_keeps_nothing(tmp_path: Path, start: str) -> None:
    root = workspace.spool_root(tmp_path, "test")
    make_private(root)
    (root / LOG).touch()
    nursery = Nursery(root, tmp_path / "runner", Care(start=start, ahead=3))
    before = set(psutil.Process().children())
    async with anyio.create_task_group() as group:
        group.start_soon(take_and_close, nursery, "C")
        await anyio.sleep(0.05)
        for number in range(9):  # more than are kept at one time
            await take_and_close(nursery, f"C{number}")
    nursery.let_go()
    with anyio.fail_after(10):
        while not set(psutil.Process().children()) <= before:
            await anyio.sleep(0.05)
