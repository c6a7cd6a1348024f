"""Orders on their way into containers: only the newest of each kind, again and again while the engine is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc

from flow_agent import events, retry
from flow_agent.engine import containers
from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError
from flow_agent.launchers.lookout import Lookout


class Post:
    """Delivers orders in the background; ``container`` gives the id of a ref's container, None when it is nobody's."""

    def __init__(
        self, engine: Engine, lookout: Lookout, tasks: anyio.abc.TaskGroup, container: Callable[[str], str | None]
    ) -> None:
        self._engine, self._lookout, self._tasks, self._container = engine, lookout, tasks, container
        self._waiting: dict[str, dict[str, Any]] = {}
        self.told: dict[str, float] = {}
        """The deadline (``time.monotonic()``) that each container knows, or may know."""
        self._under_way: dict[str, anyio.Event] = {}
        self._closed: set[str] = set()

    def send(self, ref: str, **order: Any) -> anyio.Event:
        """Have ``order`` delivered: ``deadline`` (``time.monotonic()``), ``go``, ``stop``; the event tells that it was,
        or that there is nobody to take it."""
        self._waiting.setdefault(ref, {}).update(order)
        if ref not in self._under_way:
            self._under_way[ref] = anyio.Event()
            self._tasks.start_soon(self._deliver, ref, name=f"orders for {ref}")
        return self._under_way[ref]

    def close(self, ref: str) -> None:
        """No order reaches the container from here on, also none that waits for an engine which is silent."""
        self._closed.add(ref)

    def forget(self, ref: str) -> None:
        """Nobody has the container any more."""
        self.told.pop(ref, None)
        self._closed.discard(ref)

    async def _deliver(self, ref: str) -> None:
        try:
            while ref in self._waiting:
                await retry.reached(
                    partial(self._once, ref), partial(events.engine_waits, ref), lambda: self._nobody(ref)
                )
        except EngineError:  # it has ended, or is gone: whoever waits for it finds that out
            self._waiting.pop(ref, None)
        finally:
            self._under_way.pop(ref).set()

    def _nobody(self, ref: str) -> bool:
        return ref in self._closed or self._container(ref) is None

    async def _once(self, ref: str) -> None:
        container = self._container(ref)
        order = dict(self._waiting.get(ref, {}))
        if container is None or ref in self._closed or not order:
            self._waiting.pop(ref, None)
            return
        self._lookout.check()
        wanted = True

        def word() -> bytes:
            # The engine may have been silent until now: what was right to say then may have become wrong.
            if not wanted or self._nobody(ref):
                raise EngineError("nobody wants that order to be told any more", transient=False)
            message = dict(order)
            if "deadline" in message:
                # Whether it arrives is not known until the engine says so.
                self.told[ref] = message["deadline"]
                message["lives"] = message.pop("deadline") - time.monotonic()
            return json.dumps(message).encode() + b"\n"

        try:
            await self._engine.call(
                "an order to the container",
                lambda: containers.tell(self._engine, container, word),
                seconds=2 * containers.TOLD_WITHIN,
            )
        finally:
            wanted = False
        left = {name: value for name, value in self._waiting.pop(ref, {}).items() if order.get(name) != value}
        if left:  # came meanwhile
            self._waiting[ref] = left
