"""Requests to the server over one pool of connections, and what their answers mean."""

from __future__ import annotations

import gzip
import ssl
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from flow_agent import wire
from flow_agent.errors import FlowAgentError, InvalidInput, QueueError, QueueUnavailable
from flow_agent.queues.http.access import Access
from flow_agent.version import __version__

if TYPE_CHECKING:
    import httpx

CONNECTIONS = 64
CONNECT, ANSWER = 5.0, 30.0
"""Seconds for a connection, and for each part of an answer beside what the request itself asks to wait."""
IDLE = 30.0
"""Seconds for which an unused connection is kept; less than at the server, which might close one that is in use."""
PACKED_FROM = 2_048
"""Bytes from which a body is compressed."""
REFUSED = 401
AWAY = {408, 425, 429, 502, 503, 504}
"""What proxies say for a server that may be there later."""


class Connection:
    """The way to one server; open while the block runs."""

    def __init__(self, url: str, access: Access, ca: str | None) -> None:
        self._url, self._access, self._ca = _checked(url), access, ca
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Connection:
        self._client = await anyio.to_thread.run_sync(self._made)  # it reads certificates
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._client is not None
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await self._client.aclose()

    def _made(self) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415 - 90 ms that only its users pay

        # Without TLS nothing is verified, and reading the system's authorities takes 25 ms.
        verify: ssl.SSLContext | bool = self._url.lower().startswith("https:")
        if self._ca:
            path = Path(self._ca)
            try:
                place = {"capath": str(path)} if path.is_dir() else {"cafile": str(path)}
                verify = ssl.create_default_context(**place)  # type: ignore[arg-type]  # one of two names
            except OSError as error:
                raise InvalidInput(
                    f"queue_ca {self._ca}: no authorities can be read there: {error}",
                    hint="expected a file or folder of certificates in PEM format",
                ) from error
        return httpx.AsyncClient(
            base_url=self._url,
            verify=verify,
            headers={"User-Agent": f"flow-agent/{__version__}", "Content-Type": "application/json"},
            timeout=httpx.Timeout(ANSWER, connect=CONNECT, pool=None),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=8, keepalive_expiry=IDLE),
        )

    async def ask(self, verb: str, request: Any, *, patience: float = 0.0) -> Any:
        """The answer to ``request``; the server may take ``patience`` seconds more than usual.

        Raises what the verb raises in ``ports.Queue``, as the server tells it; QueueUnavailable: no answer came.
        """
        described = wire.VERBS[verb]
        body, headers = wire.encode(described.request, request), {}
        if len(body) >= PACKED_FROM:
            body, headers = gzip.compress(body, 1), {"Content-Encoding": "gzip"}
        token = self._access.token
        response = await self._sent(verb, body, headers, token, patience)
        if response.status_code == REFUSED and await anyio.to_thread.run_sync(self._access.renewed, token):
            response = await self._sent(verb, body, headers, self._access.token, patience)
        if response.status_code != 200:
            raise self._refusal(verb, response)
        self._access.taken()
        try:
            return wire.decode(described.answer, response.content)
        except ValueError as error:
            raise QueueError(
                f"{self._shown(verb)} answered what cannot be understood: {error}",
                hint="client and server should be of neighbouring versions",
            ) from error

    async def _sent(
        self, verb: str, body: bytes, headers: dict[str, str], token: str, patience: float
    ) -> httpx.Response:
        import httpx  # noqa: PLC0415 - as above

        assert self._client is not None
        timeout = httpx.Timeout(ANSWER + patience, connect=CONNECT, pool=None)
        try:
            return await self._client.post(
                wire.PREFIX.lstrip("/") + verb,
                content=body,
                headers={**headers, "Authorization": f"Bearer {token}"} if token else headers,
                timeout=timeout,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._no_answer(verb, error) from error

    def _no_answer(self, verb: str, error: Exception) -> FlowAgentError:
        chain: BaseException | None = error
        while chain is not None:
            if isinstance(chain, ssl.SSLCertVerificationError):
                return QueueError(
                    f"{self._shown(verb)}: the certificate is not trusted: {chain.verify_message}",
                    hint="give the authority's certificate in FLOW_AGENT_QUEUE_CA",
                )
            chain = chain.__cause__ or chain.__context__
        said = str(error) or type(error).__name__
        return QueueUnavailable(f"{self._shown(verb)} gives no answer: {said}", hint="is its server running?")

    def _refusal(self, verb: str, response: httpx.Response) -> Exception:
        try:
            told = wire.decode(wire.Refusal, response.content)
            kind = wire.ERRORS[told.error][0]
        except (ValueError, KeyError):
            return self._foreign(verb, response.status_code)
        if response.status_code == REFUSED and self._access.waits:
            return QueueUnavailable(
                f"{self._shown(verb)} refuses the token that it took: {told.message}",
                hint="put another one into the file of the token; it is read again",
            )
        if issubclass(kind, FlowAgentError):
            return kind(told.message, hint=told.hint)
        return kind(told.message)

    def _foreign(self, verb: str, status: int) -> QueueError:
        """An answer that is not our server's."""
        if status in AWAY or status >= 500:
            return QueueUnavailable(f"{self._shown(verb)} answered {status}", hint="is its server running?")
        return QueueError(
            f"{self._shown(verb)} answered {status}, as no server of flow-agent does",
            hint="look at the address, and at what stands between",
        )

    def _shown(self, verb: str) -> str:
        return f"the queue at {self._url} ({verb})"


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment:
        raise InvalidInput("the queue's URL cannot be used: expected http://HOST:PORT or https://HOST:PORT")
    if "@" in parts.netloc:
        raise InvalidInput(
            f"the queue's URL holds a login; {parts.hostname} wants a token, which stands in no URL",
            hint="set FLOW_AGENT_QUEUE_TOKEN, or FLOW_AGENT_QUEUE_TOKEN_FILE",
        )
    return url.rstrip("/") + "/"
