"""Attempts as processes of this machine, each under a keeper; see ``keeper`` for what happens in the folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import flow_agent
from flow_agent import events, workspace
from flow_agent.errors import LaunchError
from flow_agent.home import make_private
from flow_agent.launchers import linux, lost
from flow_agent.launchers.archive import runner_archive
from flow_agent.launchers.keeper import BELL, CONTROL, EXIT, KEEPER
from flow_agent.launchers.lines import Lines
from flow_agent.launchers.spool import SpoolReader, read_json
from flow_agent.model import Ending, LaunchSpec, LogLine
from flow_agent.ports import Sink
from flow_agent.runner.results import JSON_FILE, PICKLE_FILE

LOOK = 1.0
"""Seconds between two looks at an attempt that did not ring."""
HUNG = 5.0
"""Seconds after a stop's grace at which a keeper that has not seen to the end is killed, and its attempt with it."""

PACKAGES = str(Path(flow_agent.__file__).parent.parent)
KEEP = (
    # A bare package in the place of ours: what authors import from it would cost every keeper 15 ms.
    f"import sys; package = type(sys)('flow_agent'); package.__path__ = [{PACKAGES + '/flow_agent'!r}];"
    " sys.modules['flow_agent'] = package; from flow_agent.launchers.keeper import main; main()"
)
RUN = "import sys; from flow_agent.runner.main import main; sys.exit(main(sys.argv[1]))"


