"""Requests to web APIs: time limits, redirects that lose what is private, and what goes wrong on the way."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.objects import pool
from flow_agent.objects.base import ANSWER_WITHIN, CHUNK, Received, allowed_for
from flow_agent.redact import known

if TYPE_CHECKING:
    import httpx

REDIRECTS = 5
MOST = 1_000_000_000
"""Bytes of a body that is taken at most."""
SAID = 10_000
"""Bytes of an error's body that are read."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request. ``private`` are headers for the first address only: a redirect elsewhere does not carry them.

    ``options`` are further arguments of ``httpx.AsyncClient.build_request``.
    """

    what: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    redirects: bool = True


@asynccontextmanager
async def client(
    *, proxy: str | None = None, verify: bool | str = True, cert: str | Sequence[str] | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that is kept while the program runs. It keeps no cookies: flows that are not of one mind share it.

    ``proxy`` is an address. ``verify`` is a file or folder of authorities, or False: whoever answers is believed.
    ``cert`` is the file of our own certificate, or that, its key, and the key's password.

    Raises StoreError: one of the files cannot be used.
    """

    async def open_one() -> tuple[httpx.AsyncClient, pool.Close]:
        made = await anyio.to_thread.run_sync(partial(_made, proxy, verify, cert))  # it reads certificates
        return made, made.aclose

    async with pool.client(("http", proxy, verify, repr(cert)), open_one) as opened:
        yield opened


def _made(proxy: str | None, verify: bool | str, cert: str | Sequence[str] | None) -> httpx.AsyncClient:
    import httpx  # noqa: PLC0415 - 90 ms that only its users pay

    context: ssl.SSLContext | bool = verify if isinstance(verify, bool) else True
    try:
        if isinstance(verify, str):
            place = {"capath" if Path(verify).is_dir() else "cafile": verify}
            context = ssl.create_default_context(**place)  # type: ignore[arg-type]  # one of two names
        if cert:
            context = context if isinstance(context, ssl.SSLContext) else httpx.create_ssl_context(context)
            context.load_cert_chain(*([cert] if isinstance(cert, str) else cert))
    except (OSError, TypeError) as error:
        raise StoreError(
            f"the certificates of verify {verify!r} and cert {known.text(repr(cert))} cannot be used: {error}",
            transient=False,
            hint="give files in PEM format that are on the agent's machine",
        ) from error
    nothing = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.AsyncClient(timeout=10.0, follow_redirects=False, verify=context, proxy=proxy, cookies=nothing)


@asynccontextmanager
async def answer(opened: httpx.AsyncClient, request: Request) -> AsyncIterator[httpx.Response]:
    """The answer, whatever its status, its body not read: ``ANSWER_WITHIN`` until then, then ``allowed_for`` its body.

    Raises StoreError: there is none, or it leads in circles or from https to http.
    """
    import httpx  # noqa: PLC0415 - as above

    try:
        with anyio.fail_after(ANSWER_WITHIN) as scope:
            for _ in range(REDIRECTS + 1):
                async with _sent(opened, request) as response:
                    if not (request.redirects and response.has_redirect_location):
                        length = response.headers.get("Content-Length", "")
                        size = int(length) if length.isdigit() else MOST
                        scope.deadline = anyio.current_time() + allowed_for(size)
                        yield response
                        return
                    request = _redirected(request, response)
            raise StoreError(f"{request.what}: more than {REDIRECTS} redirects", transient=False)
    except TimeoutError as error:
        raise StoreError(f"{request.what}: no answer in time", transient=True) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.CookieConflict) as error:
        raise StoreError(known.text(f"{request.what}: {error}"), transient=False, hint="see the address") from error
    except httpx.HTTPError as error:
        raise _failed(request.what, error) from error


@asynccontextmanager
async def _sent(opened: httpx.AsyncClient, request: Request) -> AsyncIterator[httpx.Response]:
    import httpx  # noqa: PLC0415 - as above

    headers = {"Accept-Encoding": "identity", **request.headers, **request.private}
    try:
        built = opened.build_request(request.method, request.url, headers=headers, **request.options)
        response = await opened.send(built, stream=True)
    except (httpx.LocalProtocolError, UnicodeEncodeError):
        # Their texts hold the header, which may hold a secret.
        raise StoreError(
            f"{request.what}: a header cannot be sent as it is",
            transient=False,
            hint="see that neither the headers nor the secrets in them have line ends, or letters of no header",
        ) from None
    try:
        yield response
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await response.aclose()


def _redirected(request: Request, response: httpx.Response) -> Request:
    """The next request of a redirect: to another place without what is private, and with a body only as asked."""
    url = urljoin(request.url, response.headers["Location"])
    here, there = urlsplit(request.url), urlsplit(url)
    if here.scheme == "https" and there.scheme != "https":
        raise StoreError(f"{request.what}: the answer leads from https to {there.scheme}", transient=False)
    same = (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
    method, options = request.method, dict(request.options)
    options.pop("params", None)  # they are part of the address by now
    if not same:
        for name in ("cookies", "auth"):
            options.pop(name, None)
    if response.status_code == 303 or (response.status_code in (301, 302) and method == "POST"):
        method = "GET"
        for name in ("content", "data", "json", "files"):
            options.pop(name, None)
    return replace(request, url=url, method=method, options=options, private=request.private if same else {})


def _failed(what: str, error: Exception) -> StoreError:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ssl.SSLCertVerificationError):
            return StoreError(
                f"{what}: the certificate is not trusted: {chain.verify_message}",
                transient=False,
                hint="give the authority's certificate with SSL_CERT_FILE",
            )
        chain = chain.__cause__ or chain.__context__
    return StoreError(known.text(f"{what}: {type(error).__name__}: {error}".rstrip(": ")), transient=True)


async def save(response: httpx.Response, into: Path, what: str, most: int = MOST) -> tuple[str, int]:
    """Stream the body into the new file ``into``; gives its SHA-256 (hex) and its bytes.

    Raises StoreError: it has more than ``most`` bytes, or comes too slowly. OSError.
    """
    with Received(into, what) as received:
        async for chunk in response.aiter_bytes(CHUNK):
            await anyio.to_thread.run_sync(received.write, chunk)
            if received.size > most:
                raise StoreError(f"{what} has more than {most // 1_000_000} MB", transient=False)
        return received.digest(received.size), received.size


async def said(response: httpx.Response) -> bytes:
    """The begin of an error's body."""
    found = b""
    async for chunk in response.aiter_bytes():
        found += chunk
        if len(found) >= SAID:
            break
    return found[:SAID]


def busy(response: httpx.Response, what: str, text: str) -> StoreError | None:
    """The error of an answer that says to come again, else None."""
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        return StoreError(text, transient=True, retry_after=retry_after(response.headers))
    if status == 407:
        return StoreError(f"{what}: the proxy wants credentials", transient=False, hint="give them in HTTPS_PROXY")
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After, a number or a date."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
