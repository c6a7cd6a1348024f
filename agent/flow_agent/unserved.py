"""Runs that no live agent may take wait for ever, and nothing fails: somebody has to say so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Protocol

import anyio

from flow_agent import events
from flow_agent.errors import QueueError
from flow_agent.labels import matches
from flow_agent.model import AgentInfo, Waiting
from flow_agent.ports import Queue

PAUSE = 60.0
"""Seconds between two looks, which count the queued runs."""


class Sight(Protocol):
    """What the looks need."""

    @property
    def queue(self) -> Queue:
        """The queue to look at."""


def unserved(waiting: Iterable[Waiting], alive: Iterable[AgentInfo]) -> list[Waiting]:
    """Those that no agent of ``alive`` may take; one that drains takes nothing more."""
    taking = [agent for agent in alive if not agent.draining]
    return [each for each in waiting if not any(matches(each.labels, each.launcher, agent) for agent in taking)]


async def watch_unserved(sight: Sight, own_id: str, heartbeat: float) -> None:
    """Warn of each kind of runs that nobody may take, once until that has changed. Ends by being cancelled.

    Of all live agents only the one with the smallest id looks, so that there is one warning. ``heartbeat``: seconds
    between two signs of life of an agent; after three of them without one it counts as gone.
    """
    told: set[tuple[frozenset[str], str | None]] = set()
    while True:
        await anyio.sleep(PAUSE)
        with contextlib.suppress(QueueError):  # the agent itself sees to a queue that is away or broken
            # By the queue's clock: this machine's may be wrong.
            alive = [agent for agent in await sight.queue.agents() if agent.silent <= 3 * heartbeat]
            if own_id != min((agent.id for agent in alive), default=own_id):
                continue
            found = {(each.labels, each.launcher): each for each in unserved(await sight.queue.waiting(), alive)}
            for key in found.keys() - told:
                events.runs_unserved(found[key])
            told = set(found)
