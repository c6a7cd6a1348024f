"""What an image is built of: looked up and checked before anything is built."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from flow_agent.storages import image_context
from flow_agent.storages.dockerfile import default_base, dockerfile

if TYPE_CHECKING:
    from flow_agent.storages.docker import Docker


class Plan:
    """What is to be built: ``base`` is the image to begin with, None where the author's Dockerfile says it.

    Raises RegistrationError: a file that is named is not there.
    """

    def __init__(self, storage: Docker, name: str, folder: Path) -> None:
        self.storage, self.name = storage, name
        self.image = folder / "image"
        self.image.mkdir()
        self.base = None if storage.dockerfile else storage.base_image or default_base()
        self._text = "" if storage.dockerfile is None else _read(storage.dockerfile, "dockerfile")
        usual = Path.cwd() / ".dockerignore"
        ignored = storage.dockerignore or (usual if storage.dockerfile and usual.is_file() else None)
        self._patterns = [] if ignored is None else image_context.patterns_of(_read(ignored, "dockerignore"))
        for source in storage.files:
            if not source.exists():
                raise _not_there(source, "files")

    def theirs(self, file: IO[bytes]) -> None:
        """Write the context of the author's Dockerfile."""
        from flow_agent.engine.images import walk

        image_context.theirs(file, self._text, Path.cwd(), self._patterns, walk)

    def ours(self, file: IO[bytes], base: str) -> None:
        """Write the context of what is put onto ``base``."""
        from flow_agent.engine.images import walk

        storage = self.storage
        files = {f"files/{number}/{source.name}": source for number, source in enumerate(storage.files)}
        text = dockerfile(
            base,
            variables=storage.env_vars,
            dependencies=storage.python_dependencies,
            files=dict(zip(files, storage.files.values(), strict=True)),
            commands=storage.extra_dockerfile_commands,
        )
        image_context.ours(file, text, self.image, files, self._patterns, walk)


def _read(file: Path, argument: str) -> str:
    from flow_agent.errors import RegistrationError

    if not file.is_file():
        raise _not_there(file, argument)
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{argument} {file} is no text in UTF-8: {error}") from error


def _not_there(path: Path, argument: str) -> Exception:
    from flow_agent.errors import RegistrationError

    return RegistrationError(
        f"{argument} names {path}, which is not there", hint=f"paths are relative to the current folder, {Path.cwd()}"
    )
