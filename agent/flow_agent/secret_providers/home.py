"""Secrets in ``secrets.json`` of the home, as ``flow-agent secrets`` keeps them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread

from flow_agent.errors import FlowAgentError, SecretUnavailable
from flow_agent.home import make_private, sync_folder

NAME = "secrets.json"


class HomeSecrets:
    """The file of ``home``, read anew each time: ``{name: {"value": text, "set_at": seconds}}``."""

    def __init__(self, home: Path) -> None:
        self._path = home / NAME
        self.where = f"{self._path} (`flow-agent secrets`)"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`.

        Raises SecretUnavailable: the file cannot be read.
        """
        try:
            found = (await anyio.to_thread.run_sync(self.entries)).get(name)
        except FlowAgentError as error:
            raise SecretUnavailable(str(error), hint=error.hint) from error
        return None if found is None else str(found["value"])

    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """All of them. Blocks.

        Raises FlowAgentError: the file cannot be read, or others may read it too.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise FlowAgentError(f"{self._path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_mode & 0o077:
                raise FlowAgentError(
                    f"others may read {self._path}, expected mode 0600", hint=f"chmod 600 {self._path}"
                )
            try:
                entries = json.loads(file.read())
            except ValueError:
                raise FlowAgentError(
                    f"{self._path} is damaged: it is no JSON", hint="remove it, and set the secrets anew"
                ) from None
        return dict(entries)

    @contextmanager
    def changed(self) -> Iterator[dict[str, Any]]:
        """The entries to change; they are written, whole or not at all, when the block ends. One writer at a time.

        Raises FlowAgentError: the file cannot be read or written.
        """
        make_private(self._path.parent)
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = dict(self.entries())
            yield entries
            self._write(json.dumps(entries, indent=1))
        finally:
            os.close(lock)

    def _write(self, text: str) -> None:
        part = self._path.with_suffix(".part")
        try:
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            part.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise FlowAgentError(f"{self._path} cannot be written: {error.strerror}") from error


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[HomeSecrets]:
    """``home:FOLDER``."""
    yield HomeSecrets(Path(rest))
