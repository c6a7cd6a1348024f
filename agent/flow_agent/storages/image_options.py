"""Checks of what an author says of an image. Standard library only."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flow_agent.checks import credential_in, credential_like, seconds, texts
from flow_agent.run_configs import Secret

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_REGISTRY = re.compile(rf"[A-Za-z0-9.\-]+(?::[0-9]+)?(?:/{_PART})*|\[[0-9a-fA-F:]+\](?::[0-9]+)?(?:/{_PART})*")
_TAG = re.compile(r"\w[\w.\-]{0,127}", re.ASCII)
_LONGEST_NAME = 255

BUILD_KWARGS = frozenset(
    {"buildargs", "cache_from", "container_limits", "extra_hosts", "forcerm", "isolation", "labels", "network_mode"}
    | {"nocache", "platform", "pull", "rm", "shmsize", "squash", "target", "timeout", "use_config_proxy"}
)
"""Arguments of a build that an author may give; the others are what the storage itself decides."""

_BAKED = (
    "would lie in the image for everybody who has it; give it to the runs: run_config=DockerRun(env={...: Secret(...)})"
)


def text(value: str | None, what: str) -> str | None:
    """``value``, or None.

    Raises TypeError, ValueError: it is empty, no text, or holds credentials.
    """
    if value is None:
        return None
    texts([value], what=f"Docker: {what}", longest=None)
    if credential_in(value):
        raise ValueError(f"Docker: {what} holds credentials (it is not shown), which {_BAKED}")
    return value


def registry(value: str | None) -> str | None:
    """``value`` without a scheme: host, port and perhaps a path, as images are named.

    Raises TypeError, ValueError: it is no such thing.
    """
    if text(value, "registry_url") is None or value is None:
        return None
    bare = re.sub(r"^https?://", "", value).rstrip("/")
    if not _REGISTRY.fullmatch(bare):
        raise ValueError(
            f"Docker: registry_url is {value!r}, expected a host, perhaps with a port and a path in small letters, such"
            " as 'registry.example.org:5000/team'"
        )
    return bare


def name(value: str | None) -> str | None:
    """``value``, the name of an image without registry and tag.

    Raises TypeError, ValueError: it is no such name.
    """
    if text(value, "image_name") is None or value is None:
        return None
    if not _NAME.fullmatch(value) or len(value) > _LONGEST_NAME:
        raise ValueError(
            f"Docker: image_name is {value!r}, expected small letters and digits, with single . _ - or / between them,"
            " and no tag (that is image_tag)"
        )
    return value


def tag(value: str | None) -> str | None:
    """``value``, the tag of an image.

    Raises TypeError, ValueError: it is none.
    """
    if text(value, "image_tag") is None or value is None:
        return None
    if not _TAG.fullmatch(value):
        raise ValueError(
            f"Docker: image_tag is {value!r}, expected 1 to 128 letters, digits and _ . -, of which the first is no"
            " . or -"
        )
    return value


def here(value: str | os.PathLike[str] | None, what: str) -> Path | None:
    """A path of this machine, made absolute; it is looked at when the image is built.

    Raises TypeError: it is no path.
    """
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise TypeError(f"Docker: {what} is {value!r}, expected a path")
    return Path(value).expanduser().absolute()


def inside(value: str | None, what: str) -> str | None:
    """A path in the image.

    Raises TypeError, ValueError: it is none, or not absolute.
    """
    if text(value, what) is None or value is None:
        return None
    path = PurePosixPath(value)
    if not path.is_absolute() or not path.name or ".." in path.parts:
        raise ValueError(f"Docker: {what} is {value!r}, expected an absolute path in the image, of a file")
    return value


def listed(values: Sequence[str] | None, what: str) -> tuple[str, ...]:
    """``values``, each a text of one line or more.

    Raises TypeError, ValueError: one is none, or holds credentials, which would stay in the image's history.
    """
    if isinstance(values, str):
        raise TypeError(f"Docker: {what} is the text {values!r}, expected a list: [{values!r}]")
    for value in values or ():
        if not isinstance(value, str):
            raise TypeError(f"Docker: an item of {what} is {value!r} ({type(value).__name__}), expected text")
        if not value.strip() or "\0" in value:
            raise ValueError(f"Docker: an item of {what} is {value!r}, expected text")
        if credential_in(value):
            raise ValueError(
                f"Docker: an item of {what} holds credentials (it is not shown), which would stay in the image's"
                " history; put what they are for into a base image, or into files"
            )
    return tuple(values or ())


def variables(values: Mapping[str, str] | None) -> dict[str, str]:
    """Environment variables of the image.

    Raises TypeError, ValueError: one cannot be, or holds credentials.
    """
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(f"Docker: env_vars is {values!r}, expected a dict of names and texts")
    given: Mapping[Any, Any] = values or {}
    for key, value in given.items():
        what = f"Docker: env_vars[{key!r}]"
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", key):
            raise ValueError(f"{what}: expected a name of letters, digits and _")
        if isinstance(value, Secret):
            raise TypeError(f"{what} is {value!r}, whose value {_BAKED}")
        if not isinstance(value, str):
            raise TypeError(f"{what} is of type {type(value).__name__}, expected text")
        if any(character in value for character in "\0\r\n"):
            raise ValueError(f"{what} has more than one line, which an image's variable cannot have")
        if credential_in(value):
            raise ValueError(f"{what} holds credentials (they are not shown), which {_BAKED}")
        if credential_like(key, value):
            warnings.warn(f"{what} looks like a credential, which {_BAKED}", stacklevel=3)
    return dict(values or {})


def files(values: Mapping[str, str] | None) -> dict[Path, str]:
    """Files and folders of this machine, and where they go in the image.

    Raises TypeError, ValueError: a place in the image is not absolute; names each.
    """
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(f"Docker: files is {values!r}, expected a dict of paths here and absolute paths in the image")
    places = {source: str(place) for source, place in (values or {}).items()}
    if wrong := [place for place in places.values() if not place.startswith("/")]:
        raise ValueError(
            f"Docker: files go to {', '.join(map(repr, wrong))}, expected absolute paths in the image, such as"
            f" {'/' + wrong[0].removeprefix('./')!r}"
        )
    found: dict[Path, str] = {}
    for source, place in places.items():
        path = here(source, "a key of files")
        assert path is not None
        found[path] = place
    return found


def tls(value: object) -> bool | dict[str, Any]:
    """How the engine is spoken to: False, True, or a table of files; the SDK's own object is taken apart.

    Raises TypeError: it is none of these.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        known = {"ca_cert", "client_cert", "client_key", "verify"}
        if unknown := sorted(set(value) - known):
            raise TypeError(f"Docker: tls_config has {', '.join(unknown)}, expected {', '.join(sorted(known))}")
        return {key: str(each) if isinstance(each, os.PathLike) else each for key, each in value.items()}
    if hasattr(value, "ca_cert") and hasattr(value, "verify"):
        client = getattr(value, "cert", None) or (None, None)
        given = {"ca_cert": value.ca_cert, "client_cert": client[0], "client_key": client[1], "verify": value.verify}
        return {key: each for key, each in given.items() if each is not None}
    raise TypeError(
        f"Docker: tls_config is {value!r}, expected True, or a table with ca_cert, client_cert, client_key, verify"
    )


