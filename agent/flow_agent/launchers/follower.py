"""Follows one container from its first byte to its end, however often the engine goes away, or falls silent."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

from flow_agent import events, retry
from flow_agent.engine import containers
from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError
from flow_agent.launchers.lookout import Lookout
from flow_agent.launchers.mirror import Mirror

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Follower:
    """Of the container ``container``, whose spool folder is ``folder``. ``late`` says that nothing of it can run any
    more, whatever the engine does."""

    def __init__(
        self, engine: Engine, lookout: Lookout, container: str, folder: Path, late: Callable[[], bool]
    ) -> None:
        self._engine, self._lookout, self._container, self.folder, self.late = engine, lookout, container, folder, late
        self.mirror = Mirror(folder)
        self.news = anyio.Event()
        self.over = False
        """Whether nothing more will come."""
        self.state: Mapping[str, Any] | None = None
        """What the engine knows of the container, where that ended without an exit record; None: it is gone."""
        self.failure: Exception | None = None
        self.away: str | None = None
        """What the engine said when it could not be asked; the last time, if it was away for a while."""
        self.paused = False
        """Whether somebody has been seen to pause it."""
        self._stream: containers.Output | None = None
        self._reading = self._heard = 0
        """The number of the reading that counts, and the bytes that came in all of them."""

    async def follow(self) -> None:
        """Follow it, until it has ended or cannot be running any more."""
        try:
            await retry.reached(self._once, self._on_wait, self.late)
        except EngineError as error:
            self.away = str(error)
        except Exception as error:  # noqa: BLE001 - raised again for who waits
            self.failure = error
        finally:
            self.over = True
            self.news.set()

    def _on_wait(self, wait: float, error: BaseException) -> None:
        if isinstance(error, EngineError) and error.away:
            self.away = str(error)
        events.engine_waits(self._container[:12], wait, error)

    async def _once(self) -> None:
        """Read all that there is; returns when there will be no more.

        Raises EngineError: transient, where it may go on.
        """
        found = None
        with self._lookout.listening(self._container, self._seen, lambda: self._heard):
            self._reading = self.mirror.again()
            try:
                await self._engine.detached("following the container", partial(self._pump, self._reading))
            finally:
                self._hang_up()
            if self.mirror.exit is not None:
                return
            found = await self._engine.call("looking", partial(containers.look, self._engine, self._container))
        if found is not None and found["State"].get("Running"):
            raise EngineError("the engine ended what it told of the container, which runs", transient=True)
        self.state = found

    def _seen(self, state: str) -> None:
        if state == "paused" and not self.paused:
            self.paused = True
            self._tell()

    def _pump(self, reading: int) -> None:
        try:
            stream = containers.Output(self._engine, self._container)
        except EngineError as error:
            if error.missing:
                return
            raise
        try:
            if reading != self._reading:  # cut off while the engine said nothing: nobody would end it any more
                return
            self._stream = stream
            for data in stream:
                if not self._take(reading, data) or self.mirror.exit is not None:
                    return
        finally:
            stream.close()

    def _take(self, reading: int, data: bytes) -> bool:
        self._heard += len(data)
        try:
            if not self.mirror.feed(reading, data):
                return False
        except OSError as error:
            if error.errno not in FULL:
                raise
            # What was not written is read once more: the engine keeps it.
            raise EngineError("the disk of this machine is full", transient=True) from error
        anyio.from_thread.run_sync(self._tell)
        return True

    def _tell(self) -> None:
        news, self.news = self.news, anyio.Event()
        news.set()

    def _hang_up(self) -> None:
        """End the stream, for the thread that reads it, which may be late to begin."""
        self._reading = 0
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.interrupt()

    def close(self) -> None:
        """Stop following."""
        self._hang_up()
        self.mirror.close()
