"""What the storages, the results and ``doctor`` need of an object store, and what its modules share."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

import anyio.to_thread

from flow_agent.errors import SecretNotFound, StoreError
from flow_agent.objects.pool import clients
from flow_agent.ports import SecretResolver

T = TypeVar("T")

CHUNK = 1 << 18
"""Bytes that are held at a time."""
ANSWER_WITHIN = 20.0
"""Seconds until the first byte of an answer."""
SLOWEST = 64_000
"""Bytes a second that a transfer must reach from its begin to its end, beyond ANSWER_WITHIN: a store that drips its
bytes never meets a read time-out."""


def allowed_for(size: int) -> float:
    """Seconds within which ``size`` bytes must have been transferred."""
    return ANSWER_WITHIN + size / SLOWEST


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the store says of one object, and what we saw of it.

    ``version`` names this very content for good (VersionId, generation), None where the store keeps none; ``etag`` is
    its entity tag; ``validator`` is what ``get`` takes as ``known``; ``size`` in bytes; ``digest`` is the SHA-256 of
    the bytes that passed through here.
    """

    version: str | None
    etag: str
    validator: str
    size: int
    digest: str

    @property
    def revision(self) -> str:
        """What a person can find it by again."""
        return self.version or self.etag


@dataclass(frozen=True)
class Listed:
    """An object below a prefix."""

    key: str
    etag: str
    size: int


class ObjectStore(ABC):
    """One bucket or container, with credentials.

    Every method raises StoreError: ``missing`` if there is no such object, bucket or container, ``transient`` if
    another try can help; it names bucket and key, and never a secret. Nothing is tried twice here. Nothing blocks the
    event loop. ``allowed_for`` bounds each transfer.
    """

    where: str
    """The bucket for people, such as ``s3://flows``."""
    credentials: str
    """Where the credentials come from, for people, such as ``secret AWS_CREDENTIALS``; never their value."""

    @abstractmethod
    async def get(self, key: str, into: Path, *, version: str | None = None, known: str | None = None) -> Facts | None:
        """Stream an object into the new file ``into``, mode 0600; None, and no file, if it is still ``known``.

        ``version`` asks for that content; without it the newest comes. An earlier try's file is replaced. What was
        received is as long as the store said, and carries its checksum where the store gives one of the whole.
        """

    @abstractmethod
    async def put(self, key: str, source: Path, *, overwrite: bool = True) -> Facts:
        """Stream the file ``source`` to ``key``, whole or not at all.

        Without ``overwrite`` an object that is there is a lasting error.
        """

    @abstractmethod
    async def delete(self, key: str, *, version: str | None = None) -> None:
        """Remove an object, or that version of it; one that is not there is fine."""

    @abstractmethod
    async def keys(self, prefix: str, most: int) -> Sequence[Listed]:
        """The objects whose keys begin with ``prefix``, at most ``most`` + 1 of them, by key.

        The only method that needs the permission to list.
        """

    @abstractmethod
    async def check(self, key: str | None = None) -> bool:
        """Ask for the first byte of ``key``, else for an object that is not there: does the store let us read?

        False: it cannot be told; without the permission to list, some stores refuse to say that an object is not there.
        """


class Received:
    """The file that an object is streamed into: counts, hashes, and ends what takes too long. Blocks.

    An earlier try's file at ``path`` is replaced. ``what`` names the object in errors. Setting ``unwanted`` ends it at
    its next bytes: a thread that waits for a store cannot be ended from outside. ``also`` is another hash that all
    bytes go through.
    """

    def __init__(self, path: Path, what: str, also: Any = None) -> None:
        self._path, self._what = path, what
        self._hash, self._also = hashlib.sha256(), also
        self.size = 0
        self.unwanted = False

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._began = time.monotonic()
        self._file = open(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb")  # noqa: PTH123 - private from its first moment; closed by __exit__
        return self

    def __exit__(self, *caught: object) -> None:
        self._file.close()

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises StoreError: they come too slowly, or nobody wants them any more. OSError.
        """
        if self.unwanted:
            raise StoreError(f"{self._what} is not wanted any more", transient=True)
        self._file.write(chunk)
        self._hash.update(chunk)
        if self._also is not None:
            self._also.update(chunk)
        self.size += len(chunk)
        if (took := time.monotonic() - self._began) > allowed_for(self.size):
            raise StoreError(
                f"{self._what}: {self.size} bytes came in {took:.0f} s, slower than {SLOWEST // 1000} kB a second",
                transient=True,
            )

    def digest(self, expected: int | None) -> str:
        """SHA-256 (hex) of what has come, all of it.

        Raises StoreError: it is not ``expected`` bytes long, or the store did not say how long it is.
        """
        self._file.flush()
        if self.size != expected:
            raise StoreError(
                f"{self._what}: {self.size} bytes came of {'an unknown number' if expected is None else expected}",
                transient=True,
            )
        return self._hash.hexdigest()


async def sdk(name: str, extra: str, needs: str) -> ModuleType:
    """The module ``name`` of an SDK, imported in a thread (it takes up to a second).

    Raises StoreError: it is not installed; ``needs`` says what needs it.
    """
    if (found := sys.modules.get(name)) is not None and not getattr(found.__spec__, "_initializing", False):
        return found
    try:
        return await anyio.to_thread.run_sync(importlib.import_module, name)
    except ImportError as error:
        raise StoreError(
            f"{needs} needs {name.partition('.')[0]}, which is not installed here ({error})",
            transient=False,
            hint=f"pip install 'flow-agent-daemon[{extra}]'",
        ) from error


async def credentials(secrets: SecretResolver, named: str | None, default: str) -> tuple[str | None, str]:
    """The secret ``named`` on the storage, else the ``default`` one, else None; and where that is from, for people.

    Raises SecretNotFound: the named one is nowhere. SecretUnavailable: a provider did not answer.
    """
    if named is not None:
        return await secrets.get(named), f"secret {named}"
    try:
        return await secrets.get(default), f"secret {default}"
    except SecretNotFound:
        return None, ""


def blocking(call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` gives, run in an event loop of its own thread: an author's code may have a loop running itself."""
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - only where an author stores

    async def main() -> T:
        async with clients():
            return await call()

    with start_blocking_portal() as portal:
        return portal.call(main)
