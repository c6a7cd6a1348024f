"""One look every few seconds at all containers of an agent: whether the engine answers, and what it knows of each.

Who follows a container's output hears nothing of an engine that has fallen silent: a stream without a word is what a
quiet flow looks like. So all that are followed share this look, and are cut off when it has no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio

from flow_agent.engine import containers, errors
from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError

EVERY = 5.0
"""Seconds between two looks."""
SILENT_AFTER = 15.0
"""Seconds without an answer after which the engine is silent; one that is very busy takes some."""
ENDED_AFTER = 2
"""Looks without a container that is still followed, after which its stream has missed the end."""
ALIVE = ("created", "restarting", "running", "paused")
_WHAT = "looking at all containers"


@dataclass(kw_only=True, eq=False)
class _Listener:
    """Somebody who follows ``container``; ``seen`` is told its state, ``heard`` says how many bytes have come of it."""

    container: str
    seen: Callable[[str], None]
    heard: Callable[[], int]
    before: int = -1
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    missed: int = 0
    why: EngineError | None = None

    def cut_off(self, why: EngineError) -> None:
        """End what it does."""
        self.why = why
        self.scope.cancel()


class Lookout:
    """Of the containers with ``labels``."""

    def __init__(self, engine: Engine, labels: Mapping[str, str]) -> None:
        self._engine, self._labels = engine, labels
        self._listeners: set[_Listener] = set()
        self._silent = False

    def check(self) -> None:
        """See that the engine is not silent, before it is asked in vain for a minute.

        Raises EngineError: it is, as far as is known.
        """
        if self._silent:
            raise self._silence()

    @contextmanager
    def listening(self, container: str, seen: Callable[[str], None], heard: Callable[[], int]) -> Iterator[None]:
        """While this is open the block is cut off when the engine falls silent, or when the container has ended and
        the block does not hear of it: ``heard`` tells how many bytes it has of it, ``seen`` is told the container's
        state at each look.

        Raises EngineError: transient, the block was cut off.
        """
        self.check()
        listener = _Listener(container=container, seen=seen, heard=heard)
        self._listeners.add(listener)
        try:
            with listener.scope:
                yield
        finally:
            self._listeners.discard(listener)
        if listener.why is not None and listener.scope.cancelled_caught:
            raise listener.why

    async def run(self) -> None:
        """Look, as long as somebody listens. Ends by being cancelled."""
        while True:
            await anyio.sleep(EVERY)
            if self._listeners or self._silent:
                await self.look()

    async def look(self) -> None:
        """Look once, and tell those who listened from its beginning."""
        listeners = set(self._listeners)
        try:
            with anyio.fail_after(SILENT_AFTER):  # beside all other calls: those may wait for each other
                found = await self._engine.detached(
                    _WHAT, partial(containers.listed, self._engine, self._labels, ALIVE)
                )
        except TimeoutError:
            self._silent = True
            for listener in self._listeners:
                listener.cut_off(self._silence())
            return
        except EngineError:  # it is gone, which ends the streams too, or it refuses, which is an answer
            self._silent = False
            return
        self._silent = False
        states = {each["Id"]: str(each["State"]) for each in found}
        for listener in listeners:
            if listener.container in states:
                listener.seen(states[listener.container])
            before, listener.before = listener.before, listener.heard()
            quiet = listener.container not in states and before == listener.before  # else it still reads what there was
            listener.missed = listener.missed + 1 if quiet else 0
            if listener.missed >= ENDED_AFTER:
                listener.cut_off(EngineError("the container ended, and its stream did not", transient=True))

    def _silence(self) -> EngineError:
        return errors.silent(_WHAT, self._engine.address.shown, SILENT_AFTER)
