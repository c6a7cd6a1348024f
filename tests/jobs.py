"""Attempts of the Kubernetes launcher for the tests of it: a launcher on a cluster, and flows that its image has."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from flow_agent.launchers.kubernetes import KubernetesLauncher, open_launcher
from flow_agent.model import LaunchSpec, Registration
from flow_agent.testing import launcher_contract as flows
from flow_agent.testing.launcher_contract import Launched
from servers.kubernetes_api import Kubernetes

REAL = os.environ.get("FLOW_AGENT_TEST_KUBECONFIG", "")
"""A kubeconfig that leads to a real cluster, for the contract; without one the stand-in is taken."""
IMAGE = os.environ.get("FLOW_AGENT_TEST_KUBERNETES_IMAGE", "flow-agent:test")
"""An image with this version of flow-agent and pytest, which that cluster can pull."""


class Jobs:
    """Creates attempts of one launcher, each with a run of its own."""

    def __init__(self, launcher: KubernetesLauncher) -> None:
        self.launcher = launcher
        self.refs: list[str] = []

    def spec(
        self,
        function: Callable[..., Any],
        *,
        grace: float = 1.0,
        secrets: Any = (),
        container: dict[str, Any] | None = None,
        given: dict[str, Any] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> LaunchSpec:
        """The launch spec of ``function``, which lies in a module of the image."""
        values = dict(secrets) if isinstance(secrets, dict) else {f"S{i}": value for i, value in enumerate(secrets)}
        registration = Registration(
            flow=function.__name__,
            kind="module",
            storage={"type": "Module", "module": f"{function.__module__}:{function.__name__}"},
            location={"module": function.__module__, "host": "", "source": None},
            secrets=tuple(values),
            timeout=timeout,
        )
        return LaunchSpec(
            run_id=f"test{uuid.uuid4().hex[:12]}",
            flow=function.__name__,
            claim=1,
            attempt=1,
            folder="",
            payload={},
            parameters=given or {},
            deadline=time.monotonic() + 60,
            grace=grace,
            secrets=values,
            redacted=tuple(values.values()),
            image=options.pop("image", IMAGE),
            container=container or {},
            registration=registration,
            timeout=timeout,
            **options,
        )

    async def __call__(self, function: Callable[..., Any], *, go: bool = True, **options: Any) -> Launched:
        """An attempt of ``function``; see ``spec``."""
        ref = await self.launcher.create(self.spec(function, **options))
        self.refs.append(ref)
        if go:
            await self.launcher.go(ref)
        return Launched(self.launcher, ref)

    async def scripted(self, script: str, **options: Any) -> Launched:
        """An attempt whose pod does as a script of the stand-in says."""
        template = {"metadata": {"labels": {"flow-agent-test/script": script}}}
        container = {"job_template": template, **options.pop("container", {})}
        return await self(flows.prints_and_returns, container=container, **options)


@asynccontextmanager
async def jobs(kubeconfig: Path | str, *, agent: str = "test", **options: Any) -> AsyncIterator[Jobs]:
    """Attempts of a launcher of their own, with ``options``; whatever is left at the end is removed."""
    async with open_launcher(Path("/nonexistent"), agent, {"kubeconfig": Path(kubeconfig), **options}) as launcher:
        found = Jobs(launcher)
        try:
            yield found
        finally:
            with anyio.move_on_after(60, shield=True):
                for ref in found.refs:
                    with contextlib.suppress(Exception):
                        await launcher.remove(ref)


def kubeconfig_of(stand_in: Kubernetes) -> Path:
    """The one that the tests of the contract use."""
    return Path(REAL) if REAL else stand_in.kubeconfig
