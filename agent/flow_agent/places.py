"""Flows that lie somewhere already, registered where they are: ``s3://bucket/key``, ``gs://``, ``az://``, a repository.

What lies there is fetched once, to be looked at; nothing is uploaded. A pickle is loaded only by a process that has no
secrets. What is no pickle is a script.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread

from flow_agent import retry
from flow_agent.collect import collect_stored
from flow_agent.errors import FetchError, RegistrationError, StoreError
from flow_agent.model import Registration
from flow_agent.plugins import load
from flow_agent.ports import SecretResolver
from flow_agent.storages.base import Storage

Secrets = Callable[[], AbstractAsyncContextManager[SecretResolver]]
"""Opens what finds secrets."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BUCKETS = {"s3": ("S3", "bucket"), "gs": ("GCS", "bucket"), "az": ("Azure", "container")}
_KEYS = {"S3": "key", "GCS": "key", "Azure": "blob_name"}
_HOSTS = {
    "github.com": re.compile(r"/(?P<repo>[^/]+/[^/]+)/(?:blob|raw)/(?P<ref>[^/]+)/(?P<path>.+)"),
    "gitlab.com": re.compile(r"/(?P<repo>.+?)/-/(?:blob|raw)/(?P<ref>[^/]+)/(?P<path>.+)"),
    "bitbucket.org": re.compile(r"/(?P<workspace>[^/]+)/(?P<repo>[^/]+)/(?:src|raw)/(?P<ref>[^/]+)/(?P<path>.+)"),
}
_KINDS = {"github.com": "GitHub", "gitlab.com": "GitLab", "bitbucket.org": "Bitbucket"}
_EXPECTED = (
    "expected s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/BLOB, or a file of a repository, such as"
    " https://github.com/OWNER/NAME/blob/REF/PATH"
)


@dataclass(frozen=True)
class Place:
    """Where a flow lies: ``kind`` and ``options`` of its storage, ``key`` in it, and the ``flow`` that is wanted."""

    target: str
    kind: str
    options: dict[str, Any]
    key: str
    flow: str | None

    def storage(self, *, script: bool) -> Storage:
        """The storage of the flow, which is a script or a pickle.

        Raises RegistrationError: the place cannot be one.
        """
        options = dict(self.options)
        if self.kind in _KEYS:
            options |= {_KEYS[self.kind]: self.key, "stored_as_script": script}
        try:
            made: Storage = load("storages", self.kind)(**options)
        except (TypeError, ValueError) as error:
            raise RegistrationError(f"{self.target}: {error}") from error
        return made


def place_of(target: str) -> Place | None:
    """The place that ``target`` names; None: it is a file or a module of this machine, to be loaded as such.

    Raises RegistrationError: it is an address of another form.
    """
    if not _URL.match(target):
        file = Path(target)
        return Place(target, "Local", {}, str(file.absolute()), None) if _is_pickle(file) else None
    parts = urlsplit(target)
    if parts.username or parts.password or parts.query:
        raise RegistrationError(
            "the target holds credentials or a query, which would stand in the registration",
            hint="credentials are found as for any storage: by a secret, or what the SDK finds",
        )
    # A colon behind the last slash names the flow, as in FILE:FLOW.
    path, flow = _split(unquote(parts.path))
    if parts.scheme in _BUCKETS:
        kind, name = _BUCKETS[parts.scheme]
        if not parts.netloc or not path.strip("/"):
            raise RegistrationError(f"{target} names no object, {_EXPECTED}")
        return Place(target, kind, {name: parts.netloc}, path[1:], flow)
    host = (parts.hostname or "").removeprefix("www.")
    if parts.scheme == "https" and host in _HOSTS and (found := _HOSTS[host].fullmatch(path)):
        return Place(target, _KINDS[host], found.groupdict(), found["path"], flow)
    raise RegistrationError(
        f"{target} is no place that is known, {_EXPECTED}",
        hint="for another one write a script that names its storage, with stored_as_script=True",
    )


def _split(path: str) -> tuple[str, str | None]:
    folder, slash, name = path.rpartition("/")
    name, colon, flow = name.partition(":")
    return folder + slash + name, flow if colon and flow else None


def _is_pickle(path: Path) -> bool:
    """Whether a file of this machine holds a pickle, raw or in its envelope of JSON."""
    try:
        if path.suffix == ".py" or not path.is_file():
            return False
        with path.open("rb") as file:
            return looks_pickled(file.read(4096))
    except OSError:
        return False


def looks_pickled(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a pickle, raw (protocol 2 and newer) or in its envelope of JSON."""
    return head[:1] == b"\x80" or bool(re.match(rb'\s*\{\s*"(flow|versions)"\s*:', head))


async def registered_in_place(
    place: Place, *, labels: Iterable[str], on_output: Callable[[str], object], secrets_of: Secrets
) -> list[Registration]:
    """The registrations of what lies in ``place``, ready for the queue; ``secrets_of`` this machine it is fetched with.

    Raises RegistrationError: it is not there, cannot be loaded, or holds no such flow. InvalidInput: a label is none.
    """
    with TemporaryDirectory(prefix="flow-agent-") as name:
        folder = Path(name)
        file, location = await _fetched(place, folder, secrets_of)
        head, digest, size = await anyio.to_thread.run_sync(_facts, file)
        pickled = looks_pickled(head) and place.kind in (*_KEYS, "Local")
        storage = place.storage(script=not pickled)
        lies = {
            "file": str(file),
            "kind": "pickle" if pickled else "script",
            "storage": storage.describe(),
            "flow": place.flow,
            "location": location,
            "digest": digest if pickled else None,  # a script follows its object
            "size": size if pickled else None,
        }
        return await collect_stored(place.target, lies, labels=labels, on_output=on_output, folder=folder)


async def _fetched(place: Place, folder: Path, secrets_of: Secrets) -> tuple[Path, dict[str, Any] | None]:
    """The file as it was fetched, under its own name, and its location for a registration."""
    if place.kind == "Local":
        return Path(place.key), {"path": place.key, "host": socket.gethostname(), "source": None, "theirs": True}
    target = folder / (place.key.rpartition("/")[2] or "flow")

    async def on_wait(number: int, wait: float, error: BaseException) -> None:
        """Somebody waits at the terminal: the error is told if it stays."""

    async def once() -> dict[str, Any] | None:
        async with secrets_of() as secrets:
            return await (_object if place.kind in _KEYS else _file)(place, target, secrets)

    try:
        return target, await retry.fetching(retry.Policy(), once, on_wait)
    except (StoreError, FetchError) as error:
        raise RegistrationError(f"{place.target}: {error}", hint=error.hint) from error


async def _object(place: Place, target: Path, secrets: SecretResolver) -> dict[str, Any]:
    storage: Any = place.storage(script=True)
    async with storage.connect(secrets) as store:
        facts = await store.get(place.key, target)
        where = store.where
    return {
        "key": place.key,
        "script": target.name,
        "bucket": where,
        "source": None,
        "uploaded": False,
        "version": facts.version,
        "etag": facts.etag,
    }


async def _file(place: Place, target: Path, secrets: SecretResolver) -> None:
    storage: Any = place.storage(script=True)
    async with storage.connect(secrets) as repository:
        commit = await repository.commit(storage.ref)
        await repository.file(commit.name, storage.path, target)


def _facts(file: Path) -> tuple[bytes, str, int]:
    with file.open("rb") as opened:
        head = opened.read(4096)
        opened.seek(0)
        return head, hashlib.file_digest(opened, "sha256").hexdigest(), file.stat().st_size
