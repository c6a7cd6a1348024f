"""Flows as they will lie in an image: a folder that becomes ``/opt/flow-agent`` there."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from flow_agent.checks import slug
from flow_agent.storages import payload, pickling, sources
from flow_agent.storages.dockerfile import INSIDE

if TYPE_CHECKING:
    from flow_agent.flow import Flow
    from flow_agent.storages.docker import Docker

RUNNER = "runner.pyz"
"""The file that loads flows in the image: the author's side of this package, and the cloudpickle that runs here."""
MANIFEST = "flows.json"


@dataclass(frozen=True, kw_only=True)
class Laid:
    """One flow in the image. ``inside`` is what its attempt loads there: ``kind`` and absolute paths."""

    flow: str
    inside: dict[str, Any]
    source: str | None
    digest: str | None = None
    size: int | None = None
    cloudpickle: str | None = None


def lay(storage: Docker, flows: Sequence[Flow], folder: Path) -> list[Laid]:
    """Write ``flows``, their manifest and the runner into the empty ``folder``.

    Raises RegistrationError: one cannot be pickled, or has no script. Refused: a folder is too large. OSError.
    """
    from flow_agent.archive import runner_archive

    laid: list[Laid] = []
    taken: set[str] = set()
    copies: dict[tuple[Path, Path | None], dict[str, Any]] = {}
    for flow in flows:
        name = _free(slug(flow.name), taken)
        if not storage.stored_as_script:
            laid.append(_pickle(flow, folder, name))
        elif storage.path is not None:
            place = PurePosixPath(storage.path)
            inside = {"kind": "script", "root": str(place.parent), "path": place.name, "flow": flow.name}
            laid.append(Laid(flow=flow.name, inside=inside, source=flow.file))
        else:
            laid.append(_script(storage, flow, folder, name, copies))
    manifest = [{"flow": each.flow, "digest": each.digest, **each.inside} for each in laid]
    (folder / MANIFEST).write_text(json.dumps({"python": _python(), "flows": manifest}, indent=1))
    made = runner_archive(folder)
    made.rename(folder / RUNNER)
    return laid


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _free(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it: two names may have one slug."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


def _pickle(flow: Flow, folder: Path, name: str) -> Laid:
    file = folder / "flows" / f"{name}.flow"
    file.parent.mkdir(exist_ok=True)
    with file.open("xb") as opened:
        hashed = payload.Hashed(opened)
        pickling.dump_function(flow, cast("BinaryIO", hashed))
    return Laid(
        flow=flow.name,
        inside={"kind": "pickle", "path": f"{INSIDE}/flows/{file.name}"},
        source=flow.file,
        digest=hashed.digest,
        size=hashed.size,
        cloudpickle=pickling.cloudpickle_version(),
    )


def _script(
    storage: Docker, flow: Flow, folder: Path, name: str, copies: dict[tuple[Path, Path | None], dict[str, Any]]
) -> Laid:
    """Flows of one file have one copy of it."""
    path, root = sources.script_of(flow, None, storage.root, "path")
    if (path, root) not in copies:
        target = folder / "flows" / name
        target.mkdir(parents=True)
        if root is not None:
            payload.copy_folder(root, target, lambda: None)
        else:
            shutil.copyfile(path, target / path.name)
        place = path.relative_to(root).as_posix() if root else path.name
        copies[path, root] = {"kind": "script", "root": f"{INSIDE}/flows/{name}", "path": place}
    return Laid(flow=flow.name, inside={**copies[path, root], "flow": flow.name}, source=str(path))
