"""Containers of an engine: made, begun, told, followed, looked at, removed. Blocks."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flow_agent.engine.client import Engine
from flow_agent.errors import EngineError

STDOUT, STDERR = 1, 2
TOLD_WITHIN = 10.0
"""Seconds that an order may take on its way into a container."""
KEEP_ALIVE = (30, 10, 3)
"""Seconds of silence before a connection that is followed is probed, seconds between probes, how many may be lost."""
WORDS = 2_000
"""Characters of what a container said on stderr that are kept."""

_NO_PROGRAM = ("executable file not found", "no such file or directory")
_LASTS = ("unable to find user", "unable to find group", "oci runtime create failed", "could not select device driver")
_TAKEN = "is already in use"
_PAUSED = " is paused"


class Ended(Exception):
    """A container ended before its first line; ``said`` is what it wrote on stderr."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


def create(engine: Engine, name: str, config: Mapping[str, Any], networks: Iterable[str] = ()) -> str:
    """Make a container from ``config``, in the words of the engine's own API; gives its id. ``networks`` are further
    ones.

    Raises EngineError: ``missing`` where there is no such image; see ``is_taken``. No container is left behind.
    """
    made = engine.ask(
        f"making the container {name}", lambda: engine.sdk.create_container_from_config(dict(config), name)
    )["Id"]
    try:
        for network in networks:
            engine.ask(
                f"connecting the container {name} to the network {network}",
                lambda network=network: engine.sdk.connect_container_to_network(made, network),  # type: ignore[misc]  # no types
            )
    except BaseException as error:
        with contextlib.suppress(EngineError):
            remove(engine, made)
        if isinstance(error, EngineError) and error.missing:  # the network, which no pull brings
            raise EngineError(str(error), transient=False, hint=f"`docker network create {network}`") from error
        raise
    return str(made)


def is_taken(error: EngineError) -> bool:
    """Whether it says that there is a container of that name."""
    return error.status == 409 and _TAKEN in str(error)


def lacks_program(error: EngineError) -> bool:
    """Whether a container could not be started because its image has no such program."""
    return error.status in {400, 404, 500} and any(words in str(error).lower() for words in _NO_PROGRAM)


def can_pass(error: EngineError) -> bool:
    """Whether another try may do better; an engine answers 500 also for what will never be."""
    said = str(error).lower()
    return error.transient and (not any(words in said for words in _LASTS) or "temporarily" in said)


def copy_into(engine: Engine, container: str, path: str, archive: bytes | Iterable[bytes]) -> None:
    """Unpack ``archive``, a tar file in pieces, in the existing folder ``path`` of a container.

    Raises EngineError.
    """
    engine.ask("copying into the container", lambda: engine.sdk.put_archive(container, path, archive))


def copy_out(engine: Engine, container: str, path: str) -> Iterator[bytes]:
    """The file ``path`` of a container, as a tar file in pieces.

    Raises EngineError.
    """
    pieces, _ = engine.ask("copying out of the container", lambda: engine.sdk.get_archive(container, path))
    yield from pieces


def begin(engine: Engine, container: str, stdin: bytes, seconds: float) -> bytes:
    """Start a container, give it ``stdin`` and leave that open; the first line that it writes.

    Raises EngineError: it cannot be started (see ``lacks_program``), or says nothing for ``seconds``. Ended: it ended
    without a line.
    """

    def work() -> bytes:
        with _attached(engine, container, stdin=1, stdout=1, stderr=1) as way:
            way.settimeout(seconds)
            engine.sdk.start(container)
            way.sendall(stdin)
            return _first_line(way)

    return engine.ask("starting the container", work)


def tell(engine: Engine, container: str, word: Callable[[], bytes]) -> None:
    """Write ``word`` to the standard input of a running container; it is asked for when the engine has opened that,
    which may be long after.

    Raises EngineError: status 409, or ``missing``, where it does not run any more. Transient: it is paused.
    """

    def work() -> None:
        with _attached(engine, container, stdin=1) as way:
            way.settimeout(TOLD_WITHIN)
            way.sendall(word())
            way.shutdown(socket.SHUT_WR)
            while way.recv(4096):  # until the engine has taken it
                pass

    try:
        engine.ask("an order to the container", work)
    except EngineError as error:
        if error.status == 409 and _PAUSED in str(error):
            raise EngineError(str(error), transient=True) from error
        raise


@contextlib.contextmanager
def _attached(engine: Engine, container: str, **streams: int) -> Iterator[socket.socket]:
    """The engine's end of a container's streams, which has no other use for the connection then."""
    raw = engine.sdk.attach_socket(container, params={**streams, "stream": 1})
    way = getattr(raw, "_sock", raw)
    try:
        yield way
    finally:
        with contextlib.suppress(OSError):
            way.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, ValueError):  # what the SDK wrapped around it may be closed before
            if (answer := getattr(raw, "_response", None)) is not None:
                answer.close()
            raw.close()
        way.close()


