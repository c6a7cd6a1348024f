"""Secrets in a folder, one file each, as Kubernetes mounts them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread

from flow_agent.errors import SecretUnavailable

LARGEST = 1 << 20
"""Bytes of a secret; Kubernetes takes no more."""


class FileSecrets:
    """Serves the files of ``folder``, read anew each time, so that a new value is seen; one line end is left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = f"files in {folder}"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`.

        Raises SecretUnavailable: the file is there and cannot be read.
        """
        if "/" in name or "\0" in name or name.startswith("."):
            return None
        return await anyio.to_thread.run_sync(self._read, name)

    def _read(self, name: str) -> str | None:
        path = self._folder / name
        try:
            if not path.is_file():
                return None
            if path.stat().st_size > LARGEST:
                raise SecretUnavailable(f"secret file {path} is larger than {LARGEST} bytes")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SecretUnavailable(
                f"secret file {path} cannot be read: {error.strerror or error}", hint="let the agent's user read it"
            ) from error
        except UnicodeDecodeError:
            raise SecretUnavailable(f"secret file {path} is no text in UTF-8", hint="encode it, as in base64") from None
        return text.removesuffix("\n").removesuffix("\r")


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[FileSecrets]:
    """``files:FOLDER``."""
    yield FileSecrets(Path(rest))
