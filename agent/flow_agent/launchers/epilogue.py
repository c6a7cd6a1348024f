"""What is done when a container has ended, before that is told: evidence, last words, the return value."""

from __future__ import annotations

import contextlib
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio

from flow_agent import events, retry
from flow_agent.engine import containers
from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError
from flow_agent.launchers import ends
from flow_agent.launchers.contained import RESULTS
from flow_agent.launchers.container import FOLDER
from flow_agent.launchers.follower import Follower
from flow_agent.launchers.luggage import unpacked
from flow_agent.launchers.spool import SpoolReader
from flow_agent.model import Ending

HUNG = 10.0
"""Seconds beyond its grace that a container may take to end."""
LOOK = 0.2
"""Seconds between two looks at a container that should end."""
FETCH_WITHIN = 3600.0
"""Seconds that a large return value may take out of its container."""


class Epilogue:
    """Of all containers of one launcher."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)
        """By container: that somebody has seen its end, so that it is looked at now."""

    def seen(self, container: str) -> None:
        """It has ended, or is about to."""
        self._seen[container].set()

    def forget(self, container: str) -> None:
        """Nobody asks for it any more."""
        self._seen.pop(container, None)

    async def ended(self, container: str, seconds: float) -> dict[str, Any] | None:
        """What the engine knows of a container that has ended; empty if it is gone, None if it goes on for so long.

        Raises EngineError.
        """
        until = anyio.current_time() + seconds
        while True:
            found = await self._engine.call("looking", partial(containers.look, self._engine, container))
            if found is None or not found["State"].get("Running"):
                return found or {}
            if anyio.current_time() > until:
                return None
            if (seen := self._seen[container]).is_set():
                await anyio.sleep(LOOK / 10)
            with anyio.move_on_after(LOOK):
                await seen.wait()

    async def ending(self, container: str, follower: Follower, reader: SpoolReader, *, stopped: bool) -> Ending:
        """How the container ended that ``follower`` has followed; ``stopped`` says whether we wanted that.

        Raises OSError: its return value cannot be fetched. Whatever ended the following.
        """
        if follower.failure is not None:
            raise follower.failure
        record = follower.mirror.exit
        if record is None:
            ending = ends.without_record(follower.state, follower.away, stopped=stopped, tail=reader.tail)
            return await self._with_words(container, ending) if ending.lost and follower.state is not None else ending
        out_of_memory = ends.wants_evidence(record) and await self._ran_out_of_memory(container)
        ending = ends.of_record(record, reader, out_of_memory=out_of_memory, stopped=stopped)
        if ending.receipt is not None and ending.receipt.get("ok"):
            return ends.with_result(ending, await self._result(container, follower, ending.receipt))
        return ending

    async def _with_words(self, container: str, ending: Ending) -> Ending:
        """With what the keeper said on stderr: a fault of ours, or what the image's Python has against it."""
        with contextlib.suppress(EngineError):
            said = await self._engine.call("reading", partial(containers.errors, self._engine, container))
            return ends.with_words(ending, said)
        return ending

    async def _ran_out_of_memory(self, container: str) -> bool:
        """What the engine knows when the container has ended, which it does right after the record."""
        with contextlib.suppress(EngineError):
            found = await self.ended(container, HUNG)
            return bool(found and found["State"].get("OOMKilled"))
        return False

    async def _result(self, container: str, follower: Follower, receipt: Mapping[str, Any]) -> str | None:
        """The file of the return value, which came with the output if it is small and holds no secret."""
        folder = follower.folder
        for name in RESULTS:
            if (folder / name).exists():
                return str(folder / name)
        told = receipt.get("result")
        if not isinstance(told, dict) or "format" not in told:  # a None has no file
            return None
        name = RESULTS[0] if told.get("format") == "json" else RESULTS[1]

        def fetch() -> None:
            unpacked(containers.copy_out(self._engine, container, f"{FOLDER}/{name}"), folder / name)

        async def ask() -> None:
            await self._engine.call("fetching the return value", fetch, seconds=FETCH_WITHIN, lane=self._engine.copies)

        try:
            await retry.reached(ask, partial(events.engine_waits, container[:12]), follower.late)
        except (KeyError, tarfile.TarError, EngineError) as error:
            raise OSError(f"the return value could not be fetched from the container: {error}") from error
        return str(folder / name)
