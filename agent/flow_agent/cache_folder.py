"""The cache's folder: what lies where, and how it gets there.

::

    <home>/cache/objects/<digest>-<kind>/     a payload, never changed; its folder's time is that of its last use
    <home>/cache/index/<key>.json             what lies where: which object, and what the storage can be asked with
    <home>/cache/staging/<name>/              what a process is fetching; locked while that process lives

An object gets its name by a rename when it is whole, verified and on the disk, and an index entry by another one after
it: killed at any moment, the folder holds what it held. Several agents of one home share it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

from flow_agent import events
from flow_agent.home import make_private, sync_folder
from flow_agent.model import Registration
from flow_agent.ports import Fetched
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


class Damaged(Exception):
    """An object is gone, or is not what it was."""


class CacheFolder:
    """``folder`` with at most ``limit`` bytes of payloads. All of it blocks."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._staging: Path | None = None
        self._lock_file: int | None = None

    def read(self, name: str) -> Entry | None:
        """The entry ``name`` of the index, now used; None: there is none, or its object is gone."""
        try:
            entry = Entry(**json.loads((self._folder / "index" / f"{name}.json").read_bytes()))
            os.utime(self._folder / "objects" / entry.object)
        except (OSError, ValueError, TypeError):
            return None
        return entry

    def stage(self) -> Path:
        """A new private folder to fetch into.

        Raises OSError.
        """
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

    def keep(self, name: str, registration: Registration, found: Fetched, staged: Path) -> Entry | None:
        """Make what was fetched into ``staged`` the payload of ``name``; None: it is larger than the limit.

        Raises OSError: the disk is full, or cannot be written.
        """
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

    def take(self, entry: Entry, into: Path) -> Fetched:
        """Copy an object: what an attempt does to its files must not reach the cache.

        Raises Damaged: it is gone or changed. OSError: ``into`` cannot be written.
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
            raise Damaged from error
        except payload.Refused as error:
            raise Damaged from error
        if digest != entry.digest:
            events.cache_damaged(entry.flow, entry.object)
            shutil.rmtree(source, ignore_errors=True)
            raise Damaged
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
