"""What is left of containers on an engine that was away, or silent, when they were to be removed."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from functools import partial

import anyio

from flow_agent import events
from flow_agent.engine import containers
from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError
from flow_agent.launchers.container import REF
from flow_agent.launchers.lookout import Lookout

SWEEP = 5.0
"""Seconds between two tries to remove what could not be removed."""
MADE_LATE = 60.0
"""Seconds that an engine which answers again may take for what it was asked before."""
LAST_TRY = 5.0
"""Seconds for which an agent that ends tries it once more."""


class Remains:
    """Of the containers of one agent, which all have ``labels``."""

    def __init__(self, engine: Engine, lookout: Lookout, labels: Mapping[str, str]) -> None:
        self._engine, self._lookout, self._labels = engine, lookout, labels
        self._left: dict[str, str] = {}
        """Containers to be removed when the engine is back, by id, with their refs."""
        self._suspected: dict[str, float] = {}
        """Refs of which there may be a container, or may yet be; and until when (event loop) it is looked for."""

    def suspect(self, ref: str) -> None:
        """No container of ``ref`` is wanted, and nobody knows whether the engine has made one, or will."""
        self._suspected[ref] = math.inf

    async def remove(self, container: str, ref: str) -> None:
        """Remove a container, now or later."""
        try:
            self._lookout.check()
            await self._engine.call("removing", partial(containers.remove, self._engine, container))
        except EngineError as error:
            self._left[container] = ref
            events.container_left(ref, error)
        else:
            self._left.pop(container, None)

    async def remove_if_parked(self, container: str, ref: str) -> None:
        """Remove a container that ended before its attempt was told to go, which is nothing to be kept."""
        with contextlib.suppress(EngineError, ValueError, AttributeError):
            said = await self._engine.call("reading", partial(containers.last_line, self._engine, container))
            if json.loads(said).get("exit", {}).get("went") is False:
                await self.remove(container, ref)

    async def sweep(self) -> None:
        """Remove what could not be removed, once the engine is back. Ends by being cancelled, with a last try."""
        try:
            while True:
                await anyio.sleep(SWEEP)
                await self._sweep()
        finally:
            with anyio.move_on_after(LAST_TRY, shield=True):
                await self._sweep()

    async def _sweep(self) -> None:
        for container, ref in list(self._left.items()):
            await self.remove(container, ref)
        for ref, until in list(self._suspected.items()):
            try:
                await self._remove_all(ref)
            except EngineError as error:
                events.container_left(ref, error)
                return
            now = anyio.current_time()
            if now > until:
                del self._suspected[ref]
            else:
                self._suspected[ref] = min(until, now + MADE_LATE)

    async def _remove_all(self, ref: str) -> None:
        self._lookout.check()
        find = partial(containers.listed, self._engine, {**self._labels, REF: ref})
        for each in await self._engine.call("listing containers", find):
            await self._engine.call("removing", partial(containers.remove, self._engine, each["Id"]))
