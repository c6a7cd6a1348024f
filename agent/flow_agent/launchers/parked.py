"""The daemon's end of one keeper: whether an attempt is parked there, orders, and whether the keeper is gone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

import anyio

from flow_agent.errors import LaunchError
from flow_agent.launchers.attempt import GO_WORD
from flow_agent.launchers.lines import Lines

WAIT = 30.0
"""Seconds that a process may take to say hello; a fresh interpreter on a busy machine takes a few."""


FAREWELL = 1.0
"""Seconds that a keeper with nothing to do may take to end."""

_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Parked:
    """A keeper, seen from the daemon. ``process`` is it where we started it ourselves."""

    def __init__(self, end: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        end.setblocking(False)
        self._end, self._process = end, process
        self._lines = Lines()
        self._failed: Mapping[str, Any] | None = None
        self.hello: Mapping[str, Any] | None = None
        """Who it is, and its parked attempt; None until it said so."""
        self._word = -1

    async def ready(self) -> None:
        """Wait until an attempt is parked.

        Raises LaunchError: none will be; says why. Transient where no process could be started.
        """
        with anyio.move_on_after(WAIT):
            while not self.look():
                if self.gone:
                    failed = self._failed or {"why": "its keeper died", "passes": True}
                    why, passes = failed["why"], failed["passes"]
                    raise LaunchError(f"the attempt could not be started: {why}", transient=passes)
                await anyio.wait_readable(self._end)
            return
        raise LaunchError(f"the attempt could not be started: no word from it for {WAIT:g} s", transient=True)

    def look(self) -> bool:
        """Take in what it said; whether an attempt is parked now."""
        if self.hello is None and not self.gone:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                data, descriptors, _, _ = socket.recv_fds(self._end, 65536, 1, _CLOSED_ON_EXEC)
                if descriptors:
                    self._drop_word()
                    (self._word,) = descriptors
                if not data:
                    self._give_up()
                for line in self._lines.feed(data):
                    message = json.loads(line)
                    self.hello, self._failed = message.get("hello"), message.get("failed")
        return self.hello is not None and not self._died()

    def _died(self) -> bool:
        """Whether it ended after its hello: there is nothing else that it could say now."""
        try:
            if self._end.recv(1, socket.MSG_PEEK):
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass
        self._give_up()
        self.hello = None
        return True

    def _give_up(self) -> None:
        self._end.close()
        self._drop_word()

    @property
    def gone(self) -> bool:
        """Whether we have given it up."""
        return self._end.fileno() < 0

    @property
    def alive(self) -> bool:
        """Whether the keeper still is; what it says is left for ``look``."""
        if self.gone:
            return False
        try:
            return self._end.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def order(self, orders: Mapping[str, Any]) -> None:
        """Give it the orders of one attempt.

        Raises OSError: it is gone.
        """
        self.hello = None
        data = memoryview(json.dumps({"orders": orders}).encode() + b"\n")
        while data:
            try:
                data = data[self._end.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._end)

    def tell(self, **order: Any) -> bool:
        """Write one short line; whether it could be written."""
        try:
            self._end.send(json.dumps(order).encode() + b"\n")
        except OSError:  # gone, or frozen for so long that nothing more fits
            return False
        return True

    def go(self, **order: Any) -> bool:
        """Give it the order and let the attempt go; whether that could be done.

        The word takes the short way: the keeper may be busy, and finds the order before anything that follows.
        """
        if self._word < 0 or not self.tell(**order, goes=True):
            return False
        with contextlib.suppress(BrokenPipeError):
            os.write(self._word, GO_WORD)
        self._drop_word()
        return True

    def _drop_word(self) -> None:
        if self._word >= 0:
            os.close(self._word)
            self._word = -1

    def farewell(self) -> None:
        """Ask a keeper that waits to end, and wait shortly until it has."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)
            self._end.settimeout(FAREWELL)
            while self._end.recv(65536):
                pass

    def close(self) -> subprocess.Popen[bytes] | None:
        """Let it go: it ends after what it does now. Gives the process that somebody must collect, if it is ours."""
        self._give_up()
        process, self._process = self._process, None
        return process
