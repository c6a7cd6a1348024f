"""flow-agent for an image that lacks it: an init container copies it into a folder, and the next one takes it there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import flow_agent

DISTRIBUTION = "flow-agent-daemon"
MARKER = ".flow-agent-brought"
_DEVELOPMENT = {"lint", "test"}
_LEFT_OUT = frozenset({"__pycache__", "tests", "test"})


def is_brought() -> bool:
    """Whether this program was put here by ``install``, beside an interpreter that does not know it."""
    return (Path(flow_agent.__file__).parent.parent / MARKER).exists()


def install(target: Path) -> None:
    """Copy this program and all that it needs to ``target``, for interpreters without it.

    What is compiled of it serves only the same minor version of Python; without it go the SDKs that need it.

    Raises OSError: the disk refuses.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in needed(DISTRIBUTION):
        _copy(metadata.distribution(name), target)
    ours = Path(flow_agent.__file__).parent
    if not (target / "flow_agent").exists():  # an editable installation lists no files of its own
        shutil.copytree(ours, target / "flow_agent", ignore=lambda _, names: [n for n in names if n in _LEFT_OUT])
    (target / MARKER).touch()


def needed(name: str) -> list[str]:
    """The distributions that ``name`` needs, itself too, as far as they are installed; its own extras also.

    Left out is what only developers of this project need.
    """
    from packaging import requirements, utils  # noqa: PLC0415 - 90 ms, and each run in a pod or task imports this module

    found: dict[str, None] = {}
    seen = set()
    extras = set(metadata.metadata(name).get_all("Provides-Extra") or ()) - _DEVELOPMENT
    left = [(utils.canonicalize_name(name), extra) for extra in ("", *sorted(extras))]
    while left:
        each, extra = left.pop()
        if (each, extra) in seen:
            continue
        seen.add((each, extra))
        try:
            wanted = metadata.distribution(each).requires or []
        except metadata.PackageNotFoundError:
            continue
        found[each] = None
        for requirement in map(requirements.Requirement, wanted):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(utils.canonicalize_name(requirement.name), one) for one in ("", *sorted(requirement.extras))]
    return list(found)


def _copy(distribution: metadata.Distribution, target: Path) -> None:
    base = Path(str(distribution.locate_file("")))
    for file in _own(distribution.files or ()):
        source = base / file
        if source.is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / file)


def _own(files: Iterable[metadata.PackagePath]) -> Iterable[metadata.PackagePath]:
    """Those below the folder of packages: no scripts, no bytecode, no path that an editable installation adds."""
    for file in files:
        if ".." not in file.parts and not _LEFT_OUT & set(file.parts[1:]) and file.suffix != ".pth":
            yield file
