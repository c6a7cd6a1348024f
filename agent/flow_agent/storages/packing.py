"""A flow as one file, ready for an object store: a pickle, a script, or a folder in an archive."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

import posixpath
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from flow_agent.storages import archives, payload, pickling, sources

if TYPE_CHECKING:
    from flow_agent.flow import Flow


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One flow as it lies in a file, to be uploaded; ``file`` is None if its object is somebody else's."""

    flow: str
    kind: str
    key: str
    file: Path | None
    location: dict[str, Any]
    digest: str | None = None
    size: int | None = None


def pickled(flow: Flow, key: str, file: Path) -> Packed:
    """The function of ``flow`` as a pickle in the new ``file``.

    Raises RegistrationError: it cannot be pickled. OSError.
    """
    with file.open("xb") as opened:
        hashed = payload.Hashed(opened)
        pickling.dump_function(flow, cast("BinaryIO", hashed))
    return Packed(
        flow=flow.name,
        kind="pickle",
        key=key,
        file=file,
        location={"source": flow.file},
        digest=hashed.digest,
        size=hashed.size,
    )


def script(flow: Flow, key: str, file: Path, *, given: Path | None, root: Path | None, pin: bool) -> Packed:
    """The source of ``flow``, and all of ``root``, in the new ``file``.

    Raises RegistrationError: there is no such script. Refused: the folder is too large. OSError.
    """
    path, top = sources.script_of(flow, given, root, "local_script_path")
    with file.open("xb") as opened:
        if top:
            digest, size = archives.pack_folder(top, opened, lambda: None)
        else:
            hashed = payload.Hashed(opened)
            with path.open("rb") as source:
                shutil.copyfileobj(source, cast("BinaryIO", hashed))
            digest, size = hashed.digest, hashed.size
    inside = path.relative_to(top).as_posix() if top else path.name
    return Packed(
        flow=flow.name,
        kind="script",
        key=key,
        file=file,
        location={"source": str(path), "script": inside, "archive": top is not None},
        digest=digest if pin else None,
        size=size,
    )


def theirs(flow: Flow, key: str, *, prefix: str | None, pin: bool) -> Packed:
    """A script that lies in the store already.

    Raises RegistrationError: it is to be pinned.
    """
    from flow_agent.errors import RegistrationError

    if pin:
        raise RegistrationError(
            f"flow {flow.name!r}: pin keeps what is registered, but nothing is uploaded to {key!r}",
            hint="give local_script_path too, or leave pin out",
        )
    inside = key[len(prefix) :].lstrip("/") if prefix is not None else posixpath.basename(key)
    return Packed(flow=flow.name, kind="script", key=key, file=None, location={"source": None, "script": inside})
