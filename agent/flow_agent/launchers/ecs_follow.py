"""Follows the log of a task to its end."""

from __future__ import annotations

import anyio

from flow_agent import events, retry
from flow_agent.errors import CloudError
from flow_agent.launchers import ecs_ends as ends
from flow_agent.launchers.ecs_held import Held
from flow_agent.launchers.ecs_log import TaskLog
from flow_agent.ports import Sink

SOON, LATE = 0.5, 10.0
"""Seconds between two looks at a log, while there is something new in it, and at most."""
BEHIND = 30.0
"""Seconds after the end of a task for which its log may still be on its way."""
STOPPED_BEHIND = 5.0
"""The same, of one that was stopped."""
UNREAD = 60.0
"""The same, where we may not read it."""


async def read(held: Held, log: TaskLog, sink: Sink) -> None:
    """Hand over what the task writes, until its last word, or until no more can come; ``log.unread`` if that cannot
    be told, because the log cannot be read."""
    pause, ended = SOON, None
    while True:
        if ends.state(held.task) == "ended" and ended is None:
            ended = anyio.current_time()
        found = await look(held, log, sink)
        behind = _behind(held, log)
        if log.over or (ended is not None and anyio.current_time() >= ended + behind):
            return
        pause = SOON if found or ended is not None else min(LATE, pause * 1.5)
        changed = held.changed
        with anyio.move_on_after(pause):
            await changed.wait()


def _behind(held: Held, log: TaskLog) -> float:
    """Seconds after the end of its task for which its log may still be on its way."""
    task = held.task or {}
    if task.get("stopCode") == "TaskFailedToStart" or (held.stopped and not task.get("startedAt")):
        return 0.0
    if held.stopped:  # what it wrote last is worth less then, and somebody waits
        return STOPPED_BEHIND
    return UNREAD if log.unread else BEHIND


async def look(held: Held, log: TaskLog, sink: Sink) -> int:
    """How much was new in the log. That we may not read it is told once: the flow goes on all the same."""
    try:
        found = await retry.reached(
            lambda: log.read(sink), lambda wait, error: events.cloud_waits(held.ref, wait, error)
        )
    except CloudError as error:
        if log.unread is None:
            events.cloud_waits(held.ref, SOON, error)
        log.unread = error
        return 0
    log.unread = None
    return found
