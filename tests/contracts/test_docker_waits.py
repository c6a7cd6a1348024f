"""Containers beside what hangs or stands still: registries, pauses, keepers that were never told to go."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from containers import containers
from flow_agent.errors import LaunchError
from flow_agent.launchers import lookout, pulls
from flow_agent.launchers.docker import PAUSED
from flow_agent.testing.launcher_contract import prints_and_returns, sleeps
from servers.docker_engine import DockerEngine
from servers.registry import Registry

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(200)]


async def test_pulls_that_hang_hold_up_nothing_else(
    tmp_path: Path, docker_engine: DockerEngine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "TOLD_AFTER", 1.0)
    said: list[str] = []

    async def tell(_: str, text: str) -> None:
        said.append(text)

    async with containers(tmp_path, docker_engine) as attempts:
        healthy = await attempts(sleeps, lives=20.0)
        with registry.frozen():
            async with anyio.create_task_group() as group:
                for number in range(40):  # more than there are threads of a kind
                    spec = attempts.spec(sleeps, image=f"{registry.address}/none:{number}", tell=tell)
                    group.start_soon(attempts.launcher.create, spec)
                await anyio.sleep(3)
                await attempts.launcher.extend(healthy.ref, time.monotonic() + 300)
                with anyio.fail_after(15):  # its own deadline would end it later, and otherwise
                    await attempts.launcher.stop(healthy.ref, 5)
                    ending = await healthy.end()
                other = await attempts(prints_and_returns)
                assert (await other.end()).code == 0
                group.cancel_scope.cancel()
        assert ending.ended_by == "stop"
        assert f"pulling the image {registry.address}/none:0, for 1 s so far" in said
        assert attempts.launcher._embark._pulls._turns == {}


async def test_a_pull_takes_no_longer_than_the_setting_says_and_who_waits_for_it_neither(
    tmp_path: Path, docker_engine: DockerEngine, registry: Registry
) -> None:
    failures: list[LaunchError] = []
    async with containers(tmp_path, docker_engine, pull_within=2.0) as attempts:

        async def create() -> None:
            spec = attempts.spec(sleeps, image=f"{registry.address}/none:1", container={"pull_policy": "always"})
            with pytest.raises(LaunchError, match=r"pulling the image .*none:1: not done within 2 s") as raised:
                await attempts.launcher.create(spec)
            failures.append(raised.value)

        with registry.frozen(), anyio.fail_after(6):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(create)
    assert [failure.transient for failure in failures] == [True] * 4


async def test_a_run_whose_container_is_paused_is_told_once_and_can_be_ended(
    tmp_path: Path, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "EVERY", 0.2)
    async with containers(tmp_path, docker_engine) as attempts:
        attempt = await attempts(sleeps)
        engine = docker_engine.connect()
        (container,) = engine.sdk.containers()
        await anyio.to_thread.run_sync(partial(engine.sdk.pause, container["Id"]))
        with anyio.move_on_after(3):
            await attempt.end()
        assert [(line.level, line.source) for line in attempt.lines if line.text == PAUSED] == [("WARNING", "launcher")]
        again = attempts.launcher
        await again.stop(attempt.ref, 0)
        assert (await attempt.end()).ended_by == "stop"
        engine.close()


async def test_a_container_that_is_paused_before_it_may_go_goes_when_it_may(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    async with containers(tmp_path, docker_engine) as attempts:
        attempt = await attempts(prints_and_returns, go=False)
        engine = docker_engine.connect()
        (container,) = engine.sdk.containers()
        await anyio.to_thread.run_sync(partial(engine.sdk.pause, container["Id"]))
        async with anyio.create_task_group() as group:
            group.start_soon(attempts.launcher.go, attempt.ref)
            await anyio.sleep(1)
            await anyio.to_thread.run_sync(partial(engine.sdk.unpause, container["Id"]))
        engine.close()
        assert (await attempt.end()).code == 0


async def test_what_was_kept_is_what_ran(tmp_path: Path, docker_engine: DockerEngine) -> None:
    async with containers(tmp_path, docker_engine, keep="always") as attempts:
        await attempts(sleeps, go=False, lives=4.0)  # the agent dies here, and its keeper ends it
        ran = await attempts(prints_and_returns)
        await ran.end()
        await attempts.launcher.remove(ran.ref)
        with anyio.fail_after(30):
            while {found["State"] for found in docker_engine.containers()} != {"exited"}:
                await anyio.sleep(0.2)
        await attempts.launcher.adopt(set())
        assert [found["Labels"]["flow-agent.run"] for found in docker_engine.containers()] == ["run2"]
    docker_engine.clear()