class ProcessLauncher:
    """Starts a keeper for each attempt in a folder of its own below ``root``. Its ref is the folder's name."""

    name = "process"
    scope = ""

    def __init__(self, root: Path, archives: Path) -> None:
        self._root, self._archives = root, archives
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._news: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)

    async def create(self, spec: LaunchSpec) -> str:
        """Start the keeper and wait until the attempt is parked."""
        folder = Path(spec.folder)
        try:
            self._keepers[folder.name] = await anyio.to_thread.run_sync(self._start_keeper, spec)
        except OSError as error:
            raise LaunchError(f"the keeper of the attempt could not be started: {error}", transient=True) from error
        try:
            await self._parked(folder)
        except BaseException:
            with anyio.move_on_after(HUNG * 2, shield=True):
                await self.stop(folder.name, 0)
                await self.remove(folder.name)
            raise
        return folder.name

    async def go(self, ref: str) -> None:
        """Let user code run."""
        self._order(ref, go=True)

    async def extend(self, ref: str, deadline: float) -> None:
        """Move the keeper's deadline."""
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
                ended = await anyio.to_thread.run_sync(self._ended, folder)  # first: what is read after it is all
                while lines := await anyio.to_thread.run_sync(reader.read):
                    await hand_over(lines)
                if ended is not None:
                    await hand_over(reader.rest())
                    return _ending(ended, reader, folder)
                with anyio.move_on_after(LOOK):
                    await news.wait()

    async def stop(self, ref: str, grace: float) -> None:
        """Have the keeper end it; a keeper that does not is killed with its attempt."""
        folder = self._root / ref
        self._order(ref, stop=grace)
        with anyio.move_on_after(grace + HUNG):
            while self._ended(folder) is None:
                with anyio.move_on_after(0.1):
                    await self._news[ref].wait()
            return
        await anyio.to_thread.run_sync(lost.kill, folder)

    async def remove(self, ref: str) -> None:
        """Delete the folder, once the keeper is gone."""
        if keeper := self._keepers.pop(ref, None):
            await anyio.to_thread.run_sync(keeper.wait)
        self._news.pop(ref, None)
        await anyio.to_thread.run_sync(workspace.remove, self._root / ref)

    async def adopt(self, refs: Collection[str]) -> None:
        """End and remove what an earlier life left below the root, but for ``refs``, which go on."""
        left = [path.name for path in sorted(self._root.iterdir()) if path.is_dir() and path.name not in refs]
        async with anyio.create_task_group() as group:
            for name in left:
                group.start_soon(self._clear, name)

    def let_go(self) -> None:
        """Leave the keepers that still run to a successor."""
        for keeper in self._keepers.values():
            if keeper.poll() is None:
                keeper.returncode = 0  # or Popen would complain, when it is collected, that it was not waited for
        self._keepers.clear()

    async def _clear(self, name: str) -> None:
        await self.stop(name, 0)
        try:
            await self.remove(name)
        except OSError as error:  # files of another user, a mount: no reason not to work
            events.remains_left(name, error)

    # Keepers

    def _start_keeper(self, spec: LaunchSpec) -> subprocess.Popen[bytes]:
        folder = Path(spec.folder)
        os.mkfifo(folder / CONTROL, 0o600)
        orders = json.dumps(self._orders(spec)).encode()
        with (folder / "keeper.log").open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", KEEP],
                cwd=folder,
                env={},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError), keeper.stdin:  # it died at once; ``_parked`` finds out why
            keeper.stdin.write(orders)
        return keeper

    def _orders(self, spec: LaunchSpec) -> dict[str, Any]:
        folder, payload = Path(spec.folder), spec.payload
        kind = "pickle" if payload["kind"] == "pickle" else "other"
        if spec.interpreter is None:
            argv = [sys.executable, "-P", "-c", RUN, kind]
        else:
            argv = [spec.interpreter, "-P", str(runner_archive(self._archives)), kind]
        cwd = folder / payload["root"] if payload["kind"] == "script" else folder / workspace.WORK
        return {
            "name": folder.name,
            "argv": argv,
            "env": {**spec.env, lost.MARK: folder.name},
            "cwd": spec.working_dir or str(cwd),
            "deadline": spec.deadline,
            "grace": spec.grace,
            "output_limit": spec.output_limit,
            "redacted": list(spec.redacted),
            "go": {
                "run": {"id": spec.run_id, "attempt": spec.attempt, "flow": spec.flow},
                "folder": str(folder),
                "payload": dict(payload),
                "parameters": dict(spec.parameters),
                "secrets": dict(spec.secrets),
                "python": spec.python,
            },
        }

    async def _parked(self, folder: Path) -> None:
        while True:
            news = self._news[folder.name]
            if (folder / KEEPER).exists():
                return
            if (ended := self._ended(folder)) is not None:
                why = ended.get("launch_error") or ended.get("lost") or "it ended at once"
                raise LaunchError(f"the attempt could not be started: {why}")
            with anyio.move_on_after(0.05):
                await news.wait()

    def _order(self, ref: str, **order: Any) -> None:
        """Write one order; nobody there to read it means that the attempt has ended."""
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
        ours = self._keepers.get(folder.name)
        if ours is not None and ours.poll() is None:
            return None
        who = read_json(folder / KEEPER)
        if ours is None and who is not None and linux.start_time(who["pid"]) == who["start"]:
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


def _ending(record: Mapping[str, Any], reader: SpoolReader, folder: Path) -> Ending:
    files = [str(folder / name) for name in (JSON_FILE, PICKLE_FILE) if (folder / name).exists()]
    return Ending(
        code=record.get("code"),
        signal=record.get("signal"),
        ended_by=record.get("ended_by"),
        lost=record.get("lost") or record.get("launch_error"),
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
async def open_launcher(home: Path, agent: str) -> AsyncGenerator[ProcessLauncher]:
    """The process launcher of one agent. Closing it leaves its attempts alone: a successor finds them."""
    root = workspace.spool_root(home, agent)
    make_private(root)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(root / BELL, 0o600)
    launcher = ProcessLauncher(root, home / "runner")
    async with anyio.create_task_group() as group:
        group.start_soon(launcher.listen, name="bell")
        try:
            yield launcher
        finally:
            launcher.let_go()
            group.cancel_scope.cancel()
