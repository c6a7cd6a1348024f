"""Where local files live. Standard library only: a flow file imports it too."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``FLOW_AGENT_HOME``, else ``~/.flow-agent``, absolute; not created."""
    return Path(os.environ.get("FLOW_AGENT_HOME") or "~/.flow-agent").expanduser().absolute()


def make_private(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, for this user only."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in ``folder`` on the disk: a rename is safe only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
