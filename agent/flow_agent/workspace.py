"""The folders of attempts on this machine: made private, named so that two never meet, removed when all is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PAYLOAD, WORK = "payload", "work"


def spool_root(home: Path, agent: str) -> Path:
    """Where the attempts of ``agent`` live."""
    return home / "spool" / agent


def spool_name(run_id: str, claim: int) -> str:
    """The name of the folder of one claim."""
    return f"{run_id}-{claim}"


def make_spool(root: Path, run_id: str, claim: int) -> Path:
    """A new folder for one claim of a run, with ``payload`` and ``work`` in it; what an earlier life left is replaced.

    Raises OSError: no room or no permission.
    """
    folder = root / spool_name(run_id, claim)
    remove(folder)
    folder.mkdir(mode=0o700, parents=True)
    (folder / PAYLOAD).mkdir(mode=0o700)
    (folder / WORK).mkdir(mode=0o700)
    return folder


def remove(folder: Path) -> None:
    """Delete the folder and all below it; links in it are not followed. Does nothing if there is none."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:  # a flow took away permissions in its own folder
        folder.chmod(0o700)
        for place, below, _ in os.walk(folder):
            for name in below:  # before it is looked into
                if not (inner := Path(place, name)).is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(folder)
