"""Attempts in containers of a Docker engine, each under a keeper that is the container's first process.

A container is made and started parked, so that what its image lacks is found before the attempt counts. All that the
keeper writes is kept by the engine until the container is removed; ``wait`` reads it from the beginning, whoever
started the container, so that nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from flow_agent import events, retry, workspace
from flow_agent.archive import runner_archive
from flow_agent.engine import containers
from flow_agent.engine.client import Address, Engine, connected
from flow_agent.errors import EngineError
from flow_agent.home import make_private
from flow_agent.identity import lasting_id
from flow_agent.launchers import ends
from flow_agent.launchers.container import PLACE, REF, Owner
from flow_agent.launchers.embark import Embark, Wishes
from flow_agent.launchers.epilogue import HUNG, Epilogue
from flow_agent.launchers.follower import Follower
from flow_agent.launchers.lookout import Lookout
from flow_agent.launchers.luggage import RUNNER
from flow_agent.launchers.post import Post
from flow_agent.launchers.remains import Remains
from flow_agent.launchers.spool import SpoolReader
from flow_agent.model import Ending, LaunchSpec, LogLine
from flow_agent.ports import Sink

LATE = 5.0
"""Seconds after the deadline that the keeper was told, from which on nothing of its container can be running."""
CLEAR_WITHIN = 60.0
"""Seconds that an engine may be away while an agent starts."""
PAUSED = (
    "its container is paused (`docker pause`): nothing of it runs until `docker unpause`; if that comes only when its"
    " lease, as its keeper knows it, is over, the keeper ends it"
)


class DockerLauncher:
    """Gives each attempt a container of its own. Its ref is the name of its folder below ``root``, and a label."""

    name = "docker"
    scope = ""

    def __init__(
        self, root: Path, engine: Engine, embark: Embark, tasks: anyio.abc.TaskGroup, *, owner: Owner, keep: str
    ) -> None:
        self._root, self._engine, self._embark, self._owner = root, engine, embark, owner
        self._keep, self._tasks = keep, tasks
        self._containers: dict[str, str] = {}
        """The ids of containers by ref: those of this life, and those that were adopted."""
        self._epilogue = Epilogue(engine)
        self._lookout = Lookout(engine, owner.labels)
        self._post = Post(engine, self._lookout, tasks, self._containers.get)
        self._deadlines: dict[str, float] = {}
        self._parked: set[str] = set()
        self._stopped: set[str] = set()
        self._failed: set[str] = set()
        self._remains = Remains(engine, self._lookout, owner.labels)

    async def create(self, spec: LaunchSpec) -> str:
        """Start a container with the attempt parked in it."""
        ref = Path(spec.folder).name
        try:
            self._containers[ref] = await self._embark.embark(spec, ref)
        finally:
            if ref in self._embark.unsure:
                self._embark.unsure.discard(ref)
                if ref not in self._containers:
                    self._remains.suspect(ref)
        self._deadlines[ref] = self._post.told[ref] = spec.deadline
        self._parked.add(ref)
        return ref

    async def go(self, ref: str) -> None:
        """Let user code run; while the engine is away, as soon as it is back."""
        self._parked.discard(ref)
        if ref in self._deadlines:
            # While it is not told to go nothing of the user's runs, and once it is told it knows its deadline too.
            self._post.told[ref] = self._deadlines[ref]
            with anyio.move_on_after(containers.TOLD_WITHIN):
                await self._post.send(ref, deadline=self._deadlines[ref], go=True).wait()

    async def extend(self, ref: str, deadline: float) -> None:
        """Move the keeper's deadline, in the background: one engine that is away holds up no other lease."""
        if ref not in self._containers:
            return
        self._deadlines[ref] = deadline
        self._post.told.setdefault(ref, deadline)  # of one that was adopted, an earlier one was told
        if ref not in self._parked:  # else the word to go brings it along
            self._post.send(ref, deadline=deadline)

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        """Follow the container to its end."""
        container = self._containers.get(ref)
        if container is None:
            return Ending(lost="there is no container of the attempt any more: somebody has removed it")
        folder = self._root / ref
        follower = Follower(self._engine, self._lookout, container, folder, lambda: self._late(ref))
        scope = anyio.CancelScope()

        async def follow() -> None:
            with scope:
                await follower.follow()

        self._tasks.start_soon(follow, name=f"output of {ref}")
        told = False
        try:
            with SpoolReader(folder, attempt) as reader:
                while True:
                    news, over = follower.news, follower.over or follower.mirror.exit is not None
                    if follower.paused and not told:
                        told = True
                        await sink([_paused(attempt)])
                    while lines := reader.read():
                        if new := [line for line in lines if line.seq > after]:
                            await sink(new)
                    if over:
                        if new := [line for line in reader.rest() if line.seq > after]:
                            await sink(new)
                        ending = await self._epilogue.ending(container, follower, reader, stopped=ref in self._stopped)
                        if not ends.is_success(ending):
                            self._failed.add(ref)
                        return ending
                    await news.wait()
        finally:
            if follower.over or follower.mirror.exit is not None:
                self._epilogue.seen(container)
            scope.cancel()
            follower.close()

    async def stop(self, ref: str, grace: float) -> None:
        """Have the keeper end it; a container that does not end is killed."""
        container = self._containers.get(ref)
        if container is None or (ref in self._stopped and ref in self._parked):
            return
        self._stopped.add(ref)
        try:
            if ref not in self._parked or grace > 0:  # what is parked has nothing to say, and is killed
                self._post.send(ref, stop=grace)
                if await self._epilogue.ended(container, grace + HUNG) is not None:
                    return
            await self._engine.call("killing", partial(containers.kill, self._engine, container))
        except EngineError as error:
            events.engine_waits(ref, 0.0, error)  # its deadline ends it, and ``wait`` sees to that

    async def remove(self, ref: str) -> None:
        """Remove the container, unless it is to be kept, and the folder."""
        container = self._containers.pop(ref, None)
        self._deadlines.pop(ref, None)
        self._post.forget(ref)
        failed = ref in self._failed
        for each in (self._parked, self._stopped, self._failed):
            each.discard(ref)
        if container is not None:
            self._epilogue.forget(container)
            if self._keep == "always" or (self._keep == "failed" and failed):
                await self._at_rest(container, ref)
            else:
                await self._remains.remove(container, ref)
        if not workspace.remove_if_small(self._root / ref):
            await anyio.to_thread.run_sync(workspace.remove, self._root / ref)

    async def _at_rest(self, container: str, ref: str) -> None:
        """See that a container which is kept has ended, as what is found running at a start is removed."""
        try:
            if await self._epilogue.ended(container, HUNG) is None:
                await self._engine.call("killing", partial(containers.kill, self._engine, container))
        except EngineError as error:
            events.engine_waits(ref, 0.0, error)

    async def adopt(self, refs: Collection[str]) -> None:
        """End and remove what an earlier life left on the engine, but for ``refs``, and but for what is kept."""

        async def find() -> list[dict[str, Any]]:
            return await self._engine.call(
                "listing containers", partial(containers.listed, self._engine, self._owner.labels)
            )

        until = anyio.current_time() + CLEAR_WITHIN
        found = await retry.reached(
            find, partial(events.engine_waits, "adoption"), lambda: anyio.current_time() > until
        )
        async with anyio.create_task_group() as group:
            for each in found:
                ref = each["Labels"].get(REF, "")
                if ref in refs:
                    self._containers[ref] = each["Id"]
                elif self._keep == "never" or each["State"] != "exited":
                    group.start_soon(self._remains.remove, each["Id"], ref)
                else:
                    group.start_soon(self._remains.remove_if_parked, each["Id"], ref)
        with contextlib.suppress(EngineError):  # the next start tries again
            left = partial(containers.remove_volumes, self._engine, self._owner.labels)
            await self._engine.call("removing volumes", left)
        for folder in sorted(path for path in self._root.iterdir() if path.is_dir() and path.name not in refs):
            if not (folder / "keeper.json").exists():  # else a process has it
                await anyio.to_thread.run_sync(workspace.remove, folder)

    def _late(self, ref: str) -> bool:
        """Whether the keeper's deadline has passed, as far as it was told; then it is told no other any more."""
        late = time.monotonic() > self._post.told.get(ref, math.inf) + LATE
        if late:
            self._post.close(ref)
        return late

    async def look(self) -> None:
        """Notice it when the engine falls silent. Ends by being cancelled."""
        await self._lookout.run()

    async def sweep(self) -> None:
        """Remove what could not be removed, once the engine is back. Ends by being cancelled, with a last try."""
        await self._remains.sweep()


