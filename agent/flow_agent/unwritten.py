"""Results that could not be written to their store, kept on this machine until somebody recovers them."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from flow_agent.home import make_private, sync_folder


def keep(folder: Path, run_id: str, source: Path) -> Path:
    """Keep the file ``source`` of a run below ``folder``; gives where it lies now. ``source`` stays as well.

    It has a second name from one moment to the next, so that no kill loses it; on another disk it is copied.

    Raises OSError: it cannot be kept.
    """
    make_private(folder)
    target, part = folder / run_id, folder / f".{run_id}.part"
    part.unlink(missing_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        part.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    part.chmod(0o600)
    part.replace(target)
    sync_folder(folder)
    return target


def forget(path: Path) -> None:
    """Remove what was kept; it is in its store now."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
