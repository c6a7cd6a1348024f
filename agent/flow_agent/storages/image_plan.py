"""What an image is built of: looked up and checked before anything is built."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from flow_agent.storages import image_context
from flow_agent.storages.dockerfile import default_base, dockerfile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flow_agent.flow import Flow
    from flow_agent.storages.docker import Docker


class Plan:
    """What is to be built: an image called ``name`` of ``count`` flows, which are to be laid into the folder ``image``.

    ``base`` is the image to begin with, None where the author's Dockerfile says it.

    Raises RegistrationError: a file that is named is not there.
    """

    def __init__(self, storage: Docker, name: str, count: int, folder: Path) -> None:
        self.storage, self.name, self.count = storage, name, count
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
        sources: dict[str, Path] = {}
        places: dict[str, str] = {}
        for number, (source, place) in enumerate(storage.files.items()):
            # What is copied is always a folder of a plain name: in that of a file an engine would look for wildcards.
            folder, name = (f"{place.rstrip('/')}/", "") if source.is_dir() else _target(source, place)
            sources[f"files/{number}/{name}".rstrip("/")] = source
            places[f"files/{number}/"] = folder
        text = dockerfile(
            base,
            variables=storage.env_vars,
            dependencies=storage.python_dependencies,
            files=places,
            commands=storage.extra_dockerfile_commands,
        )
        image_context.ours(file, text, self.image, sources, self._patterns, walk)


def refuse_processes(flows: Iterable[Flow]) -> None:
    """See that no run of ``flows`` would be a process, which cannot see into an image: before anything is built.

    Raises RegistrationError.
    """
    from flow_agent.errors import RegistrationError

    for flow in flows:
        if getattr(flow.run_config, "launcher", None) == "process":
            raise RegistrationError(
                f"flow {flow.name!r} is to lie in an image (Docker storage), and its run config"
                f" {type(flow.run_config).__name__} starts processes, which cannot see into one",
                hint="give it a run config DockerRun() or none, or another storage",
            )


def _read(file: Path, argument: str) -> str:
    from flow_agent.errors import RegistrationError

    if file.is_dir():
        raise RegistrationError(f"{argument} names {file}, which is a folder, expected a file")
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


def _target(source: Path, place: str) -> tuple[str, str]:
    """The folder of the image that the file goes to, and its name there."""
    folder, _, name = place.rpartition("/")
    return f"{folder}/", name or source.name
