"""Attempts of the process launcher for the tests of it: a home, a launcher, functions to run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import cloudpickle

from flow_agent import workspace
from flow_agent.launchers.process import ProcessLauncher, open_launcher
from flow_agent.model import LaunchSpec
from flow_agent.testing.launcher_contract import Launched


class Attempts:
    """Creates attempts of one launcher, each with a run of its own."""

    def __init__(self, launcher: ProcessLauncher, root: Path) -> None:
        self.launcher, self.root = launcher, root
        self._count = 0

    async def __call__(
        self,
        function: Callable[..., Any],
        *,
        go: bool = True,
        lives: float = 60.0,
        grace: float = 1.0,
        secrets: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
        **options: Any,
    ) -> Launched:
        """An attempt of ``function``; ``options`` are those of a launch spec."""
        self._count += 1
        folder = workspace.make_spool(self.root, f"run{self._count}", 1)
        (folder / "payload").mkdir()
        module = sys.modules[function.__module__]
        cloudpickle.register_pickle_by_value(module)
        try:
            (folder / "payload" / "flow.pickle").write_bytes(cloudpickle.dumps(function))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        spec = LaunchSpec(
            run_id=f"run{self._count}",
            flow=function.__name__,
            claim=1,
            attempt=1,
            folder=str(folder),
            payload={"kind": "pickle", "path": "payload/flow.pickle"},
            parameters=parameters or {},
            deadline=time.monotonic() + lives,
            grace=grace,
            env={"PATH": os.environ["PATH"], **(env or {})},
            redacted=tuple(secrets),
            **options,
        )
        ref = await self.launcher.create(spec)
        if go:
            await self.launcher.go(ref)
        return Launched(self.launcher, ref)

    async def value(self, function: Callable[..., Any], **options: Any) -> Any:
        """What ``function`` returns, run as an attempt that is removed then."""
        attempt = await self(function, **options)
        ending = await attempt.end()
        if ending.result is None:
            assert (ending.receipt or {}).get("result") == {"inline": None}, (ending, attempt.texts)
            found = None
        else:
            found = json.loads(Path(ending.result).read_text())
        await self.launcher.remove(attempt.ref)
        return found

    def keeper(self, attempt: Launched) -> dict[str, Any]:
        """What ``keeper.json`` of an attempt says."""
        who: dict[str, Any] = json.loads((self.root / attempt.ref / "keeper.json").read_text())
        return who


@asynccontextmanager
async def attempts(home: Path, **options: Any) -> AsyncIterator[Attempts]:
    """Attempts of a launcher of their own, with ``options``; whatever is left at the end is ended."""
    root = workspace.spool_root(home, "test")
    async with open_launcher(home, "test", {"env": {"PATH": os.environ["PATH"]}, **options}) as launcher:
        try:
            yield Attempts(launcher, root)
        finally:
            with anyio.fail_after(60, shield=True):
                for folder in sorted(path for path in root.iterdir() if path.is_dir()):
                    await launcher.stop(folder.name, 0)
                    await launcher.remove(folder.name)
