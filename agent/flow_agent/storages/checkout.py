"""From a repository into an attempt's folder: one file, or a folder of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import from_thread, to_thread

from flow_agent.errors import StoreError
from flow_agent.hosts.base import Repository
from flow_agent.storages import archives, payload

if TYPE_CHECKING:
    from flow_agent.storages.repository import RepositoryStorage


async def payload_of(
    repository: Repository, commit: str, storage: RepositoryStorage, location: Mapping[str, Any], into: Path
) -> str:
    """Put the payload at ``commit`` into the folder ``payload`` below ``into``; gives its digest.

    Raises StoreError, Refused, OSError.
    """
    target, script = into / "payload", location["script"]
    await to_thread.run_sync(lambda: shutil.rmtree(target, ignore_errors=True))
    if storage.root is None:
        target.mkdir(mode=0o700)
        return await repository.file(commit, location["path"], target / script)
    root, archive = storage.root, into / "archive"
    await repository.folder(commit, root, target if repository.gives_folders else archive)

    def place() -> str:
        digest = None
        if not repository.gives_folders:
            target.mkdir(mode=0o700)
            digest, _ = archives.unpack(archive, target, from_thread.check_cancelled, below=root)
            archive.unlink()
        # Environments do not count, and links are told by where they end.
        if digest is None or any(each.name == "pyvenv.cfg" or each.is_symlink() for each in target.rglob("*")):
            digest = payload.digest_of(target, from_thread.check_cancelled)
        if not (target / script).is_file():
            raise StoreError(
                f"{repository.where}: there is no file {location['path']} at {commit[:12]}",
                transient=False,
                missing=True,
                hint="see path, root and ref",
            )
        return digest

    return await to_thread.run_sync(place)
