"""Pulls of images: one at a time of each, within a time limit, and told to those who wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.abc

from flow_agent import events
from flow_agent.engine import images, registries
from flow_agent.engine.client import Engine
from flow_agent.engine.progress import Progress
from flow_agent.errors import ClaimLost, EngineError
from flow_agent.model import LaunchSpec

TOLD_AFTER = 5.0
"""Seconds after which the run's log says that a pull goes on."""
TOLD_EVERY = 60.0
"""Seconds between two such lines."""


@dataclass
class _Turn:
    """Whose turn it is to pull one image."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0
    began: float = float("-inf")
    """When the last pull began that came to its end, and ``access`` what the registry was shown for it."""
    access: Mapping[str, str] | None = None
    said: str = ""
    """What the engine said last of the pull that goes on."""


class Pulls:
    """Of one engine; one pull, and the wait for it, may take ``within`` seconds."""

    def __init__(self, engine: Engine, tasks: anyio.abc.TaskGroup, within: float) -> None:
        self._engine, self._tasks, self._within = engine, tasks, within
        self._turns: dict[str, _Turn] = {}

    async def pull(self, spec: LaunchSpec, image: str, there: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Get ``image`` for ``spec``, unless ``there`` says, when it is our turn, that this is not needed any more.

        Raises EngineError.
        """
        asked = anyio.current_time()
        turn = self._turns.setdefault(image, _Turn())
        turn.users += 1
        try:
            with anyio.fail_after(self._within):
                async with self._told(spec, image, turn), turn.lock:
                    if there is not None and await there():
                        return
                    # Another run was in its turn meanwhile: what it got is as new as what we would get.
                    if turn.began >= asked and turn.access == spec.registry:
                        return
                    began = anyio.current_time()
                    await self._pull(spec, image, turn)
                    turn.began, turn.access = began, spec.registry
        except TimeoutError:
            raise EngineError(
                f"pulling the image {image}: not done within {self._within:.0f} s", transient=True
            ) from None
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[image]

    async def _pull(self, spec: LaunchSpec, image: str, turn: _Turn) -> None:
        access = images.Access()
        for secret, value in spec.registry.items():
            access = images.Access(credentials=registries.credentials(secret, value, image), secret=secret)

        def say(text: str) -> None:
            turn.said = f" ({text})"
            events.image_pulled(image, text)

        turn.said = ""
        progress = Progress(say)
        try:
            await self._engine.call(
                f"pulling the image {image}",
                partial(images.pull, self._engine, image, access, progress),
                seconds=self._within,
                lane=self._engine.pulls,
            )
        finally:
            progress.unwanted = True

    @asynccontextmanager
    async def _told(self, spec: LaunchSpec, image: str, turn: _Turn) -> AsyncIterator[None]:
        """While this is open, the run's log is told now and then what the run waits for."""
        scope, tell = anyio.CancelScope(), spec.tell

        async def telling() -> None:
            with scope:
                since, wait = anyio.current_time(), TOLD_AFTER
                while tell is not None:
                    await anyio.sleep(wait)
                    seconds = anyio.current_time() - since
                    try:
                        await tell("INFO", f"pulling the image {image}, for {seconds:.0f} s so far{turn.said}")
                    except ClaimLost:  # who holds the claim finds that out
                        return
                    wait = TOLD_EVERY

        self._tasks.start_soon(telling, name=f"pull of {image}")
        try:
            yield
        finally:
            scope.cancel()
