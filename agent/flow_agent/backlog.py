"""How many runs wait, since when, and for whom: for metrics, and for what scales agents by it.

The queue is asked at most once in some seconds, whoever asks here and how often, and counts only so many runs of each
requirement set (``model.COUNTED``): what watches a queue must not become its load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from flow_agent.errors import QueueUnavailable
from flow_agent.model import COUNTED, Waiting
from flow_agent.ports import Queue

FRESH = 5.0
"""Seconds for which an answer of the queue is given again."""
PATIENCE = 3.0
"""Seconds that the queue may take; those who ask here do not wait for ever either."""

Takes = Callable[[Waiting], bool]
"""Whether runs that ask for this count."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What waited ``at`` a time, in seconds since the epoch."""

    at: float
    sets: Sequence[Waiting] = ()

    def waiting(self, takes: Takes = lambda _: True) -> int:
        """How many runs wait, of those that ``takes`` lets count."""
        return sum(each.queued for each in self.sets if takes(each))

    def oldest(self, takes: Takes = lambda _: True) -> float:
        """For how many seconds the one of them that waits longest has waited; 0 if none does."""
        since = (each.since for each in self.sets if takes(each) and each.since is not None)
        return max(0.0, self.at - min(since, default=self.at))

    def document(self, takes: Takes = lambda _: True) -> dict[str, Any]:
        """The same as JSON, each kind of runs beside the sums. ``exact``: no kind has more than are counted;
        ``going``: runs that outlive their agent; ``work``: all for which agents are needed."""
        found = [each for each in self.sets if takes(each)]
        return {
            "work": self.waiting(takes) + sum(each.going for each in found),
            "waiting": self.waiting(takes),
            "going": sum(each.going for each in found),
            "oldest_wait_seconds": round(self.oldest(takes), 3),
            "exact": all(each.queued < COUNTED for each in found),
            "sets": [
                {
                    "labels": sorted(each.labels),
                    "launcher": each.launcher,
                    "waiting": each.queued,
                    "going": each.going,
                    "oldest_wait_seconds": round(max(0.0, self.at - (each.since or self.at)), 3),
                }
                for each in found
            ],
        }


class Backlog:
    """The runs that wait in ``queue``, as it said last. ``now`` is the wall clock; with ``tidy``, what has become due
    or was lost meanwhile counts although there may be no agent whose claims would see to that."""

    def __init__(self, queue: Queue, now: Callable[[], float] = time.time, *, tidy: bool = False) -> None:
        self._queue, self._now, self._tidy = queue, now, tidy
        self._asking = anyio.Lock()
        self._asked = float("-inf")
        self._last: Sample | QueueUnavailable = Sample(at=0.0)

    async def sample(self) -> Sample:
        """What waits, or waited some seconds ago.

        Raises QueueUnavailable: the queue does not answer now. QueueError: it is broken.
        """
        async with self._asking:  # those who ask meanwhile take what the first one found, a failure too
            if anyio.current_time() - self._asked > FRESH:
                self._last = await self._ask()
                self._asked = anyio.current_time()
        if isinstance(self._last, QueueUnavailable):
            raise QueueUnavailable(str(self._last), hint=self._last.hint) from self._last
        return self._last

    async def _ask(self) -> Sample | QueueUnavailable:
        try:
            with anyio.fail_after(PATIENCE):
                if self._tidy:
                    await self._queue.reap()
                sets = await self._queue.waiting()
        except QueueUnavailable as error:
            return error
        except TimeoutError:
            return QueueUnavailable(f"the queue has not said within {PATIENCE:g} s what waits")
        return Sample(at=self._now(), sets=sets)
