"""The server's socket, its TLS, its signals and its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from flow_agent import events
from flow_agent.backlog import Backlog
from flow_agent.errors import FlowAgentError, InvalidInput
from flow_agent.ports import Leases, Queue
from flow_agent.server import tls
from flow_agent.server.app import application
from flow_agent.server.gate import Bounds, Gate
from flow_agent.server.news import News
from flow_agent.server.service import Service
from flow_agent.server.tokens import Tokens

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")
IDLE = 75
"""Seconds for which an unused connection is kept; longer than clients do."""
LONGEST_HEAD = 16_384
LEAVING = 10
"""Seconds that requests may still take when the server ends."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to serve. ``tokens`` None: everybody who reaches the address may do everything."""

    listen: str
    tokens: Tokens | None
    leases: Leases = field(default_factory=Leases)
    bounds: Bounds = field(default_factory=Bounds)
    connections: int = 1_000
    certificate: Path | None = None
    key: Path | None = None


class _Protocol(H11Protocol):
    """Closes a connection on which no whole head of a request has come in time."""

    seconds = 30.0

    def connection_made(self, transport: Any) -> None:
        """A connection is there, and nothing has been asked."""
        self._late: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a head or of a body."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_is_there()
        elif self._late is None and not self.transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._head_is_there()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._late = self.loop.call_later(self.seconds, self.transport.close)

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """Uvicorn without its own way with signals: who serves has one. It tells when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self.begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


@contextlib.asynccontextmanager
async def served(queue: Queue, options: Options) -> AsyncIterator[str]:
    """Answer in front of ``queue`` while the block runs; gives the URL.

    Raises InvalidInput: the address, serving it without tokens, or a key without its certificate, cannot be.
    FlowAgentError: it cannot be listened at, the certificate cannot be used, or the queue is broken.
    """
    news = News(queue)
    service = Service(queue, news, options.leases)
    gate = Gate(application(), service, Backlog(queue, tidy=True), options.tokens, options.bounds)
    protocol = type("Protocol", (_Protocol,), {"seconds": options.bounds.seconds})
    config = uvicorn.Config(
        gate,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=LEAVING,
        limit_concurrency=options.connections,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        backlog=1_024,
    )
    encrypted = tls.context(options.certificate, options.key)
    with _listening(options) as (listener, url):
        config.load()
        config.ssl = encrypted
        server = _Server(config)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(news.watch, name="news")
            tasks.start_soon(_until_cancelled, server, listener, news, name="server")
            await server.begun.wait()
            try:
                yield url
            except Exception as error:  # noqa: BLE001 - raised again outside, where the group does not wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _until_cancelled(server: _Server, listener: socket.socket, news: News) -> None:
    """Serve until cancelled, and then only until all who asked have been answered."""
    ended = anyio.Event()

    async def serve() -> None:
        with anyio.CancelScope(shield=True):
            await server.serve(sockets=[listener])
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, name="uvicorn")
        try:
            await ended.wait()
        finally:
            news.close()
            server.should_exit = True


async def run(queue: Queue, options: Options) -> None:
    """Serve until SIGTERM or SIGINT; what was asked by then is answered, for some seconds."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async with served(queue, options) as url:
            events.server_started(url, tokens=options.tokens is not None)
            async for _ in received:
                break
            events.server_stopping()


@contextlib.contextmanager
def _listening(options: Options) -> Iterator[tuple[socket.socket, str]]:
    match = _ADDRESS.fullmatch(options.listen)
    if match is None or int(match["port"]) > 65_535:
        raise InvalidInput(f"server.listen is {options.listen!r}: expected HOST:PORT, as 127.0.0.1:8642")
    host, port = match["v6"] or match["host"] or "0.0.0.0", int(match["port"])  # noqa: S104 - asked for by ":PORT"
    family = socket.AF_INET6 if match["v6"] else socket.AF_INET
    # Where the protocol is not named, asyncio does not set TCP_NODELAY, and each answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            raise FlowAgentError(
                f"the server cannot listen at {options.listen}: {error.strerror}",
                hint="give another address in --listen",
            ) from error
        bound = listener.getsockname()
        if options.tokens is None and not _local(bound[0]):
            raise InvalidInput(
                f"server.access is 'open' and server.listen {options.listen!r}: whoever reaches it may run code",
                hint="listen at 127.0.0.1, or ask for tokens",
            )
        scheme = "https" if options.certificate is not None else "http"
        yield listener, f"{scheme}://{options.listen.rpartition(':')[0] or bound[0]}:{bound[1]}"


def _local(address: str) -> bool:
    return address == "::1" or address.startswith("127.")
