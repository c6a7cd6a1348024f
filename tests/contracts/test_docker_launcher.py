"""The Docker launcher: the contract, and what only a real engine can show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from containers import Containers, containers
from flow_agent.testing.launcher_contract import Launch, Launched, LauncherContract
from servers.docker_engine import DockerEngine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
async def attempts(tmp_path: Path, docker_engine: DockerEngine) -> AsyncIterator[Containers]:
    async with containers(tmp_path, docker_engine) as found:
        yield found


@pytest.fixture
def launch(attempts: Containers) -> Launch:
    async def launch(function, *, go=True, lives=60.0, grace=1.0, secrets=(), **parameters) -> Launched:
        return await attempts(function, go=go, lives=lives, grace=grace, secrets=secrets, given=parameters)

    return launch


class TestDockerLauncher(LauncherContract):
    """All of the contract."""

    pytestmark = pytestmark
    starts_within = 8.0
