"""Waiting for a run, following its log, ending it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio

from flow_agent.model import LogLine, Run
from flow_agent.ports import Queue

T = TypeVar("T")

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5
"""Seconds between two looks at a run; the pause doubles from the first to the longest while nothing happens."""

REAP_EVERY = 1.0
"""Seconds between two looks for claims whose lease has ended, while somebody waits."""

OUTAGE = 60.0
"""Seconds for which somebody who waits for a run bears a queue that does not answer."""


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The queue's answer; a server that restarts does not end the waiting, until OUTAGE."""
    from flow_agent.retry import answered  # noqa: PLC0415 - most verbs do not wait

    until = anyio.current_time() + OUTAGE
    return await answered(call, lambda _wait, _error: None, lambda: anyio.current_time() > until)


class _Reaping:
    """Has the queue resolve lost claims once a second: where no agent lives, nobody else does."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._next = anyio.current_time() + REAP_EVERY

    async def now_and_then(self) -> None:
        if anyio.current_time() >= self._next:
            self._next = anyio.current_time() + REAP_EVERY
            await _patiently(self._queue.reap)


async def wait_run(queue: Queue, run_id: str, timeout: float | None = None) -> Run:  # noqa: ASYNC109 - for sync callers
    """The run, once it has ended. Meanwhile claims whose lease has ended are resolved.

    Raises TimeoutError: it has not within ``timeout`` seconds. NotFound.
    """
    run = await queue.get(run_id)
    deadline = None if timeout is None else anyio.current_time() + timeout
    reaping = _Reaping(queue)
    pause = FIRST_PAUSE
    while not run.state.terminal:
        if deadline is not None:
            left = deadline - anyio.current_time()
            if left <= 0:
                raise TimeoutError(f"run {run.id} is still {run.state} after {timeout:g} s")
            pause = min(pause, left)
        await anyio.sleep(pause)
        pause = min(max(pause, FIRST_PAUSE) * 2, LONGEST_PAUSE)
        await reaping.now_and_then()
        run = await _patiently(partial(queue.get, run.id))
    return run


async def cancel_run(queue: Queue, run_id: str, *, wait: bool = False) -> Run:
    """Cancel the run; with ``wait``, return when nothing of it runs any more. One that has ended stays as it is.

    Raises NotFound.
    """
    run = await queue.cancel(run_id)
    return await wait_run(queue, run.id) if wait else run


async def follow_logs(queue: Queue, run_id: str, *, follow: bool = False) -> AsyncGenerator[LogLine, None]:
    """The lines of the run in order; with ``follow``, until it has ended and all were given, as with ``wait_run``.

    Raises NotFound.
    """
    run = await queue.get(run_id)
    after, pause = 0, FIRST_PAUSE
    reaping = _Reaping(queue)
    while True:
        # Looked at before the lines are read: what is written before a run ends is then surely among them.
        ended = not follow or run.state.terminal
        lines = await _patiently(partial(queue.logs, run.id, after=after))
        for line in lines:
            after = line.cursor
            yield line
        if not lines:
            if ended:
                return
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        else:
            pause = FIRST_PAUSE
        if not ended:
            await reaping.now_and_then()
            run = await _patiently(partial(queue.get, run.id))
