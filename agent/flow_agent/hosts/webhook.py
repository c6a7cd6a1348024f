"""Arbitrary requests, described in the words of the library requests, done by httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from flow_agent.errors import StoreError
from flow_agent.hosts import http
from flow_agent.redact import known

if TYPE_CHECKING:
    import httpx

HINTS = {
    401: "see the token that the request carries",
    403: "see what the token of the request allows",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request whose templates are filled in. ``shown`` is its address with the names of secrets, for errors."""

    method: str
    shown: str
    arguments: Mapping[str, Any]
    content: bytes | None = None


@asynccontextmanager
async def answered(call: Call, condition: Mapping[str, str] | None = None) -> AsyncIterator[httpx.Response]:
    """A good answer (2xx, and 304 with a ``condition``), its body not read.

    Raises StoreError.
    """
    what = f"{call.method} {call.shown}"
    try:
        request = _request(call, what, condition or {})
        async with http.client(**_client(call.arguments)) as client:
            with anyio.fail_after(_seconds(call.arguments.get("timeout"))):
                async with http.answer(client, request) as response:
                    if not (response.is_success or (condition and response.status_code == 304)):
                        raise _refused(what, response, await http.said(response))
                    yield response
    except TimeoutError:
        raise StoreError(f"{what}: no answer within its time limit", transient=True) from None
    except (ValueError, TypeError) as error:
        raise StoreError(
            known.text(f"{what}: {error}"), transient=False, hint="see the arguments of the request"
        ) from None


def _request(call: Call, what: str, condition: Mapping[str, str]) -> http.Request:
    given = call.arguments
    options: dict[str, Any] = {name: given[name] for name in ("params", "json", "data", "cookies") if name in given}
    if call.content is not None:
        options = {**{k: v for k, v in options.items() if k in ("params", "cookies")}, "content": call.content}
    elif isinstance(options.get("data"), str):
        options["content"] = options.pop("data").encode()
    elif isinstance(options.get("data"), list):
        options["data"] = _form(options["data"])
    return http.Request(
        what=what,
        url=given["url"].strip(),
        method=call.method,
        headers=condition,
        private={**_login(given.get("auth")), **_headers(given.get("headers") or {})},
        options=options,
        redirects=given.get("allow_redirects", True) is not False,
    )


def _client(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: given[name] for name in ("verify", "cert") if given.get(name) is not None}
    proxies = given.get("proxies")
    if proxies:
        scheme = str(given["url"]).partition(":")[0].lower()
        found["proxy"] = proxies if isinstance(proxies, str) else proxies.get(scheme) or proxies.get("all")
    return found


def _headers(given: Mapping[str, str | None]) -> dict[str, Any]:
    """As the library requests sends them; a line end behind a value is that of a secret's file."""
    return {name: value.strip().encode("latin-1") for name, value in given.items() if value is not None}


def _form(pairs: Sequence[Any]) -> dict[str, list[Any]]:
    """A form's fields by name, of a list of names and values."""
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _login(auth: Any) -> dict[str, str]:
    if auth is None:
        return {}
    from base64 import b64encode  # noqa: PLC0415 - few webhooks have it

    pair = b64encode(":".join(auth).encode()).decode()
    known.add(pair)
    return {"Authorization": f"Basic {pair}"}


def _seconds(timeout: Any) -> float | None:
    """The time limit of the request itself; a pair is that of connecting and that of reading."""
    if isinstance(timeout, list):
        return sum(float(each) for each in timeout if each is not None) or None
    return float(timeout) if timeout is not None else None


def _refused(what: str, response: httpx.Response, body: bytes) -> StoreError:
    status = response.status_code
    said = known.text(body[:300].decode("utf-8", "replace")).strip()
    text = f"{what}: {status}{f' ({said})' if said else ''}"
    if (error := http.busy(response, what, text)) is not None:
        return error
    if status in (404, 410):
        return StoreError(text, transient=False, missing=True)
    return StoreError(text, transient=False, hint=HINTS.get(status))


async def save(response: httpx.Response, into: Path, what: str) -> str:
    """Stream the body into the new file ``into``; gives its SHA-256 (hex).

    Raises StoreError, OSError.
    """
    digest, _ = await http.save(response, into, what)
    return digest