def _paused(attempt: int) -> LogLine:
    return LogLine(
        attempt=attempt,
        source="launcher",
        seq=1,
        time=time.time(),
        level="WARNING",
        logger="flow_agent",
        text=PAUSED,
    )


@contextlib.asynccontextmanager
async def open_launcher(
    home: Path, agent: str, options: Mapping[str, Any] = MappingProxyType({})
) -> AsyncGenerator[DockerLauncher]:
    """The launcher of one agent; ``options`` are the settings below ``docker``.

    Closing it leaves its containers alone: a successor finds them.

    Raises EngineError: the engine does not answer.
    """
    wishes = Wishes.of(options)
    root = workspace.spool_root(home, agent)
    make_private(root)
    address = Address(url=options.get("url", ""), certificates=options.get("certificates"))
    async with connected(address) as engine:
        archive = await anyio.to_thread.run_sync(runner_archive, home / "runner", f"{PLACE}/{RUNNER}")
        owner = Owner(agent=agent, home=lasting_id(home, agent))
        async with anyio.create_task_group() as tasks:
            embark = Embark(engine, archive, owner, wishes, tasks)
            launcher = DockerLauncher(root, engine, embark, tasks, owner=owner, keep=options.get("keep", "never"))
            tasks.start_soon(launcher.sweep, name="sweep")
            tasks.start_soon(launcher.look, name="lookout")
            try:
                yield launcher
            finally:
                tasks.cancel_scope.cancel()
