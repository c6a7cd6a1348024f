"""What every request passes before it is read: who asks, whether they may, how much and how slowly they may send."""

from __future__ import annotations

import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio

from flow_agent import wire
from flow_agent.backlog import Backlog
from flow_agent.errors import FlowAgentError
from flow_agent.server.callers import Caller
from flow_agent.server.probes import WAITING
from flow_agent.server.service import Service
from flow_agent.server.tokens import Token, Tokens

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN_KEY = b"every caller is the same one"
"""What proofs are made with where there are no tokens: they show nothing then but that a claim is whole."""
FRESH = 0.5
"""Seconds for which what the file of tokens said is taken for true."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """``body``: bytes of a request, also once unpacked. ``seconds``: for receiving it, and for taking a part of the
    answer."""

    body: int = 16_000_000
    seconds: float = 30.0


class Refused(Exception):
    """The request is answered with this refusal."""

    def __init__(self, error: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.refusal = wire.Refusal(error=error, message=message, hint=hint)


class Gate:
    """An ASGI application in front of another one, which answers by ``service``, and tells of ``backlog``. ``tokens``
    None lets everybody do everything."""

    def __init__(self, app: App, service: Service, backlog: Backlog, tokens: Tokens | None, bounds: Bounds) -> None:
        self._app, self._service, self._backlog, self._tokens, self._bounds = app, service, backlog, tokens, bounds
        self._known: dict[str, Token] = {}
        self._read_at = float("-inf")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = False

        async def bounded_send(message: Message) -> None:
            nonlocal begun
            begun = True
            with anyio.fail_after(self._bounds.seconds):  # a reader that takes nothing holds nothing for long
                await send(message)

        verb = wire.VERBS.get(scope["path"].removeprefix(wire.PREFIX)) if scope["type"] == "http" else None
        if scope["type"] == "http":
            scope.setdefault("state", {}).update(service=self._service, backlog=self._backlog)
        try:
            if verb is not None and scope["path"].startswith(wire.PREFIX) and scope["method"] == "POST":
                scope["state"]["caller"] = self._caller(scope, verb)
                receive = _again(await self._body(scope, receive), receive)
            elif scope["type"] == "http" and scope["path"] == WAITING:
                self._caller(scope, wire.VERBS["waiting"])
            await self._app(scope, receive, bounded_send)
        except Refused as refused:
            if not begun:
                await answer(bounded_send, refused.refusal)
        except TimeoutError:  # of an answer that nobody takes: leaving it undone closes the connection
            return

    def _caller(self, scope: MutableMapping[str, Any], verb: wire.Verb) -> Caller:
        if self._tokens is None:
            return Caller(name="", key=OPEN_KEY)
        given = _header(scope, b"authorization")
        kind, _, text = given.partition(" ")
        try:
            token = self._token(text.strip()) if kind.lower() == "bearer" else None
            key = self._tokens.content().key
        except FlowAgentError as error:
            raise Refused("queue_unavailable", str(error), error.hint) from None
        if token is None:
            what = "the token is not known: it was revoked, has expired or is none" if given else "a token is needed"
            raise Refused("no_token", what, "set FLOW_AGENT_QUEUE_TOKEN; `flow-agent tokens create` makes one")
        if not token.allows(verb.scopes):
            has, wants = ", ".join(token.scopes), " or ".join(verb.scopes)
            raise Refused(
                "no_scope",
                f"token {token.name!r} has the scope {has}, and this needs {wants}",
                "`flow-agent tokens create` makes one with another scope",
            )
        return Caller(name=token.name, key=key)

    def _token(self, text: str) -> Token | None:
        assert self._tokens is not None
        if time.monotonic() - self._read_at > FRESH:
            self._known.clear()
            self._read_at = time.monotonic()
        if (token := self._known.get(text)) is None and (token := self._tokens.known(text)) is not None:
            self._known[text] = token
        return token

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        most = self._bounds.body
        packed = _header(scope, b"content-encoding").lower()
        if packed not in {"", "identity", "gzip"}:
            raise Refused("invalid_input", f"the body is packed as {packed[:40]!r}: expected gzip, or not at all")
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            with anyio.fail_after(self._bounds.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused("too_slow", "the body has no end")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise _too_large(most)
        except TimeoutError:
            raise Refused(
                "too_slow", f"the body has not arrived within {self._bounds.seconds:g} s", "send less at once"
            ) from None
        return _unpacked(bytes(body), most) if packed == "gzip" else bytes(body)


async def answer(send: Send, refusal: wire.Refusal) -> None:
    """Send the refusal, and end the connection: what else comes on it may belong to what was refused."""
    body = wire.encode(wire.Refusal, refusal)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    if refusal.error == "no_token":
        headers.append((b"www-authenticate", b"Bearer"))
    status = wire.ERRORS[refusal.error][1]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(most: int) -> Refused:
    return Refused("too_large", f"the body has more than {most} bytes", "send less at once, or raise server.body")


def _unpacked(body: bytes, most: int) -> bytes:
    packed = zlib.decompressobj(wbits=31)
    try:
        whole = packed.decompress(body, most + 1)
    except zlib.error:
        raise Refused("invalid_input", "the body is not gzip, as its head says") from None
    if len(whole) > most:
        raise _too_large(most)
    if not packed.eof:
        raise Refused("invalid_input", "the packed body has no end")
    return whole


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was received already, then what comes after it."""
    told = False

    async def once() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _header(scope: MutableMapping[str, Any], name: bytes) -> str:
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value.decode("latin-1")
