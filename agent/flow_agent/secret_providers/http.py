"""What the providers behind HTTP share: one client, time limits, and what its failures mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from flow_agent.errors import SecretUnavailable

if TYPE_CHECKING:
    import httpx

WITHIN = 15.0
"""Seconds for a whole answer."""


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client with time limits that follows no redirect: a token is for one address."""
    import httpx  # noqa: PLC0415 - 90 ms that only its users pay

    async with httpx.AsyncClient(timeout=10.0, follow_redirects=False, **options) as opened:
        yield opened


async def ask(opened: httpx.AsyncClient, what: str, method: str, url: str, **options: Any) -> httpx.Response:
    """The answer, whatever its status below 500 and but for 429.

    Raises SecretUnavailable: there is none in time, or it says that the service cannot answer now.
    """
    import httpx  # noqa: PLC0415 - as above

    try:
        with anyio.fail_after(WITHIN):
            answer = await opened.request(method, url, **options)
    except (httpx.HTTPError, TimeoutError) as error:
        # The text of some of them holds the request's URL, never its headers or body.
        raise SecretUnavailable(f"{what} does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code == 429 or answer.status_code >= 500:
        raise SecretUnavailable(f"{what} answers {answer.status_code} {answer.reason_phrase}")
    return answer


def fields(answer: httpx.Response, what: str) -> dict[str, Any]:
    """The JSON table of an answer.

    Raises SecretUnavailable: it is none.
    """
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SecretUnavailable(f"{what} answers {answer.status_code} with something that is no JSON table")
    return found
