"""One Docker engine, asked through its SDK in threads, with a time limit on each call. The module that owns `docker`.

What is set here rather than left to the SDK, and why: time limits (its own is one read's, and none for streams), room
for as many connections as calls, and words for what went wrong that say whether another try can help. It never tries
again by itself: ``retry`` does.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from flow_agent.engine import errors
from flow_agent.errors import EngineError

T = TypeVar("T")

READ_WITHIN = 60.0
"""Seconds between two bytes of an answer."""
SILENT_FOR = 600.0
"""Seconds between two bytes where the SDK has no limit of its own: a step of a build, or a registry that takes a large
layer, may say nothing for long."""
ANSWER_WITHIN = 90.0
"""Seconds for a whole call that says nothing else; a busy engine takes some to start a container."""
CONNECT_WITHIN = 10.0
"""Seconds until the engine must have said which version it has."""
AT_ONCE = 32
"""Calls of one kind that one engine is asked at a time, each in a thread; what follows an output does not count."""
SOCKET = "unix:///var/run/docker.sock"


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an engine is: ``url`` (empty: ``DOCKER_HOST``, else the usual socket); ``certificates``: the folder of
    ``ca.pem``, ``cert.pem`` and ``key.pem`` for TLS (None: ``DOCKER_CERT_PATH`` where ``DOCKER_TLS_VERIFY`` asks for
    it). ``tls`` are the options of the SDK's TLSConfig in their place, for who has them in another form.
    """

    url: str = ""
    certificates: Path | None = None
    tls: Mapping[str, Any] | None = None

    @property
    def shown(self) -> str:
        """The URL that is used, for people."""
        return self.url or os.environ.get("DOCKER_HOST") or SOCKET


def _lane() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(AT_ONCE)


@dataclass
class Engine:
    """A connection to the engine at ``address``; ``sdk`` is the SDK's low-level client (``docker.APIClient``).

    ``sdk`` may be used by many threads at a time; ``ask`` in one of them, ``call`` in the event loop.
    """

    sdk: Any
    address: Address
    id: str = ""
    """What names this engine, also after it was started anew; empty where it has no id."""
    threads: anyio.CapacityLimiter = field(default_factory=_lane)
    """For what is answered at once: orders, looks, removals. What may take minutes has threads of its own, since a
    registry or an image that hangs would else keep the orders of healthy containers from them."""
    starts: anyio.CapacityLimiter = field(default_factory=_lane)
    copies: anyio.CapacityLimiter = field(default_factory=_lane)
    pulls: anyio.CapacityLimiter = field(default_factory=_lane)
    started: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(math.inf))

    def ask(self, what: str, work: Callable[[], T]) -> T:
        """What ``work`` gives, which uses ``sdk``. Blocks, at most READ_WITHIN seconds for each word of an answer,
        and SILENT_FOR of a pull or a build; without a limit what follows a container's output.

        Raises EngineError: it fails; ``what`` names it, in words that fit before a colon.
        """
        return errors.told(what, self.address.shown, work)

    async def call(
        self,
        what: str,
        work: Callable[[], T],
        *,
        seconds: float = ANSWER_WITHIN,
        lane: anyio.CapacityLimiter | None = None,
    ) -> T:
        """As ``ask``, in a thread of ``lane``, which is ``threads``, ``starts``, ``copies`` or ``pulls``.

        Raises EngineError: it fails, has no thread for ``seconds``, or takes longer than that once it has one.
        """
        lane = lane or self.threads
        try:
            with anyio.fail_after(seconds):
                await lane.acquire()
        except TimeoutError:
            raise errors.busy(what, self.address.shown, seconds) from None
        try:
            with anyio.fail_after(seconds):
                return await self.detached(what, work)
        except TimeoutError:
            raise errors.silent(what, self.address.shown, seconds) from None
        finally:
            lane.release()

    async def detached(self, what: str, work: Callable[[], T]) -> T:
        """As ``call``, for as long as it takes, and beside all other calls: for what follows a stream.

        Cancelling leaves the thread alone, which ends when the stream does.
        """
        return await anyio.to_thread.run_sync(
            partial(self.ask, what, work), abandon_on_cancel=True, limiter=self.started
        )

    def close(self) -> None:
        """Close its connections."""
        self.sdk.close()


