"""What a cluster forbids while something of ours goes on in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from flow_agent.errors import ClusterError

T = TypeVar("T")

AGAIN = 30.0
"""Seconds after which what is forbidden is asked for again."""
FORBIDDEN = frozenset({401, 403})


def lasting(call: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """``call``, for which a refusal is something that may pass: no role that is changed ends what runs."""

    async def asked() -> T:
        try:
            return await call()
        except ClusterError as error:
            if error.status not in FORBIDDEN:
                raise
            raise ClusterError(
                str(error), transient=True, status=error.status, retry_after=AGAIN, hint=error.hint
            ) from error

    return asked
