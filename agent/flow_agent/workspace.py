"""The folders of attempts on this machine: made private, named so that two never meet, removed when all is told."""
# ruff: noqa: PTH102, PTH103, PTH106, PTH108 - a dozen of these for each run, and each Path takes 3 us

from __future__ import annotations

import os
import shutil
from pathlib import Path

WORK = "work"

MOST_FILES, MOST_BYTES = 32, 10_000_000
"""What a small folder holds."""


def spool_root(home: Path, agent: str) -> Path:
    """Where the attempts of ``agent`` live."""
    return home / "spool" / agent


def spool_name(run_id: str, claim: int) -> str:
    """The name of the folder of one claim."""
    return f"{run_id}-{claim}"


def make_spool(root: Path, run_id: str, claim: int) -> Path:
    """A new folder for one claim of a run, with ``work`` in it; what an earlier life left is replaced.

    Raises OSError: no room or no permission.
    """
    folder = f"{root}/{spool_name(run_id, claim)}"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        remove(Path(folder))
        os.mkdir(folder, 0o700)
    except FileNotFoundError:
        os.makedirs(folder, 0o700)
    os.mkdir(f"{folder}/{WORK}", 0o700)
    return Path(folder)


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


def remove_if_small(folder: Path) -> bool:
    """Whether nothing is left of the folder: it held but a few small files, whose removal takes 0.1 ms.

    In a thread it takes 0.25 ms beside the one that writes the queue; what is not small is for ``remove`` in a thread.
    """
    try:
        with os.scandir(folder) as found:
            files = [each for each in found if each.name != WORK]
        if len(files) > MOST_FILES or sum(each.stat(follow_symlinks=False).st_size for each in files) > MOST_BYTES:
            return False
        for each in files:
            os.unlink(each.path)
        os.rmdir(f"{folder}/{WORK}")
        os.rmdir(folder)
    except FileNotFoundError:
        return not folder.exists()
    except OSError:  # a folder, full or not ours
        return False
    return True
