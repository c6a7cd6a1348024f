"""What an agent goes on watching: what its own earlier life left, and what others have handed over or lost."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import anyio

from flow_agent import events
from flow_agent.errors import QueueUnavailable
from flow_agent.execute import Tools
from flow_agent.hold import answered, leased
from flow_agent.model import AgentInfo, Claim

Won = list[tuple[Claim, float]]
"""Claims, each with the time before the request that won it."""


class Takeover:
    """Of one life of an agent. ``pause``: seconds between two looks for attempts that nobody watches."""

    def __init__(self, info: AgentInfo, tools: Tools, pause: float) -> None:
        self._info, self._tools, self._pause = info, tools, pause
        self._outlive = any(info.launchers.values())
        self._next = float("-inf")

    async def at_start(self, give_up: Callable[[], bool]) -> Won:
        """Announce the agent, and win what its earlier life left; that goes on, and what was not started is given back.

        Raises QueueUnavailable: ``give_up`` said so.
        """
        await answered("announce", lambda: self._tools.queue.announce(self._info), give_up)
        won = await self._ask(self._info.limit, give_up)
        refs = {claim.ref for claim, _ in won if claim.ref}  # their folders lie side by side, whoever's they are
        for launcher in self._tools.launchers.values():
            await launcher.adopt(refs)
        return _told(won)

    async def later(self, free: int, give_up: Callable[[], bool]) -> Won:
        """Win up to ``free`` attempts that go on without an agent; only now and then is there a look."""
        if not self._outlive or free <= 0 or anyio.current_time() < self._next:
            return []
        self._next = anyio.current_time() + self._pause
        try:
            return _told(await self._ask(free, give_up))
        except QueueUnavailable:
            return []

    async def _ask(self, limit: int, give_up: Callable[[], bool]) -> Won:
        request = uuid.uuid4().hex
        claims, before = await leased(
            "take_over",
            lambda: self._tools.queue.take_over(self._info, limit, request),
            self._tools.leases.running,
            give_up,
        )
        return [(claim, before) for claim in claims]


def _told(won: Won) -> Won:
    for claim, _ in won:
        events.run_adopted(claim)
    return won
