"""Registries of images, as an engine speaks to them: credentials, and what their refusals mean."""

from __future__ import annotations

import contextlib
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from flow_agent.engine.errors import words
from flow_agent.errors import EngineError, SecretNotFound
from flow_agent.redact import known

REFUSED = 403
"""The status of an error that says so."""

_DENIED = re.compile(
    r"no basic auth credentials|unauthorized|authentication required|denied|forbidden|incorrect username or password",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"manifest unknown|not found|does not exist|no such image|name unknown|invalid reference", re.IGNORECASE
)
_PASSES = re.compile(
    r"connection refused|connection reset|broken pipe|timeout|deadline exceeded|\bEOF\b|too ?many ?requests|temporar"
    r"|no route to host|network is unreachable|service unavailable|bad gateway|internal server error"
    r"|received unexpected HTTP status: 5|try again|server misbehaving",
    re.IGNORECASE,
)


def credentials(secret: str, text: str, image: str) -> dict[str, str]:
    """What an engine sends to the registry of ``image``: the value ``text`` of the secret that is called ``secret``.

    It is JSON with ``username`` and ``password`` (or ``identitytoken``), or what ``docker login`` writes, with
    ``auths``. The password is redacted from here on.

    Raises SecretNotFound: it is neither, or has none for that registry; the value is not shown.
    """
    try:
        table = json.loads(text)
        found = _of_config(table["auths"], registry_of(image)) if "auths" in table else table
        given = {key: str(found[key]) for key in ("username", "password", "identitytoken") if found.get(key)}
    except (ValueError, TypeError, KeyError, AttributeError):
        given = {}
    if "identitytoken" not in given and not {"username", "password"} <= given.keys():
        raise SecretNotFound(
            f"secret {secret!r} has no credentials for the registry {registry_of(image)} (its value is not shown)",
            hint='expected JSON: {"username": "...", "password": "..."}, or what `docker login` writes, with "auths"',
        )
    for key in ("password", "identitytoken"):
        if key in given:
            known.add(given[key])
    return {**given, "serveraddress": registry_of(image)}


def all_of(secret: str, text: str) -> tuple[dict[str, str], ...]:
    """As ``credentials``, for every registry that ``text`` names, if it is what ``docker login`` writes."""
    try:
        places = list(json.loads(text)["auths"])
    except (ValueError, TypeError, KeyError):
        return ()
    found = []
    for place in places:
        with contextlib.suppress(SecretNotFound):  # what `docker login` left empty, as with a credential store
            found.append(credentials(secret, text, f"{_host(place).removeprefix('index.')}/image"))
    return tuple(found)


def _host(place: str) -> str:
    return re.sub(r"^https?://", "", place).split("/")[0]


def _of_config(auths: Mapping[str, Any], registry: str) -> Mapping[str, Any]:
    """The entry of ``registry`` in what ``docker login`` writes."""
    for place, entry in auths.items():
        if _host(place) in {registry, f"index.{registry}"}:
            if entry.get("auth"):
                username, _, password = b64decode(entry["auth"]).decode().partition(":")
                return {"username": username, "password": password}
            return entry  # type: ignore[no-any-return]  # out of YAML or JSON
    return {}


def registry_of(image: str) -> str:
    """The host, perhaps with a port, of the registry that ``image`` is in."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return first
    return "docker.io"


def refused(what: str, said: object, image: str, *, secret: str | None) -> EngineError:
    """What an engine says of a registry, as an error; ``secret`` is what credentials were taken from (None: the
    engine's usual place)."""
    text, registry = words(said), registry_of(image)
    if _DENIED.search(text):
        way = (
            f"see that the secret {secret} holds credentials that may"
            if secret
            else (f"`docker login {registry}` on this machine as its user, or name a registry_secret that may")
        )
        return EngineError(
            f"{what}: the registry {registry} refuses: {text}", transient=False, status=REFUSED, hint=way
        )
    if _MISSING.search(text) and not _PASSES.search(text):
        return EngineError(
            f"{what}: {text}", transient=False, status=404, missing=True, hint=f"see that {image} is its name"
        )
    if "server gave HTTP response to HTTPS client" in text:
        return EngineError(
            f"{what}: {text}",
            transient=False,
            hint=f"the registry has no TLS: name {registry} in the engine's insecure-registries",
        )
    if _PASSES.search(text):
        return EngineError(
            f"{what}: the registry {registry} does not answer: {text}",
            transient=True,
            hint=f"see that the engine's machine reaches {registry}",
        )
    return EngineError(f"{what}: {text}", transient=False)
