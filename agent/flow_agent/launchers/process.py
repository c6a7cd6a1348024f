"""Attempts as processes of this machine, each under a keeper; see ``keeper`` for what happens in the folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread

from flow_agent import events, workspace
from flow_agent.errors import LaunchError
from flow_agent.home import make_private
from flow_agent.launchers import linux, lost
from flow_agent.launchers.environments import Environment, environment
from flow_agent.launchers.keep import CONTROL, KEEPER
from flow_agent.launchers.lines import Lines
from flow_agent.launchers.nursery import LOG, TRIES, Care, Nursery
from flow_agent.launchers.parked import Parked
from flow_agent.launchers.record import BELL, EXIT
from flow_agent.launchers.spool import SpoolReader, read_json, write_json
from flow_agent.model import Ending, LaunchSpec, LogLine
from flow_agent.ports import Sink
from flow_agent.runner.results import JSON_FILE, PICKLE_FILE

LOOK = 1.0
"""Seconds between two looks at an attempt that did not ring."""
HUNG = 5.0
"""Seconds after a stop's grace at which a keeper that has not seen to the end is killed, and its attempt with it."""


class ProcessLauncher:
    """Gives each attempt a folder of its own below ``root`` and a keeper. Its ref is the folder's name."""

    name = "process"
    scope = ""

    def __init__(self, root: Path, nursery: Nursery) -> None:
        self._root, self._nursery = root, nursery
        self._keepers: dict[str, tuple[Environment, Parked, bool]] = {}
        """By ref; the last is whether the keeper may keep another attempt after it."""
        self._deadlines: dict[str, float] = {}
        """Of attempts that wait for the word to go, which brings it along."""
        self._news: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)

    async def create(self, spec: LaunchSpec) -> str:
        """Give a parked attempt its orders."""
        folder = Path(spec.folder)
        if spec.working_dir is not None and not os.access(spec.working_dir, os.X_OK):
            raise LaunchError(f"the attempt could not be started: no folder {spec.working_dir} that it may enter")
        try:
            os.mkfifo(folder / CONTROL, 0o600)
            self._deadlines[folder.name] = spec.deadline
            for tries in range(1, TRIES + 1):
                try:
                    await self._order_one(spec, folder)
                    return folder.name
                except ConnectionError:  # the keeper was killed while it waited
                    self._nursery.close(self._keepers.pop(folder.name)[1])
                    if tries == TRIES:
                        raise
        except OSError as error:
            await self._undo(folder.name)
            raise LaunchError(f"the attempt could not be given its orders: {error}", transient=True) from error
        except BaseException:
            await self._undo(folder.name)
            raise
        raise AssertionError  # the last try raised

    async def _order_one(self, spec: LaunchSpec, folder: Path) -> None:
        wanted = environment(spec.interpreter, spec.env, spec.redacted)
        parked = await self._nursery.take(wanted, "pickle" if spec.payload["kind"] == "pickle" else "other")
        self._keepers[folder.name] = wanted, parked, not (spec.redacted or spec.secrets)
        write_json(folder / KEEPER, parked.hello)
        await parked.order(_orders(spec))

    async def _undo(self, ref: str) -> None:
        with anyio.move_on_after(HUNG * 2, shield=True):
            if (kept := self._keepers.pop(ref, None)) is not None:
                self._nursery.close(kept[1])
            await anyio.to_thread.run_sync(lost.kill, self._root / ref)
            await self.remove(ref)

    async def go(self, ref: str) -> None:
        """Let user code run."""
        deadline = self._deadlines.pop(ref, None)
        if deadline is None or not self._keepers[ref][1].go(deadline=deadline):
            self._order(ref, **({} if deadline is None else {"deadline": deadline}), go=True)

    async def extend(self, ref: str, deadline: float) -> None:
        """Move the keeper's deadline."""
        if ref in self._deadlines:  # it runs no code of the user yet, and has time
            self._deadlines[ref] = deadline
        else:
            self._order(ref, deadline=deadline)

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        """Follow the spool to its end."""
        folder = self._root / ref

        async def hand_over(lines: list[LogLine]) -> None:
            if new := [line for line in lines if line.seq > after]:
                await sink(new)

        with SpoolReader(folder, attempt) as reader:
            while True:
                news = self._news[ref]
                # In this thread, since asking another one takes longer than reading what was written just now.
                ended = self._ended(folder)  # first: what is read after it is all
                while lines := reader.read():
                    await hand_over(lines)
                if ended is not None:
                    await hand_over(reader.rest())
                    return _ending(ended, reader, folder)
                with anyio.move_on_after(LOOK):
                    await news.wait()

    async def stop(self, ref: str, grace: float) -> None:
        """Have the keeper end it; a keeper that does not is killed with its attempt."""
        folder = self._root / ref
        self._deadlines.pop(ref, None)
        self._order(ref, stop=grace)
        with anyio.move_on_after(grace + HUNG):
            while self._ended(folder) is None:
                with anyio.move_on_after(0.1):
                    await self._news[ref].wait()
            return
        await anyio.to_thread.run_sync(lost.kill, folder)

    async def remove(self, ref: str) -> None:
        """Delete the folder, which the keeper has left."""
        self._deadlines.pop(ref, None)
        if (kept := self._keepers.pop(ref, None)) is not None:
            wanted, parked, again = kept
            await self._nursery.give_back(wanted, parked, again=again)
        self._news.pop(ref, None)
        if not workspace.remove_if_small(self._root / ref):
            await anyio.to_thread.run_sync(workspace.remove, self._root / ref)

    async def adopt(self, refs: Collection[str]) -> None:
        """End and remove what an earlier life left below the root, but for ``refs``, which go on."""
        left = [path.name for path in sorted(self._root.iterdir()) if path.is_dir() and path.name not in refs]
        async with anyio.create_task_group() as group:
            for name in left:
                group.start_soon(self._clear, name)

    def let_go(self) -> None:
        """Leave the keepers that still run to a successor."""
        for _, parked, _ in self._keepers.values():
            self._nursery.leave(parked)
        self._keepers.clear()
        self._nursery.let_go()

    async def _clear(self, name: str) -> None:
        await self.stop(name, 0)
        try:
            await self.remove(name)
        except OSError as error:  # files of another user, a mount: no reason not to work
            events.remains_left(name, error)

    def _order(self, ref: str, **order: Any) -> None:
        """Write one order; nobody there to read it means that the attempt has ended."""
        if ref in self._keepers and self._keepers[ref][1].tell(**order):
            return
        try:
            control = os.open(self._root / ref / CONTROL, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:  # no such folder, or no keeper that reads: it has ended, or never began
            return
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(control, json.dumps(order).encode() + b"\n")
        os.close(control)

    def _ended(self, folder: Path) -> Mapping[str, Any] | None:
        """The exit record, ``{"lost": why}`` if the keeper is gone without one, None while the attempt goes on."""
        if (record := read_json(folder / EXIT)) is not None:
            return record
        if folder.name in self._keepers:
            going = self._keepers[folder.name][1].alive
        else:
            who = read_json(folder / KEEPER)
            going = who is not None and linux.start_time(who["pid"]) == who["start"]
        if going:
            return None
        if (record := read_json(folder / EXIT)) is not None:  # it ended while we looked
            return record
        lost.kill(folder)
        return {"lost": f"the keeper of the attempt died{_last_words(folder)}"}

    # The bell

    async def listen(self) -> None:
        """Wake those that wait for an attempt when its keeper rings."""
        bell = os.open(self._root / BELL, os.O_RDWR | os.O_NONBLOCK)
        lines = Lines()
        try:
            while True:
                await anyio.wait_readable(bell)
                with contextlib.suppress(BlockingIOError):
                    for name in set(lines.feed(os.read(bell, 65536))):
                        if (event := self._news.pop(name.decode(errors="replace"), None)) is not None:
                            event.set()
        finally:
            os.close(bell)


def _orders(spec: LaunchSpec) -> dict[str, Any]:
    folder, payload = Path(spec.folder), spec.payload
    cwd = folder / payload["root"] if payload["kind"] == "script" else folder / workspace.WORK
    limits = {"memory_limit": spec.memory_limit, "cpu_time_limit": spec.cpu_time_limit, "nice": spec.nice}
    return {
        "name": folder.name,
        "folder": str(folder),
        "deadline": spec.deadline,
        "grace": spec.grace,
        "timeout": spec.timeout,
        "output_limit": spec.output_limit,
        "redacted": list(spec.redacted),
        "go": {
            "run": {"id": spec.run_id, "attempt": spec.attempt, "flow": spec.flow},
            "folder": str(folder),
            "payload": dict(payload),
            "parameters": dict(spec.parameters),
            "secrets": dict(spec.secrets),
            "python": spec.python,
            "env": dict(spec.env),
            "cwd": spec.working_dir or str(cwd),
            "limits": limits,
        },
    }


def _ending(record: Mapping[str, Any], reader: SpoolReader, folder: Path) -> Ending:
    files = [str(folder / name) for name in (JSON_FILE, PICKLE_FILE) if (folder / name).exists()]
    return Ending(
        code=record.get("code"),
        signal=record.get("signal"),
        ended_by=record.get("ended_by"),
        lost=record.get("lost"),
        at=record.get("at"),
        memory=record.get("memory"),
        cpu=record.get("cpu"),
        receipt=reader.receipt,
        result=files[0] if files else None,
        tail=reader.tail,
    )


def _last_words(folder: Path) -> str:
    try:
        words = (folder / "keeper.log").read_text(errors="replace").strip()
    except OSError:
        return ""
    return f": {words.splitlines()[-1]}" if words else ""


@contextlib.asynccontextmanager
async def open_launcher(
    home: Path, agent: str, options: Mapping[str, Any] = MappingProxyType({})
) -> AsyncGenerator[ProcessLauncher]:
    """The process launcher of one agent; ``options`` are the fields of ``nursery.Care``.

    Closing it leaves its attempts alone: a successor finds them.
    """
    root = workspace.spool_root(home, agent)
    make_private(root)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(root / BELL, 0o600)
    (root / LOG).unlink(missing_ok=True)
    nursery = Nursery(root, home / "runner", Care(**options))
    launcher = ProcessLauncher(root, nursery)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(launcher.listen, name="bell")
            group.start_soon(nursery.tend, name="nursery")
            try:
                yield launcher
            finally:
                group.cancel_scope.cancel()
    finally:  # when nobody gets anything ready any more
        launcher.let_go()
