"""The one place that retries calls, and the only one that imports tenacity. Adapters say what is transient."""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)

from flow_agent.errors import EngineError, QueueUnavailable, RunError, StoreError

T = TypeVar("T")

SOONEST = 0.2
"""Seconds before which a queue that answered others is not asked again: it may go on refusing this one call."""

REFUSED_AGAIN = 30.0
"""Seconds after which what was refused is asked for again."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when there is no room left on a disk."""

PASSING = (RunError, StoreError, EngineError)
"""The errors that say of themselves whether another try can help."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """At most ``tries`` tries within ``seconds``; waits double from ``first`` to ``longest`` seconds, with full jitter.

    Full jitter: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """

    tries: int = 5
    seconds: float = 60.0
    first: float = 0.2
    longest: float = 10.0


async def fetching(
    policy: Policy, call: Callable[[], Awaitable[T]], on_wait: Callable[[int, float, BaseException], Awaitable[None]]
) -> T:
    """The answer of ``call``, tried again while it raises a transient RunError, StoreError or EngineError.

    ``on_wait`` is told the number of the try that failed, the seconds until the next, and the error. A storage that
    asks for a longer wait (``retry_after``) gets it, if it is within ``policy.seconds``.

    Raises the last error.
    """
    backoff = wait_random_exponential(multiplier=policy.first, max=policy.longest)

    def wait(state: RetryCallState) -> float:
        asked = getattr(_error(state), "retry_after", None) or 0.0
        return max(asked, backoff(state))

    async def before_sleep(state: RetryCallState) -> None:
        await on_wait(state.attempt_number, state.upcoming_sleep, _error(state))

    def retrying(passed: float) -> AsyncRetrying:
        return AsyncRetrying(
            sleep=anyio.sleep,
            wait=wait,
            stop=stop_after_attempt(policy.tries) | _would_pass(policy.seconds - passed),
            retry=retry_if_exception(lambda error: isinstance(error, PASSING) and error.transient),
            before_sleep=before_sleep,
            reraise=True,
        )

    return await _called(call, retrying)


async def storing(
    seconds: float,
    call: Callable[[], Awaitable[T]],
    on_wait: Callable[[float, BaseException], Awaitable[None]],
) -> T:
    """The answer of ``call``, which writes a result, tried again for ``seconds``, at most every 10 s.

    Tried again is a full disk, and what says of itself that it is transient. A store that asks for a longer wait gets
    it.

    Raises the last error.
    """
    backoff = wait_random_exponential(multiplier=0.5, max=10.0)

    def wait(state: RetryCallState) -> float:
        return max(min(getattr(_error(state), "retry_after", None) or 0.0, seconds), backoff(state))

    async def before_sleep(state: RetryCallState) -> None:
        await on_wait(state.upcoming_sleep, _error(state))

    def may_pass(error: BaseException) -> bool:
        full = isinstance(error, OSError) and error.errno in FULL
        return full or (isinstance(error, RunError) and error.transient)

    def retrying(passed: float) -> AsyncRetrying:
        return AsyncRetrying(
            sleep=anyio.sleep,
            wait=wait,
            stop=stop_after_delay(seconds - passed),
            retry=retry_if_exception(may_pass),
            before_sleep=before_sleep,
            reraise=True,
        )

    return await _called(call, retrying)


async def answered(
    call: Callable[[], Awaitable[T]],
    on_wait: Callable[[float, BaseException], None],
    give_up: Callable[[], bool] = lambda: False,
) -> T:
    """The answer of the queue to ``call``, asked for ever while it is unavailable, at most every 10 s.

    A queue that has answered somebody else meanwhile (the error's ``back``) is asked sooner.
    For verbs that may be repeated (all of them). It ends by being cancelled, with any other error, or with
    QueueUnavailable once ``give_up`` says so.
    """
    back: anyio.Event | None = None

    def before_sleep(state: RetryCallState) -> None:
        nonlocal back
        back = getattr(_error(state), "back", None)
        on_wait(state.upcoming_sleep, _error(state))

    async def sleep(seconds: float) -> None:
        await anyio.sleep(min(seconds, SOONEST))
        with anyio.move_on_after(seconds - SOONEST):
            await (back.wait() if back is not None else anyio.sleep(seconds))

    def retrying(_: float) -> AsyncRetrying:
        return AsyncRetrying(
            sleep=sleep,
            wait=wait_random_exponential(multiplier=0.1, max=10.0),
            stop=stop_never,
            retry=retry_if_exception(lambda error: isinstance(error, QueueUnavailable) and not give_up()),
            before_sleep=before_sleep,
            reraise=True,
        )

    return await _called(call, retrying)


async def reached(
    call: Callable[[], Awaitable[T]],
    on_wait: Callable[[float, BaseException], None],
    give_up: Callable[[], bool] = lambda: False,
    refused: Callable[[EngineError], bool] = lambda _: False,
) -> T:
    """The answer of an engine to ``call``, asked again at most every 5 s while that fails in a way that may pass; one
    that asks for a longer wait (``retry_after``) gets it.

    ``refused`` says which lasting errors are refusals. What is looked at goes on whether we may look at it or not, and
    whoever took the permission can give it back: it is asked again every 30 s.

    Raises the last EngineError: another try cannot help, or ``give_up`` says so.
    """

    backoff = wait_random_exponential(multiplier=0.1, max=5.0)

    def may_pass(error: BaseException) -> bool:
        return isinstance(error, EngineError) and (error.transient or refused(error)) and not give_up()

    def wait(state: RetryCallState) -> float:
        error = _error(state)
        own = backoff(state) if getattr(error, "transient", False) else REFUSED_AGAIN
        return max(getattr(error, "retry_after", None) or 0.0, own)

    async def before_sleep(state: RetryCallState) -> None:
        on_wait(state.upcoming_sleep, _error(state))

    def retrying(_: float) -> AsyncRetrying:
        return AsyncRetrying(
            sleep=anyio.sleep,
            wait=wait,
            stop=stop_never,
            retry=retry_if_exception(may_pass),
            before_sleep=before_sleep,
            reraise=True,
        )

    return await _called(call, retrying)


async def _called(call: Callable[[], Awaitable[T]], retrying: Callable[[float], AsyncRetrying]) -> T:
    """The answer of ``call``, tried again as ``retrying`` says, which is given the seconds of the first try.

    That try is bare: nearly all calls need no other, and what tenacity does around each takes 0.1 ms.
    """
    began = time.monotonic()
    try:
        return await call()
    except Exception as error:  # noqa: BLE001 - raised again inside, where ``retrying`` decides
        failed: Exception | None = error
    async for attempt in retrying(time.monotonic() - began):
        with attempt:
            if failed is not None:
                first, failed = failed, None
                raise first
            return await call()
    raise AssertionError("unreachable: tenacity returns or raises")


def _error(state: RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


class _would_pass(stop_after_delay):  # noqa: N801 - tenacity's own style for its conditions
    """Stop when the next wait would end after so many seconds."""

    def __call__(self, state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > self.max_delay
