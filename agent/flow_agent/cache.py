"""Fetched payloads, kept on this machine so that they travel once.

::

    <home>/cache/objects/<digest>-<kind>/     a payload, never changed; its folder's time is that of its last use
    <home>/cache/index/<key>.json             what lies where: which object, and what the storage can be asked with
    <home>/cache/staging/<name>/              what a process is fetching; locked while that process lives

An object gets its name by a rename when it is whole, verified and on the disk, and an index entry by another one after
it: killed at any moment, the cache holds what it held. Several agents of one home share it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

from flow_agent import events, verify
from flow_agent.home import make_private, sync_folder
from flow_agent.model import Registration
from flow_agent.ports import Fetched, SecretResolver, Storage
from flow_agent.storages import payload


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the index: a payload of a storage, ``size`` in bytes, ``used`` seconds since the epoch."""

    key: str
    object: str
    flow: str
    storage: str
    location: str
    payload: Mapping[str, Any]
    revision: str
    digest: str
    validator: str | None
    size: int
    used: float = 0.0


class _Damaged(Exception):
    """An object is gone, or is not what it was."""


@dataclass
class _Key:
    """One payload that runs wait for; ``fresh`` is the last time that its storage vouched for the index."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0
    fresh: float = -1.0


class Cache:
    """Fetches through ``folder``, which holds at most ``limit`` bytes (0: nothing is kept)."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._keys: dict[str, _Key] = {}
        self._staging: Path | None = None
        self._lock_file: int | None = None

    # Fetching

    async def fetch(self, storage: Storage, registration: Registration, into: Path, secrets: SecretResolver) -> Fetched:
        """Put the payload of ``registration`` under the existing folder ``into``, verified.

        What is pinned and kept comes without asking ``storage``; of the rest it is asked whether it has changed. Of
        several calls for one payload at a time one asks, and the others take what it found.

        Raises FetchError, VerificationError, SecretNotFound, SecretUnavailable. OSError: ``into`` cannot be written.
        """
        if not storage.remote or not self._limit:
            return await _straight(storage, registration, into, secrets)
        name = key_of(registration)
        key = self._keys.setdefault(name, _Key())
        asked = anyio.current_time()
        key.waiting += 1
        try:
            async with key.lock:
                entry = await self._current(storage, registration, secrets, name, key, asked)
        finally:
            key.waiting -= 1
            if not key.waiting:
                self._keys.pop(name, None)
        if entry is None:
            return await _straight(storage, registration, into, secrets)
        try:
            return await anyio.to_thread.run_sync(self._take, entry, into)
        except _Damaged:
            # Another process made room, or the disk lost something: the storage still has it.
            return await _straight(storage, registration, into, secrets)

    async def _current(  # noqa: PLR0917 - what one fetch knows
        self,
        storage: Storage,
        registration: Registration,
        secrets: SecretResolver,
        name: str,
        key: _Key,
        asked: float,
    ) -> Entry | None:
        """The entry of what the storage has now; None: it cannot be kept here."""
        entry = await anyio.to_thread.run_sync(self._read, name)
        if entry is not None and (registration.digest is not None or key.fresh >= asked):
            return entry
        began = anyio.current_time()
        try:
            staged = await anyio.to_thread.run_sync(self._stage)
        except OSError as error:
            events.cache_unusable(str(self._folder), error)
            return None
        try:
            known = entry.validator if entry is not None else None
            found = await storage.fetch(registration, staged, secrets, known)
            if found is not None:
                await anyio.to_thread.run_sync(verify.verify, registration, found, staged)
                try:
                    keep = partial(self._keep, name, registration, found, staged)
                    entry = await anyio.to_thread.run_sync(keep)
                except OSError as error:
                    events.cache_unusable(str(self._folder), error)
                    return None
            key.fresh = began
            return entry
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(10):
                await anyio.to_thread.run_sync(partial(shutil.rmtree, staged, ignore_errors=True))

    # On the disk

    def _read(self, name: str) -> Entry | None:
        try:
            entry = Entry(**json.loads((self._folder / "index" / f"{name}.json").read_bytes()))
            os.utime(self._folder / "objects" / entry.object)
        except (OSError, ValueError, TypeError):
            return None
        return entry

    def _stage(self) -> Path:
        if self._staging is None:
            root = self._folder / "staging"
            make_private(root)
            for left in root.iterdir():
                _remove_if_left(left)
            staging = root / uuid.uuid4().hex
            staging.mkdir(mode=0o700)
            self._lock_file = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            self._staging = staging
        staged = self._staging / uuid.uuid4().hex
        staged.mkdir(mode=0o700)
        return staged

    def _keep(self, name: str, registration: Registration, found: Fetched, staged: Path) -> Entry | None:
        size = _sync(staged)
        if size > self._limit:
            return None
        place = f"{found.digest}-{registration.kind}"
        objects, index = self._folder / "objects", self._folder / "index"
        make_private(objects)
        make_private(index)
        target = objects / place
        if target.exists() and not _is_whole(target, found):
            shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was first: it holds the same
            staged.rename(target)
        os.utime(target)
        sync_folder(objects)
        entry = Entry(
            key=name,
            object=place,
            flow=registration.flow,
            storage=str(registration.storage.get("type")),
            location=str(registration.location.get("key") or registration.location.get("path") or ""),
            payload=dict(found.payload),
            revision=found.revision,
            digest=found.digest,
            validator=found.validator,
            size=size,
        )
        part = index / f".{name}.{uuid.uuid4().hex}.part"
        part.write_text(json.dumps({k: v for k, v in vars(entry).items() if k != "used"}))
        part.replace(index / f"{name}.json")
        sync_folder(index)
        self._make_room(place)
        return entry

    def _take(self, entry: Entry, into: Path) -> Fetched:
        """Copy an object: what an attempt does to its files must not reach the cache.

        Raises _Damaged: it is gone or changed. OSError: ``into`` cannot be written.
        """
        source = self._folder / "objects" / entry.object
        check = anyio.from_thread.check_cancelled
        part = Path(entry.payload.get("root") or entry.payload["path"])
        target = into / part
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        try:
            if (source / part).is_dir():
                target.mkdir(mode=0o700)
                digest, _ = payload.copy_folder(source / part, target, check)
            else:
                digest, _ = payload.copy_file(source / part, target, check)
        except FileNotFoundError as error:
            raise _Damaged from error
        except payload.Refused as error:
            raise _Damaged from error
        if digest != entry.digest:
            events.cache_damaged(entry.flow, entry.object)
            shutil.rmtree(source, ignore_errors=True)
            raise _Damaged
        return Fetched(payload=entry.payload, revision=entry.revision, digest=entry.digest, validator=entry.validator)

    def _make_room(self, spared: str) -> None:
        """Remove what was not used for the longest time until the limit holds."""
        found = sorted(_objects(self._folder), key=lambda each: each[1])
        total = sum(size for _, _, size in found)
        for path, _, size in found:
            if total <= self._limit:
                return
            if path.name != spared:
                shutil.rmtree(path, ignore_errors=True)
                total -= size


