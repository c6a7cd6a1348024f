"""The file of a script, and the folder that comes along with it."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flow_agent.storages import payload

if TYPE_CHECKING:
    from flow_agent.flow import Flow


def script_of(flow: Flow, given: Path | None, root: Path | None, argument: str) -> tuple[Path, Path | None]:
    """The script of ``flow``, ``given`` or the file it is defined in, and its root, with links followed.

    ``argument`` is what the storage calls ``given``.

    Raises RegistrationError: there is no such file, or it is not part of ``root``.
    """
    from flow_agent.errors import RegistrationError

    script = given or (Path(flow.file) if flow.file else None)
    if script is None:
        raise RegistrationError(
            f"flow {flow.name!r} was not defined in a file, so there is no script to store",
            hint=f"name it: {type(flow.storage).__name__}({argument}=..., stored_as_script=True)",
        )
    if not script.is_file():
        what = "is a folder" if script.is_dir() else "does not exist"
        raise RegistrationError(
            f"flow {flow.name!r}: its script {script} {what}, expected the file that defines it",
            hint=f"for a folder name both: {type(flow.storage).__name__}(root=FOLDER, {argument}=FILE_IN_IT,"
            " stored_as_script=True)",
        )
    if root is None:
        from flow_agent.storages.neighbours import warn_of_script

        warn_of_script(flow, script)
        return script, None
    path, top = script.resolve(), root.resolve()
    if not path.is_relative_to(top):
        raise RegistrationError(f"flow {flow.name!r}: its script {path} is not below root {top}")
    if path.relative_to(top).as_posix() not in {entry.path for entry in payload.entries(top, lambda: None)}:
        raise RegistrationError(f"flow {flow.name!r}: its script {path} lies in a part of {top} that is left out")
    return path, top