def may_be_there(address: Address) -> bool:
    """Whether it is worth to look for an engine: somebody named one, or the usual socket is there."""
    return bool(address.url or os.environ.get("DOCKER_HOST")) or Path(SOCKET.removeprefix("unix://")).exists()


def connect(address: Address | None = None) -> Engine:
    """A connection to the engine at ``address``. Blocks, CONNECT_WITHIN seconds at most.

    Raises EngineError: there is no answer (transient), no SDK, or it cannot be what the address says.
    """
    address = address or Address()
    docker = _sdk()
    if not address.url and (context := _tls_in_vain(address)):
        raise context

    class Client(docker.APIClient):  # type: ignore[misc,name-defined]  # the SDK has no types
        """Has a limit also where the SDK asks for none (pulls, builds): else a silent engine holds its thread."""

        def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
            if "timeout" in kwargs and kwargs["timeout"] is None:
                kwargs["timeout"] = SILENT_FOR
            return dict(super()._set_request_timeout(kwargs))

    def client(version: str, timeout: float) -> Any:
        return Client(
            base_url=address.url or os.environ.get("DOCKER_HOST") or None,
            version=version,
            timeout=timeout,
            tls=_tls(docker, address) or False,
            max_pool_size=AT_ONCE,
            use_ssh_client=True,
        )

    def open_it() -> Engine:
        _knock(address.shown)
        # Left to ask for the version itself, the SDK closes nothing where there is no answer.
        with contextlib.closing(client(docker.constants.DEFAULT_DOCKER_API_VERSION, CONNECT_WITHIN)) as asking:
            version = asking.version(api_version=False)["ApiVersion"]
            found = asking.info() if version == docker.constants.DEFAULT_DOCKER_API_VERSION else None
        made = client(version, READ_WITHIN)
        return Engine(made, address, str((found or made.info()).get("ID") or ""))

    return errors.told("connecting", address.shown, open_it)


@asynccontextmanager
async def connected(address: Address | None = None) -> AsyncIterator[Engine]:
    """As ``connect``, from the event loop, and closed in the end."""
    address = address or Address()
    try:
        with anyio.fail_after(2 * CONNECT_WITHIN):
            engine = await anyio.to_thread.run_sync(connect, address, abandon_on_cancel=True)
    except TimeoutError:
        raise errors.silent("connecting", address.shown, 2 * CONNECT_WITHIN) from None
    try:
        yield engine
    finally:
        engine.close()


def _knock(url: str) -> None:
    """See that somebody listens on a socket of this machine; the SDK leaves its own open when nobody does.

    Raises EngineError.
    """
    path = url.removeprefix("unix://")
    if path != url:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(CONNECT_WITHIN)
            try:
                door.connect("/" + path.lstrip("/"))
            except OSError as error:
                raise errors.explained("connecting", url, error) from error


def _sdk() -> Any:
    try:
        import docker  # noqa: PLC0415 - 300 ms that only its users pay
    except ImportError as error:
        raise EngineError(
            f"a Docker engine is asked through the package docker, which is not installed here ({error})",
            transient=False,
            hint="pip install 'flow-agent-daemon[docker]'",
        ) from error
    return docker


def _tls_in_vain(address: Address) -> EngineError | None:
    """The SDK takes certificates for an address only; for its default socket they mean a mistake."""
    if (address.certificates or address.tls) and not os.environ.get("DOCKER_HOST"):
        return EngineError(
            "TLS is asked for, and no address of an engine, so that it would be the local socket, which has none",
            transient=False,
            hint="set docker.url (or DOCKER_HOST) to tcp://HOST:2376",
        )
    return None


def _tls(docker: Any, address: Address) -> Any:
    """The SDK's TLS configuration; None for none."""
    if address.tls is not None:
        return docker.tls.TLSConfig(**address.tls)
    folder = address.certificates
    if folder is None and not address.url and os.environ.get("DOCKER_TLS_VERIFY"):
        folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    if folder is None:
        return None
    return docker.tls.TLSConfig(
        client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")), ca_cert=str(folder / "ca.pem"), verify=True
    )