def _first_line(way: socket.socket) -> bytes:
    said, errors = b"", b""
    while b"\n" not in said:
        head = _exactly(way, 8)
        if len(head) < 8:
            raise Ended(errors.decode(errors="replace")[-WORDS:])
        stream, size = struct.unpack(">BxxxL", head)
        data = _exactly(way, size)
        if stream == STDERR:
            errors += data
        else:
            said += data
    return said.partition(b"\n")[0]


def _exactly(way: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := way.recv(size - len(data))):
        data += piece
    return data


def _keep_alive(way: socket.socket) -> None:
    """Have the system see that the other end is there: routers forget a connection on which nothing is said for long,
    and the rest of a quiet flow's output would not come before its end."""
    way.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEP_ALIVE, strict=True):
        way.setsockopt(socket.IPPROTO_TCP, option, value)


class Output:
    """What a container writes on stdout, as it comes, from its first byte on; it may end early, if the engine does."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._stream = engine.ask(
            "following the container",
            lambda: engine.sdk.logs(container, stdout=True, stderr=False, stream=True, follow=True),
        )
        with contextlib.suppress(Exception):  # not over SSH; a local socket has no such options
            raw = engine.sdk._get_raw_response_socket(self._stream._response)
            _keep_alive(getattr(raw, "_sock", raw))

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def interrupt(self) -> None:
        """End it, for whoever reads it in another thread."""
        with contextlib.suppress(Exception):  # the SDK finds the socket by ways of its own
            self._stream.close()

    def close(self) -> None:
        """Close its connection, in the thread that reads it."""
        self.interrupt()
        if (answer := getattr(self._stream, "_response", None)) is not None:  # the SDK leaves it open
            with contextlib.suppress(OSError, ValueError):
                answer.close()


def last_line(engine: Engine, container: str) -> bytes:
    """The last line that a container wrote on stdout.

    Raises EngineError.
    """
    said = engine.ask(
        "reading the container's last line",
        lambda: engine.sdk.logs(container, stdout=True, stderr=False, tail=1),
    )
    return bytes(said)


def errors(engine: Engine, container: str, lines: int = 5) -> str:
    """The last lines that a container wrote on stderr.

    Raises EngineError.
    """
    said = engine.ask(
        "reading the container's errors",
        lambda: engine.sdk.logs(container, stdout=False, stderr=True, tail=lines),
    )
    return str(said.decode(errors="replace"))[-WORDS:]


def look(engine: Engine, container: str) -> dict[str, Any] | None:
    """What the engine knows of a container, by id or name; None: there is none.

    Raises EngineError.
    """
    try:
        return dict(engine.ask("looking at the container", lambda: engine.sdk.inspect_container(container)))
    except EngineError as error:
        if error.missing:
            return None
        raise


def listed(engine: Engine, labels: Mapping[str, str], states: Iterable[str] = ()) -> list[dict[str, Any]]:
    """All containers with ``labels``, running or not; of ``states``, if there are any.

    Raises EngineError.
    """
    wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
    if states:
        wanted["status"] = list(states)
    found = engine.ask("listing containers", lambda: engine.sdk.containers(all=True, filters=wanted))
    return list(found)


def remove_volumes(engine: Engine, labels: Mapping[str, str]) -> None:
    """Remove all volumes with ``labels`` that no container has.

    Raises EngineError.
    """
    wanted = {"label": [f"{name}={value}" for name, value in labels.items()], "dangling": ["true"]}
    found = engine.ask("listing volumes", lambda: engine.sdk.volumes(filters=wanted))
    for volume in found["Volumes"] or ():
        try:
            engine.ask("removing a volume", lambda name=volume["Name"]: engine.sdk.remove_volume(name))  # type: ignore[misc]  # no types
        except EngineError as error:
            if error.status not in {404, 409}:  # gone, or in use again
                raise


def kill(engine: Engine, container: str) -> None:
    """End all that runs in a container, at once. Does nothing if it has ended, or is gone.

    Raises EngineError.
    """
    try:
        engine.ask("killing the container", lambda: engine.sdk.kill(container))
    except EngineError as error:
        if error.status not in {404, 409}:
            raise


def remove(engine: Engine, container: str) -> None:
    """Remove a container with its anonymous volumes, whatever runs in it. Repeating it does nothing.

    Raises EngineError.
    """
    try:
        engine.ask("removing the container", lambda: engine.sdk.remove_container(container, v=True, force=True))
    except EngineError as error:
        if error.status not in {404, 409}:  # gone, or being removed
            raise
