"""Whether the queue answers: since when not, and why. Told once in the agent's log, and to whoever asks the probes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import anyio

from flow_agent import events
from flow_agent.errors import QueueUnavailable
from flow_agent.ports import Queue

WRITES = frozenset({"announce", "append_logs", "claim", "extend", "finish", "release", "started", "take_over"})
"""Verbs whose answers tell that the queue works: those that write, since one whose disk is full, or that is locked,
still lets us read, and that are repeated until they have an answer."""
SLOW = 5.0
"""Seconds after which a call that has no answer yet counts as one that has none."""
HANGS = 90.0
"""Seconds for which a queue may keep one caller waiting."""
FORGOTTEN = 60.0
"""Seconds after which nobody repeats a call that failed, so that its failing says nothing of now any more."""


@dataclass(frozen=True, kw_only=True)
class Away:
    """Something is not as it should ``since`` a time (seconds since the epoch), for a reason in words."""

    since: float
    why: str


class Health:
    """What an agent knows of its queue by the answers that it gets. ``now`` is the wall clock."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._failing: dict[str, float] = {}
        self._calls: dict[int, tuple[str, float]] = {}
        self._away: Away | None = None
        self._answered = time.monotonic()
        self.back = anyio.Event()
        """Set, and replaced, at the first answer after a call that had none."""
        self.on_back: Callable[[], None] = lambda: None
        self.on_answer: Callable[[str, float], None] = lambda *_: None
        """Told of each answer, and how long it took."""
        self.runs: Callable[[], int] = lambda: 0
        self.slots = 0
        self.draining = False
        self._not_claiming: Away | None = Away(since=now(), why="it is starting: it waits for the queue's first answer")
        self._turned: float | None = None
        self._turn = math.inf

    def away(self) -> Away | None:
        """Since when and why the queue does not answer; None while it does."""
        return self._away

    def not_ready(self) -> Away | None:
        """Since when and why no runs are claimed; None while they are."""
        return self._away or self._not_claiming

    def begins(self) -> None:
        """From now on it claims."""
        self._not_claiming = None

    def drains(self) -> None:
        """From now on it claims nothing more."""
        self.draining = True
        self._not_claiming = Away(since=self._now(), why="it drains: it claims nothing more")

    def turned(self, heartbeat: float) -> None:
        """The keeping of leases goes round, every ``heartbeat`` seconds or a little later."""
        self._turned, self._turn = anyio.current_time(), heartbeat

    def stuck(self) -> str | None:
        """Why the agent does nothing any more, as it seems; a queue that is away is no such reason."""
        silent = anyio.current_time() - (self._turned or math.inf)
        if silent > 3 * self._turn + HANGS:
            return f"leases were last looked at {silent:.0f} s ago, expected every {self._turn:g} s"
        return None

    async def watch(self) -> None:
        """Notice also calls that hang, which are no answer either. Ends by being cancelled."""
        while True:
            await anyio.sleep(SLOW / 2)
            verb, began = min(self._calls.values(), key=lambda call: call[1], default=("", math.inf))
            if self._now() - began > SLOW and verb not in self._failing:
                self._silent(verb, began, f"it has not answered for more than {SLOW:g} s; another program may lock it")

    def silence(self) -> float:
        """Seconds since the queue last answered."""
        return time.monotonic() - self._answered

    # What the watched queue tells

    def asked(self, verb: str) -> int:
        """A call began; gives what ``answered`` and ``failed`` call it."""
        call = max(self._calls, default=0) + 1
        self._calls[call] = verb, self._now()
        return call

    def cancelled(self, call: int) -> None:
        """Nobody waits for that answer any more."""
        self._calls.pop(call, None)

    def answered(self, call: int) -> None:
        """That call had an answer."""
        verb, began = self._calls.pop(call)
        self.on_answer(verb, max(0.0, self._now() - began))
        self._answered = time.monotonic()
        if not self._failing:
            return
        self._failing.pop(verb, None)
        oldest = self._now() - FORGOTTEN
        self._failing = {name: at for name, at in self._failing.items() if at > oldest}
        back, self.back = self.back, anyio.Event()
        back.set()
        self.on_back()
        if not self._failing and self._away is not None:
            events.queue_back(self._now() - self._away.since)
            self._away = None

    def failed(self, call: int, error: QueueUnavailable) -> None:
        """That call had none."""
        verb, began = self._calls.pop(call)
        self._silent(verb, began, str(error))

    def _silent(self, verb: str, since: float, why: str) -> None:
        self._failing[verb] = self._now()
        if self._away is None:
            self._away = Away(since=since, why=why)
            events.queue_unavailable(verb, since, why)


class Contact:
    """Whether the queue knows that this agent lives, and whether the others had the time to say so of themselves.

    ``lease``: seconds, of the shortest one; ``heartbeat``: seconds between two signs of life.
    """

    def __init__(self, lease: float, heartbeat: float) -> None:
        self._lease, self._heartbeat = lease, heartbeat
        self._made = self._settled = -math.inf

    def made(self) -> bool:
        """The queue took a sign of life just now; whether it had gone without for too long."""
        lost = self.lost()
        if lost and self._made > -math.inf:
            self._settled = anyio.current_time() + self._heartbeat * 1.5
        self._made = anyio.current_time()
        return lost

    def lost(self) -> bool:
        """Whether leases of ours may have ended, for want of a sign of life."""
        return anyio.current_time() - self._made > self._lease

    def settling(self) -> float:
        """Seconds for which nobody should be taken for lost: after an outage, for a while; during one, no end."""
        return math.inf if self.lost() else self._settled - anyio.current_time()


class _Watched:
    """A queue each of whose answers is noted."""

    def __init__(self, queue: Queue, health: Health) -> None:
        self._queue, self._health = queue, health

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._queue, verb)
        return self._noted(verb, call) if verb in WRITES else call

    def _noted(self, verb: str, call: Callable[..., Any]) -> Any:
        health = self._health

        async def noted(*arguments: Any, **options: Any) -> Any:
            number = health.asked(verb)
            back = health.back
            try:
                answer = await call(*arguments, **options)
            except QueueUnavailable as error:
                health.failed(number, error)
                error.back = back
                raise
            except Exception:  # it refuses, so it is there
                health.answered(number)
                raise
            except BaseException:
                health.cancelled(number)
                raise
            health.answered(number)
            return answer

        return noted


def watched(queue: Queue, health: Health) -> Queue:
    """``queue``, with ``health`` told of each of its answers."""
    return cast("Queue", _Watched(queue, health))
