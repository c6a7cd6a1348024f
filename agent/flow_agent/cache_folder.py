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
import hashlib
import json
import math
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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

LOOK_EVERY = 256
"""Payloads kept between two looks at what several agents keep here together."""


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
        self._making = threading.Lock()
        self._size = self._kept = 0
        self._staging: Path | None = None
        self._lock_file: int | None = None

    def size(self) -> float:
        """Bytes of payloads, as this process knows them; not a number before it has kept one."""
        return self._size if self._kept else math.nan

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
        with self._making:
            if self._staging is None or not self._staging.is_dir():
                self._staging = self._new_staging()
        staged = self._staging / uuid.uuid4().hex
        staged.mkdir(mode=0o700)
        return staged

    def _new_staging(self) -> Path:
        """This process's own folder, locked while it lives; those of processes that have ended are removed."""
        root = self._folder / "staging"
        make_private(root)
        with _locked(root):  # another process must not see ours before it is locked
            for left in root.iterdir():
                _remove_if_left(left)
            staging = root / uuid.uuid4().hex
            staging.mkdir(mode=0o700)
            if self._lock_file is not None:
                os.close(self._lock_file)
            self._lock_file = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        return staging

    def keep(self, name: str, registration: Registration, found: Fetched, staged: Path) -> Entry | None:
        """Make what was fetched into ``staged`` the payload of ``name``; None: it is larger than the limit.

        Raises OSError: the disk is full, or cannot be written.
        """
        size = _sync(staged)
        if size > self._limit:
            return None
        place = f"{found.digest}-{registration.kind}"
        if registration.kind == "script":  # the digest of a single file does not tell what it is called
            place += f"-{hashlib.sha256(str(found.payload['path']).encode()).hexdigest()[:12]}"
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
        self._make_room(place, size)
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

    def _make_room(self, spared: str, size: int) -> None:
        """Remove what was not used for the longest time until the limit holds, and what the index says of it."""
        with self._making:
            self._size += size
            self._kept += 1
            if self._size <= self._limit and self._kept % LOOK_EVERY != 1:
                return  # a look at all of it for each new one would take longer the more there is
            found = sorted(_objects(self._folder), key=lambda each: each[1])
            self._size = sum(each for _, _, each in found)
            gone = set()
            for path, _, each in found:
                if self._size <= self._limit:
                    break
                if path.name != spared:
                    shutil.rmtree(path, ignore_errors=True)
                    self._size -= each
                    gone.add(path.name)
        if gone:
            _forget(self._folder, gone)


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
    staging = folder / "staging"
    with contextlib.suppress(FileNotFoundError), _locked(staging):
        for left in staging.iterdir():
            _remove_if_left(left)
    return len(found), sum(size for _, _, size in found)


def _objects(folder: Path) -> Iterator[tuple[Path, float, int]]:
    """Each object with the time of its last use and its bytes."""
    with contextlib.suppress(FileNotFoundError):
        for path in (folder / "objects").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_mtime, _size(path)


def _is_whole(path: Path, found: Fetched) -> bool:
    try:
        return payload.digest_of(path / (found.payload.get("root") or found.payload["path"])) == found.digest
    except (OSError, payload.Refused):
        return False


def _size(folder: Path) -> int:
    """Bytes of all that is below ``folder``."""
    return sum(each.lstat().st_size for each in folder.rglob("*"))


def _sync(folder: Path) -> int:
    """Put all that is below ``folder`` on the disk; gives its bytes."""
    found = [(Path(place), [Path(place, name) for name in files]) for place, _, files in os.walk(folder)]
    paths = [path for _, files in found for path in files if not path.is_symlink()]
    if len(paths) > 1 and hasattr(os, "posix_fadvise"):
        # This begins to write, and waits for nothing: then waiting for 2,000 files takes half the time.
        _for_each(paths, lambda file: os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED))
    _for_each(paths, os.fsync)
    for place, _ in found:
        sync_folder(place)
    return _size(folder)


def _for_each(paths: Sequence[Path], action: Callable[[int], object]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            action(file)
        finally:
            os.close(file)


def _forget(folder: Path, gone: Set[str]) -> None:
    """Remove the index entries of objects that are gone."""
    for path in (folder / "index").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(path.read_bytes())["object"] in gone:
                path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """While this is open, no other process makes or removes what is in ``folder``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_left(staging: Path) -> None:
    """Remove what a process staged that has ended: its lock is free."""
    with contextlib.suppress(OSError):
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(descriptor)
