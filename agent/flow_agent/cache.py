"""Fetched payloads, kept on this machine so that they travel once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread

from flow_agent import events, verify
from flow_agent.cache_folder import CacheFolder, Damaged, Entry
from flow_agent.errors import RunError
from flow_agent.model import Registration
from flow_agent.ports import Fetched, SecretResolver, Storage


@dataclass
class _Key:
    """One payload that runs wait for; ``fresh`` is the last time that its storage vouched for the index, ``failed``
    the begin of the last try that came to nothing, in a way that may pass, and what it said."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0
    fresh: float = -1.0
    failed: tuple[float, RunError] | None = None
    sources: dict[Path, str] = field(default_factory=dict)
    """Where those who asked the storage have it from, by the folder they put it in."""


class Cache:
    """Fetches through ``folder``, which holds at most ``limit`` bytes (0: nothing is kept)."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._keys: dict[str, _Key] = {}
        self._kept = CacheFolder(folder, limit)
        self.limit = limit
        self.on_fetch: Callable[[str], None] = lambda _: None
        """Told of each fetch where its payload came from: ``storage``; ``cache``, without asking the storage, or with
        others who had asked; ``unchanged``, from the cache after asking; ``disk`` of this machine; ``failed``."""

    def size(self) -> float:
        """Bytes that it holds, as far as is known; not a number before the first one is kept."""
        return self._kept.size()

    # Fetching

    async def fetch(self, storage: Storage, registration: Registration, into: Path, secrets: SecretResolver) -> Fetched:
        """Put the payload of ``registration`` under the existing folder ``into``, verified.

        What is pinned and kept comes without asking ``storage``; of the rest it is asked whether it has changed. Of
        several calls for one payload at a time one asks, and the others take what it found, a failure too.

        Raises FetchError, VerificationError, SecretNotFound, SecretUnavailable. OSError: ``into`` cannot be written.
        """
        try:
            found, source = await self._fetch(storage, registration, into, secrets)
        except (RunError, OSError):
            self.on_fetch("failed")
            raise
        self.on_fetch(source)
        return found

    async def _fetch(
        self, storage: Storage, registration: Registration, into: Path, secrets: SecretResolver
    ) -> tuple[Fetched, str]:
        """As ``fetch``, with where it came from."""
        if not storage.remote or not self._limit:
            return await _straight(storage, registration, into, secrets), "storage"
        name = key_of(registration)
        key = self._keys.setdefault(name, _Key())
        asked = anyio.current_time()
        key.waiting += 1
        try:
            async with key.lock:
                entry = await self._current(storage, registration, into, secrets, name=name, key=key, asked=asked)
        finally:
            key.waiting -= 1
            if not key.waiting:
                self._keys.pop(name, None)
        if entry is None:
            return await _straight(storage, registration, into, secrets), "storage"
        if isinstance(entry, Fetched):
            return entry, "storage"
        try:
            found = await anyio.to_thread.run_sync(self._kept.take, entry, into)
        except Damaged:
            # Another process made room, or the disk lost something: the storage still has it.
            return await _straight(storage, registration, into, secrets), "storage"
        return found, key.sources.pop(into, "cache")

    async def _current(
        self,
        storage: Storage,
        registration: Registration,
        into: Path,
        secrets: SecretResolver,
        *,
        name: str,
        key: _Key,
        asked: float,
    ) -> Entry | Fetched | None:
        """The entry of what the storage has now; what is too large to be kept is put under ``into`` and told as it is.

        None: nothing can be kept here.
        """
        entry = await anyio.to_thread.run_sync(self._kept.read, name)
        if entry is not None and (registration.digest is not None or key.fresh >= asked):
            return entry
        if key.failed is not None and key.failed[0] >= asked:
            raise key.failed[1]  # else those who wait for a store that hangs would try it one after the other
        began = anyio.current_time()
        try:
            staged = await anyio.to_thread.run_sync(self._kept.stage)
        except OSError as error:
            events.cache_unusable(str(self._folder), error)
            return None
        try:
            known = entry.validator if entry is not None else None
            try:
                found = await storage.fetch(registration, staged, secrets, known)
            except RunError as error:
                key.failed = (began, error) if error.transient else None
                raise
            if found is not None:
                await anyio.to_thread.run_sync(verify.verify, registration, found, staged)
                try:
                    keep = partial(self._kept.keep, name, registration, found, staged)
                    entry = await anyio.to_thread.run_sync(keep)
                except OSError as error:
                    events.cache_unusable(str(self._folder), error)
                    return None
                if entry is None:
                    await anyio.to_thread.run_sync(_move, staged, into)
                    return found
            key.fresh = began
            key.sources[into] = "unchanged" if found is None else "storage"
            return entry
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(10):
                await anyio.to_thread.run_sync(partial(shutil.rmtree, staged, ignore_errors=True))


def key_of(registration: Registration) -> str:
    """What names a payload in the index: its storage, with the names of credentials, and its place there.

    Content alone does not: who knows a digest may not be allowed to read what has it.
    """
    named = [registration.storage, registration.location, registration.kind, registration.digest]
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=dict).encode()).hexdigest()


def _move(staged: Path, into: Path) -> None:
    for each in staged.iterdir():
        target = into / each.name
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        shutil.move(each, target)


async def _straight(storage: Storage, registration: Registration, into: Path, secrets: SecretResolver) -> Fetched:
    found = await storage.fetch(registration, into, secrets)
    assert found is not None  # nothing was known
    await anyio.to_thread.run_sync(verify.verify, registration, found, into)
    return found