# For people


def listed(folder: Path) -> Sequence[Entry]:
    """What the cache in ``folder`` holds, last used first."""
    found = []
    for path in (folder / "index").glob("*.json"):
        try:
            data = json.loads(path.read_bytes())
            used = (folder / "objects" / data["object"]).stat().st_mtime
            found.append(Entry(**{**data, "used": used}))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # its object was removed, or it is being written
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def clear(folder: Path) -> tuple[int, int]:
    """Remove what the cache holds, beside running agents; gives how many payloads and bytes that was."""
    found = list(_objects(folder))
    for path in (folder / "index").glob("*.json"):
        path.unlink(missing_ok=True)
    for path, _, _ in found:
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        for left in (folder / "staging").iterdir():
            _remove_if_left(left)
    return len(found), sum(size for _, _, size in found)


def key_of(registration: Registration) -> str:
    """What names a payload in the index: its storage, with the names of credentials, and its place there.

    Content alone does not: who knows a digest may not be allowed to read what has it.
    """
    named = [registration.storage, registration.location, registration.kind, registration.digest]
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=dict).encode()).hexdigest()


async def _straight(storage: Storage, registration: Registration, into: Path, secrets: SecretResolver) -> Fetched:
    found = await storage.fetch(registration, into, secrets)
    assert found is not None  # nothing was known
    await anyio.to_thread.run_sync(verify.verify, registration, found, into)
    return found


def _objects(folder: Path) -> Iterator[tuple[Path, float, int]]:
    """Each object with the time of its last use and its bytes."""
    with contextlib.suppress(FileNotFoundError):
        for path in (folder / "objects").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_mtime, sum(each.lstat().st_size for each in path.rglob("*"))


def _is_whole(path: Path, found: Fetched) -> bool:
    try:
        return payload.digest_of(path / (found.payload.get("root") or found.payload["path"])) == found.digest
    except (OSError, payload.Refused):
        return False


def _sync(folder: Path) -> int:
    """Put all that is below ``folder`` on the disk; gives its bytes."""
    size = 0
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            if not path.is_symlink():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    size += os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
        sync_folder(Path(place))
    return size


def _remove_if_left(staging: Path) -> None:
    """Remove what a process staged that has ended: its lock is free."""
    with contextlib.suppress(OSError):
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(descriptor)
