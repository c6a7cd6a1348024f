"""One call of the API of a cluster, and what its refusals mean. Every read has a time limit; nothing is repeated here,
except once with another token."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from flow_agent.cluster.access import Access
from flow_agent.errors import ClusterError, EngineError

CONNECT_WITHIN = 10.0
ANSWER_WITHIN = 30.0
"""Seconds for a connection, and for each piece of an answer."""
PASSING = frozenset({401, 408, 429, 500, 502, 503, 504})
"""Answers after which the same call may go through; an expired token may be renewed by whoever does that."""
MERGE = "application/merge-patch+json"
FORBIDDEN, GONE = 403, 410


def forbidden(error: EngineError) -> bool:
    """Whether a role lacks what was asked for, which may be given back."""
    return error.status == FORBIDDEN


class Cluster:
    """The API server of ``access``."""

    def __init__(self, access: Access, client: httpx.AsyncClient) -> None:
        self.access, self._client = access, client

    async def call(
        self, method: str, path: str, what: str, *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> dict[str, Any]:
        """The object that the server answers with; ``what`` says for people what is done.

        Raises ClusterError.
        """
        async with self._answer(method, path, what, quiet=ANSWER_WITHIN, query=query, body=body) as answer:
            try:
                data = await answer.aread()
            except httpx.TransportError as error:
                raise self._away(what, error) from error
        try:
            return dict(json.loads(data))
        except ValueError as error:
            raise ClusterError(f"{what}: the answer is no JSON object", transient=True) from error

    @asynccontextmanager
    async def lines(
        self, path: str, what: str, *, query: Mapping[str, Any], quiet: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pieces of an answer that goes on; one that is silent for ``quiet`` seconds has failed.

        Raises ClusterError, also where the pieces are taken.
        """
        async with self._answer("GET", path, what, quiet=quiet, query=query) as answer:

            async def pieces() -> AsyncGenerator[bytes]:
                try:
                    async for piece in answer.aiter_raw():
                        yield piece
                except httpx.TransportError as error:
                    raise self._away(what, error) from error

            async with contextlib.aclosing(pieces()) as found:
                yield found

    @asynccontextmanager
    async def _answer(self, method: str, path: str, what: str, **asked: Any) -> AsyncIterator[httpx.Response]:
        """``asked`` is the rest of ``_sent``."""
        answer = await self._sent(method, path, what, **asked)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await answer.aclose()
            answer = await self._sent(method, path, what, refused=True, **asked)
        try:
            if answer.is_error:
                try:
                    await answer.aread()
                except httpx.TransportError as error:
                    raise self._away(what, error) from error
                raise _refusal(what, answer)
            yield answer
        finally:
            await answer.aclose()

    async def _sent(
        self,
        method: str,
        path: str,
        what: str,
        *,
        quiet: float,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        refused: bool = False,
    ) -> httpx.Response:
        headers = {"Accept": "application/json, */*"}
        if token := await self.access.tokens.current(refused=refused):
            headers["Authorization"] = f"Bearer {token}"
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = MERGE if method == "PATCH" else "application/json"
        patience = httpx.Timeout(ANSWER_WITHIN, connect=CONNECT_WITHIN, read=quiet)
        request = self._client.build_request(
            method, path, params=dict(query or {}), content=content, headers=headers, timeout=patience
        )
        try:
            return await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise self._away(what, error) from error

    def _away(self, what: str, error: Exception) -> ClusterError:
        kind = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
        return ClusterError(
            f"{what}: the API server {self.access.server} does not answer: {kind}", transient=True, away=True
        )


def _refusal(what: str, answer: httpx.Response) -> ClusterError:
    """The server's own words: it answers with a Status, what stands before it may not."""
    status: dict[str, Any] = {}
    with contextlib.suppress(ValueError, TypeError):
        status = dict(json.loads(answer.content))
    words = str(status.get("message") or answer.text.strip()[:500] or answer.reason_phrase)
    code = answer.status_code
    wait = (status.get("details") or {}).get("retryAfterSeconds") or answer.headers.get("Retry-After")
    hint = None
    if code == httpx.codes.FORBIDDEN:
        hint = "the page on Kubernetes lists what the agent's role must allow"
    elif code == httpx.codes.UNAUTHORIZED:
        hint = "see to the agent's token or kubeconfig"
    return ClusterError(
        f"{what}: {words}" + ("" if words.startswith(str(code)) else f" ({code})"),
        transient=code in PASSING,
        status=code,
        reason=str(status.get("reason") or ""),
        missing=code == httpx.codes.NOT_FOUND,
        retry_after=_seconds(wait),
        hint=hint,
    )


def _seconds(value: object) -> float | None:
    try:
        return min(60.0, max(0.0, float(str(value))))
    except ValueError:
        return None


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Cluster]:
    """A client of the cluster; its connections are closed with the block."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30.0)
    options: dict[str, Any] = {"verify": access.verify, "limits": limits, "trust_env": False}
    async with httpx.AsyncClient(base_url=access.server, **options) as client:
        yield Cluster(access, client)
