"""Files of one flow under names by time, and a link to the newest."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, TypeVar, cast

from flow_agent.checks import slug
from flow_agent.home import make_private, sync_folder

T = TypeVar("T")


def publish(directory: Path, name: str, suffix: str, write: Callable[[BinaryIO], T]) -> tuple[Path, T]:
    """Write a new file of flow ``name``, safe on the disk before it gets its own name; then point the link at it.

    Gives the file, and what ``write`` gave. Raises OSError, and what ``write`` raises; then no file is left.
    """
    folder = directory / slug(name)
    make_private(folder)
    with NamedTemporaryFile(dir=folder, prefix=".", suffix=".part", delete=False) as part:
        staged = Path(part.name)
        try:
            written = write(cast("BinaryIO", part))
            part.flush()
            os.fsync(part.fileno())
            path = _reserve(folder, suffix)
            staged.replace(path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    sync_folder(folder)
    _point_to(directory, path)
    return path, written


def withdraw(directory: Path, path: Path) -> None:
    """Remove a file that ``publish`` wrote; the link then leads to the newest of those that stay, or is gone."""
    with contextlib.suppress(OSError):  # it is only tidying up, after an error that has to be told
        path.unlink()
        link = _link(directory, path)
        if link.readlink().name != path.name:
            return
        left = sorted(other for other in path.parent.glob(f"[!.]*{path.suffix}"))
        if left:
            _point_to(directory, left[-1])
        else:
            link.unlink()


def _link(directory: Path, path: Path) -> Path:
    return directory / f"{path.parent.name}{path.suffix}"


def _point_to(directory: Path, path: Path) -> None:
    link = directory / f".{path.parent.name}.{os.getpid()}.{path.name}.part"
    link.symlink_to(f"{path.parent.name}/{path.name}")
    link.replace(_link(directory, path))
    sync_folder(directory)


def _reserve(folder: Path, suffix: str) -> Path:
    """A name by time that nobody else has: two builds in one microsecond get two names."""
    from slugify import slugify

    now = datetime.now(UTC)
    while True:
        path = folder / f"{slugify(now.isoformat(timespec='microseconds'))}{suffix}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            now += timedelta(microseconds=1)
        else:
            return path
