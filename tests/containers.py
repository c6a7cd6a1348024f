"""Attempts of the Docker launcher for the tests of it: a home, a launcher on an engine, functions to run."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import cloudpickle

from flow_agent import workspace
from flow_agent.launchers.docker import DockerLauncher, open_launcher
from flow_agent.model import LaunchSpec
from flow_agent.testing.launcher_contract import Launched
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE


class Containers:
    """Creates attempts of one launcher, each with a run of its own."""

    def __init__(self, launcher: DockerLauncher, root: Path) -> None:
        self.launcher, self.root = launcher, root
        self._count = 0

    def spec(
        self,
        function: Callable[..., Any],
        *,
        lives: float = 60.0,
        grace: float = 1.0,
        secrets: Any = (),
        image: str = IMAGE,
        **options: Any,
    ) -> LaunchSpec:
        """The launch spec of ``function``; ``options`` are those of it, ``given`` the parameters of the flow."""
        self._count += 1
        folder = workspace.make_spool(self.root, f"run{self._count}", 1)
        (folder / "payload").mkdir()
        module = sys.modules[function.__module__]
        cloudpickle.register_pickle_by_value(module)
        try:
            (folder / "payload" / "flow.pickle").write_bytes(cloudpickle.dumps(function))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        return LaunchSpec(
            run_id=f"run{self._count}",
            flow=function.__name__,
            claim=1,
            attempt=1,
            folder=str(folder),
            payload={"kind": "pickle", "path": "payload/flow.pickle"},
            parameters=options.pop("given", {}),
            deadline=time.monotonic() + lives,
            grace=grace,
            redacted=tuple(secrets),
            image=image,
            **options,
        )

    async def __call__(self, function: Callable[..., Any], *, go: bool = True, **options: Any) -> Launched:
        """An attempt of ``function``; see ``spec``."""
        ref = await self.launcher.create(self.spec(function, **options))
        if go:
            await self.launcher.go(ref)
        return Launched(self.launcher, ref)


@asynccontextmanager
async def containers(home: Path, engine: DockerEngine, **options: Any) -> AsyncIterator[Containers]:
    """Attempts of a launcher of their own, with ``options``; whatever is left at the end is ended."""
    root = workspace.spool_root(home, "test")
    async with open_launcher(home, "test", {"url": engine.url, **options}) as launcher:
        try:
            yield Containers(launcher, root)
        finally:
            with anyio.fail_after(60, shield=True):
                for folder in sorted(path for path in root.iterdir() if path.is_dir()):
                    await launcher.stop(folder.name, 0)
                    await launcher.remove(folder.name)
