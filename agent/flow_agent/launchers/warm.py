"""The daemon's end of a zygote."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from flow_agent.launchers import linux
from flow_agent.launchers.parked import WAIT, Parked

RECYCLE_AFTER = 1_000
"""Keepers that one zygote forks."""
RECYCLE_GROWTH = 64_000_000
"""Bytes by which a zygote may grow."""


KILLED = {-signal.SIGKILL, -signal.SIGTERM}
"""How a process ends that somebody ends, or the kernel, for want of memory: it says nothing of the environment."""


class NoZygote(Exception):
    """There is none in this environment; the message says why. ``passes``: there may be one another time."""

    def __init__(self, why: str, *, passes: bool = False) -> None:
        super().__init__(why)
        self.passes = passes


class Zygote:
    """The daemon's end of one zygote."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Start it; what it says goes into the file ``log``.

        Raises NoZygote: the program is not there.
        """
        self._end, theirs = socket.socketpair()
        self._end.setblocking(False)
        with theirs, log.open("ab") as said:
            try:
                self._process = subprocess.Popen(
                    command, env=env, stdin=theirs.fileno(), stdout=said, stderr=said, cwd=log.parent
                )
            except OSError as error:
                self._end.close()
                raise NoZygote(f"{error.strerror}: {command[0]}") from None
        self._forked = 0
        self._size = 0

    async def ready(self) -> list[str]:
        """Wait until it has imported all; which modules could not be.

        Raises NoZygote.
        """
        said = b""
        with anyio.move_on_after(WAIT):
            while not said.endswith(b"\n"):
                await anyio.wait_readable(self._end)
                if not (data := self._end.recv(65536)):
                    code = await anyio.to_thread.run_sync(self._process.wait)
                    raise NoZygote(f"it ended at its start ({code})", passes=code in KILLED)
                said += data
        if not said.endswith(b"\n"):
            raise NoZygote(f"it was not ready after {WAIT:g} s")
        ready = json.loads(said)
        if ready["threads"] > 1:
            raise NoZygote(f"{ready['threads'] - 1} threads run in it after its imports")
        self._size = linux.resident(self._process.pid)
        problems: list[str] = ready["problems"]
        return problems

    def fork(self) -> Parked:
        """A new keeper.

        Raises OSError: the zygote is gone, or stuck.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._end, [b"+"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        self._forked += 1
        return Parked(ours)

    @property
    def worn(self) -> bool:
        """Whether another one should take its place."""
        grown = linux.resident(self._process.pid) - self._size
        return self._forked >= RECYCLE_AFTER or grown > RECYCLE_GROWTH

    @property
    def dead(self) -> bool:
        """Whether somebody killed it."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End it; its keepers go on."""
        self._end.close()
        self._process.kill()
        self._process.wait()  # it has nothing to clear up, and dies at once
