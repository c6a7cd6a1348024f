"""What may be asked of a container, checked where it is written down. Standard library only."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterable

from flow_agent.checks import texts

SMALLEST_MEMORY = 32 * 2**20
"""Bytes below which a Python interpreter does not start."""
PLACE = "/flow-agent"
"""Where what the agent gives a container lies in it."""
PULL_POLICIES = ("always", "missing", "never")

_PORT = re.compile(
    r"(?:(?P<host>[\d.]+|\[[\da-fA-F:]+\]):)?(?:(?P<public>\d+):)?(?P<private>\d+)(?:/(?:tcp|udp|sctp))?"
)
_VOLUME = re.compile(r"(?P<source>/[^:\0]*|[A-Za-z0-9][\w.-]*):(?P<target>/[^:\0]*)(?::(?P<mode>[a-zA-Z,]+))?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:[A-Za-z0-9][A-Za-z0-9.\-]*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127})?(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?"
)
_USER = re.compile(r"[\w.$-]+(?::[\w.$-]+)?")


def is_number(value: object) -> bool:
    """Whether ``value`` is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_bytes(size: int | str, *, what: str) -> int:
    """``"512M"`` as bytes; an interpreter alone needs more than SMALLEST_MEMORY.

    Raises ValueError: it is no such size; ``what`` names it.
    """
    found = re.fullmatch(r"(\d+) ?([KMGT]?)(?:i?B)?", size.strip(), re.IGNORECASE) if isinstance(size, str) else None
    if found:
        size = int(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")
    if not isinstance(size, int) or isinstance(size, bool) or size < SMALLEST_MEMORY:
        raise ValueError(
            f"{what} is {size!r}, expected bytes or text such as '512M', and {SMALLEST_MEMORY // 2**20}M or more"
        )
    return size


def image_name(value: str | None, *, what: str) -> str | None:
    """``value``, the name of an image, or None.

    Raises TypeError, ValueError: it is none.
    """
    if value is None:
        return None
    texts([value], what=what, longest=None)
    if not _IMAGE.fullmatch(value):
        raise ValueError(
            f"{what} is {value!r}, expected the name of an image, in small letters, perhaps with tag or digest,"
            " such as 'python:3.12-slim'"
        )
    return value


def cleaned(path: str) -> str:
    """An absolute ``path`` as text, without what changes nothing; links are not looked at."""
    return posixpath.normpath(f"/{path.lstrip('/')}")


def ports(values: Iterable[int | str] | None) -> list[str]:
    """``values`` as texts: ``8080``, ``"8080:80"`` or ``"127.0.0.1:8080:80/udp"``, those of the host first.

    Raises TypeError, ValueError: one is none.
    """
    if isinstance(values, str | int):
        raise TypeError(f"DockerRun: ports is {values!r}, expected a list: [{values!r}]")
    found = []
    for value in values or ():
        match = _PORT.fullmatch(str(value)) if isinstance(value, str) or is_number(value) else None
        numbers = [] if match is None else [int(part) for part in (match["public"], match["private"]) if part]
        if match is None or not all(0 < number < 65536 for number in numbers):
            raise ValueError(
                f"DockerRun: a port is {value!r}, expected one from 1 to 65535, or text such as '8080:80' or"
                " '127.0.0.1:8080:80/tcp'"
            )
        found.append(str(value))
    return list(dict.fromkeys(found))


def published(port: str) -> tuple[str, dict[str, str]]:
    """A port of ``ports`` as an engine wants it: ``"80/tcp"``, and where it is published on the host."""
    match = _PORT.fullmatch(port)
    assert match is not None
    protocol = port.partition("/")[2] or "tcp"
    binding = {"HostIp": (match["host"] or "").strip("[]"), "HostPort": match["public"] or match["private"]}
    return f"{match['private']}/{protocol}", binding


def volumes(values: Iterable[str] | None) -> list[str]:
    """``values``, each ``"/on/the/host:/in/the/container"`` or ``"name:/in/the/container"``, perhaps with ``:ro``.

    Raises TypeError, ValueError: one is none.
    """
    found = texts(values, what="DockerRun: a volume", longest=None)
    for value in found:
        match = _VOLUME.fullmatch(value)
        if match is None or ".." in match["source"].split("/"):
            raise ValueError(
                f"DockerRun: a volume is {value!r}, expected '/on/the/host:/in/the/container' or"
                " 'name:/in/the/container', perhaps with ':ro' behind it"
            )
        target(match["target"], what=f"DockerRun: the volume {value!r}")
    return list(found)


def target(path: str, *, what: str) -> None:
    """See that something may be mounted at ``path`` in a container.

    Raises ValueError: it would hide what the agent gives it.
    """
    place = cleaned(path)
    if place == "/" or f"{place}/".startswith(f"{PLACE}/"):
        raise ValueError(
            f"{what} lies over {place}, expected another place than /, and none in {PLACE}, where the flow is"
        )


def networks(values: Iterable[str] | None) -> list[str]:
    """``values``, the names of networks.

    Raises TypeError, ValueError: one is none, or cannot be together with others.
    """
    found = list(texts(values, what="DockerRun: a network"))
    alone = [name for name in found if name in {"none", "host"} or name.startswith(("container:", "ns:"))]
    if alone and len(found) > 1:
        raise ValueError(f"DockerRun: networks has {alone[0]!r} beside others, which an engine gives a container alone")
    return found


def cpus(value: float | None) -> float | None:
    """``value``, a number of cores, or None.

    Raises ValueError: it is none.
    """
    if value is not None and not (is_number(value) and 0.01 <= value < math.inf):
        raise ValueError(f"DockerRun: cpus is {value!r}, expected a number of cores, at least 0.01")
    return value


def gpus(value: int | str | None) -> int | str | None:
    """``value``: how many, or ``"all"``.

    Raises ValueError: it is neither.
    """
    if value is None or value == "all" or (isinstance(value, int) and is_number(value) and value > 0):
        return value
    raise ValueError(f"DockerRun: gpus is {value!r}, expected how many, or 'all'")


def user(value: str | int | None) -> str | None:
    """``value`` as text: a name or a number, perhaps with a group (``"1000:1000"``).

    Raises ValueError: it is neither.
    """
    if value is None:
        return None
    if not (isinstance(value, str) or (isinstance(value, int) and is_number(value) and value >= 0)) or not (
        _USER.fullmatch(str(value))
    ):
        raise ValueError(f"DockerRun: user is {value!r}, expected a name or a number, or with a group: '1000:1000'")
    return str(value)


def pull_policy(value: str) -> str:
    """``value``, one of PULL_POLICIES.

    Raises ValueError: it is none.
    """
    if value not in PULL_POLICIES:
        raise ValueError(f"DockerRun: pull_policy is {value!r}, expected one of {', '.join(map(repr, PULL_POLICIES))}")
    return value
