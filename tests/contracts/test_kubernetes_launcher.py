"""The Kubernetes launcher: the contract, and what any cluster shows. It runs against the cluster that the file
``FLOW_AGENT_TEST_KUBECONFIG`` leads to, with the image ``FLOW_AGENT_TEST_KUBERNETES_IMAGE``, else against the stand-in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import pytest

from flow_agent.testing import launcher_contract as flows
from flow_agent.testing.launcher_contract import Launch, Launched, LauncherContract
from jobs import Jobs, jobs, kubeconfig_of
from servers.kubernetes_api import Kubernetes

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
async def attempts(kubernetes: Kubernetes) -> AsyncIterator[Jobs]:
    async with jobs(kubeconfig_of(kubernetes)) as found:
        yield found


@pytest.fixture
def launch(attempts: Jobs) -> Launch:
    async def launch(function, *, go=True, lives=60.0, grace=1.0, secrets=(), **parameters) -> Launched:
        return await attempts(function, go=go, grace=grace, secrets=secrets, given=parameters)

    return launch


class TestKubernetesLauncher(LauncherContract):
    """All of the contract."""

    pytestmark = pytestmark
    starts_within = 20.0
    outlives = True
