"""Return values in files of this machine. Standard library only at import time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any

from flow_agent.home import home, make_private, sync_folder
from flow_agent.results.base import LOCATION, checked_location, inside, rendered

if TYPE_CHECKING:
    from flow_agent.ports import SecretResolver

_CHUNK = 1 << 20


class LocalResult:
    """Keeps return values as files under ``dir`` (``<home>/results`` unless given), at ``location``.

    ``location`` is a template with the fields ``{flow}`` (the flow's name as it can stand in a path), ``{run_id}``
    and ``{attempt}``.
    """

    def __init__(self, dir: str | Path | None = None, location: str = LOCATION) -> None:  # noqa: A002 - known by it
        if dir is not None and not isinstance(dir, str | Path):
            raise TypeError(f"LocalResult: dir is {dir!r}, expected a path")
        self.dir = home() / "results" if dir is None else Path(dir).expanduser().absolute()
        self.location = checked_location(location)

    def describe(self) -> dict[str, Any]:
        """Itself as JSON-ready values."""
        return {"type": "LocalResult", "dir": str(self.dir), "location": self.location}

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> LocalResult:
        """What ``describe`` gave."""
        return cls(dir=data["dir"], location=data.get("location", LOCATION))

    def render(self, flow: str, run_id: str, attempt: int) -> str:
        """The location of one attempt's return value, relative to ``dir``."""
        return rendered(self.location, flow, run_id, attempt)

    def _path(self, location: str) -> Path:
        try:
            path = self.dir / inside(location)
        except ValueError as error:
            raise PermissionError(str(error)) from None
        # Links inside the folder may lead out of it.
        if not path.resolve().is_relative_to(self.dir.resolve()):
            raise PermissionError(f"the result's location {location!r} leads out of {self.dir} through a link")
        return path

    def write(self, location: str, source: Path) -> dict[str, Any]:
        """Copy ``source`` to ``location``, whole or not at all; gives store, location, size (bytes) and digest.

        Raises OSError: it cannot be written; PermissionError also where ``location`` leads out of the folder.
        """
        path = self._path(location)
        try:
            os.mkdir(path.parent, 0o700)  # noqa: PTH102 - usually only the run's own folder is missing
        except FileExistsError:
            pass
        except FileNotFoundError:
            make_private(path.parent)
        new = not path.exists()
        with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False, buffering=0) as part:
            try:
                size, digest = _copy(source, part)
                if not new:  # it may be lost only once the other is on the disk
                    os.fsync(part.fileno())
                Path(part.name).replace(path)
                if new:  # content and name in one go
                    os.fsync(part.fileno())
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
        return {"store": self.describe(), "location": location, "size": size, "digest": digest}

    def read(self, location: str) -> Path:
        """The file at ``location``.

        Raises FileNotFoundError: there is none. PermissionError: ``location`` leads out of the folder.
        """
        path = self._path(location)
        if not path.is_file():
            raise FileNotFoundError(f"there is no result at {path}; it was deleted, or written on another machine")
        return path

    async def put(self, location: str, source: Path, secrets: SecretResolver) -> None:  # noqa: ARG002 - the port's signature
        """See :meth:`flow_agent.ports.ResultStore.put`; needs no secret."""
        from anyio import to_thread  # noqa: PLC0415 - the author's side has no anyio

        await to_thread.run_sync(self.write, location, source)

    async def get(self, location: str, folder: Path, secrets: SecretResolver) -> Path:  # noqa: ARG002 - the port's signature
        """See :meth:`flow_agent.ports.ResultStore.get`; the file itself."""
        from anyio import to_thread  # noqa: PLC0415 - the author's side has no anyio

        return await to_thread.run_sync(self.read, location)

    async def remove(self, location: str, secrets: SecretResolver) -> None:  # noqa: ARG002 - the port's signature
        """See :meth:`flow_agent.ports.ResultStore.remove`; needs no secret."""
        from anyio import to_thread  # noqa: PLC0415 - the author's side has no anyio

        await to_thread.run_sync(lambda: self._path(location).unlink(missing_ok=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalResult) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash((self.dir, self.location))

    def __repr__(self) -> str:
        return f"LocalResult(dir={str(self.dir)!r}, location={self.location!r})"


def _copy(source: Path, target: IO[bytes]) -> tuple[int, str]:
    """Copy to an unbuffered file; gives size in bytes and SHA-256 (hex)."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[target.write(rest) :]
    return size, digest.hexdigest()