def flag(value: bool, what: str) -> bool:
    """``value``.

    Raises TypeError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"Docker: {what} is {value!r}, expected True or False")
    return value


def building(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Further arguments of a build.

    Raises TypeError, ValueError: one is not for an author to give, is of another type, or holds credentials.
    """
    if values is not None and not (isinstance(values, Mapping) and all(isinstance(key, str) for key in values)):
        raise TypeError(f"Docker: build_kwargs is of type {type(values).__name__}, expected a dict of names and values")
    if unknown := sorted(set(values or ()) - BUILD_KWARGS):
        raise ValueError(
            f"Docker: build_kwargs has {', '.join(unknown)}, expected some of {', '.join(sorted(BUILD_KWARGS))}"
        )
    given: Mapping[str, Any] = values or {}
    if "timeout" in given:
        seconds(given["timeout"], "Docker: timeout of build_kwargs", zero=False)
    arguments = given.get("buildargs")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping) or not all(isinstance(each, str) for each in arguments):
        raise TypeError(
            f"Docker: buildargs of build_kwargs is of type {type(arguments).__name__}, expected names and texts"
        )
    for key, value in arguments.items():
        if credential_in(str(value)):
            raise ValueError(
                f"Docker: the build argument {key!r} holds credentials (they are not shown), which would stay in the"
                " image's history; put what they are for into a base image, or into files"
            )
        if credential_like(key, str(value)):
            warnings.warn(
                f"Docker: the build argument {key!r} looks like a credential, and would stay in the image's history",
                stacklevel=3,
            )
    return dict(values or {})
