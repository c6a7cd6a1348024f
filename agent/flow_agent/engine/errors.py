"""What the errors of Docker's SDK mean: whether another try can help, and the way out."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from flow_agent.errors import EngineError
from flow_agent.redact import known

T = TypeVar("T")

PASSES = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which another try may do better; an engine answers 500 for what its parts did not do in time."""
LONGEST = 600
"""Characters of an engine's own words."""


def told(what: str, shown: str, work: Callable[[], T]) -> T:
    """What ``work`` gives; the SDK's errors, and those of the way to the engine at ``shown``, as EngineError, of which
    ``what`` was asked."""
    try:
        return work()
    except Exception as error:
        if not _of_sdk(error):  # ours, the disk's, a mistake in what is asked
            raise
        raise explained(what, shown, error) from error


def silent(what: str, shown: str, seconds: float) -> EngineError:
    """The engine took too long."""
    return EngineError(
        f"{what}: the Docker engine at {shown} does not answer: it said nothing for {seconds:.0f} s",
        transient=True,
        away=True,
    )


def busy(what: str, shown: str, seconds: float) -> EngineError:
    """So many others were asked of the engine that this had no turn."""
    return EngineError(
        f"{what}: had no turn within {seconds:.0f} s beside all else that the Docker engine at {shown} is asked",
        transient=True,
    )


def explained(what: str, shown: str, error: BaseException) -> EngineError:
    """The error of the SDK in our words. What an engine says of itself is kept, without secrets."""
    import docker.errors  # noqa: PLC0415 - most programs never meet an engine

    if isinstance(error, docker.errors.APIError):
        status = error.status_code
        said = words(error.explanation or error)
        return EngineError(
            f"{what}: {said}",
            transient=status in PASSES,
            status=status,
            missing=status == 404,
            hint=_hint(said),
        )
    if isinstance(error, docker.errors.TLSParameterError):
        return EngineError(
            f"{what}: the certificates for {shown} cannot be used: {words(error)}",
            transient=False,
            hint="expected a folder with ca.pem, cert.pem and key.pem",
        )
    if isinstance(error, docker.errors.DockerException) and not _away(error):
        return EngineError(f"{what}: {words(error)}", transient=False)
    return EngineError(
        f"{what}: the Docker engine at {shown} does not answer: {words(_root(error))}",
        transient=True,
        away=True,
        hint=_way_out(error),
    )


_HINTS = (
    (r"network (\S+) not found", "`docker network create {}` on its machine, or name one of `docker network ls`"),
    (r"range of cpus is from \S+ to (\S+?),", "ask for at most {}, or give run and agents of a larger machine a label"),
    (
        r"could not select device driver .*gpu",
        "it needs a GPU and NVIDIA's Container Toolkit; or leave gpus out",
    ),
    (r"port is already allocated", "publish another port, or none, so that runs can be side by side"),
)
"""What an engine says of what cannot be, and the way out."""


def _hint(said: str) -> str | None:
    for pattern, way in _HINTS:
        if found := re.search(pattern, said, re.IGNORECASE):
            return way.format(*found.groups())
    return None


def words(said: object) -> str:
    """An engine's words on one line, without secrets."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return known.text(" ".join(text.split()))[:LONGEST]


def _of_sdk(error: BaseException) -> bool:
    """Whether it comes from the SDK or from what it asks with; errors of the disk are OSErrors too."""
    return type(error).__module__.partition(".")[0] in {"docker", "requests", "urllib3", "http"} or isinstance(
        error, ConnectionError | TimeoutError | ssl.SSLError
    )


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    more: list[Any] = [error]
    while more:
        each = more.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            more += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    return found


def _away(error: BaseException) -> bool:
    """Whether it is about the way to the engine: the SDK wraps that in an error of its own when it connects."""
    return any(isinstance(each, OSError) and not _has_status(each) for each in _chain(error))


def _has_status(error: BaseException) -> bool:
    return getattr(error, "response", None) is not None


def _root(error: BaseException) -> BaseException:
    """What the system said, below what three packages made of it."""
    plain = [each for each in _chain(error) if isinstance(each, OSError) and each.strerror]
    return plain[-1] if plain else error


def _way_out(error: BaseException) -> str:
    if any(isinstance(each, PermissionError) for each in _chain(error)):
        return "let this user use its socket (the group docker may), which is as good as root on that machine"
    return "start it, or set docker.url (or DOCKER_HOST) to where it listens"
