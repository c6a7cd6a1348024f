"""A small disk of its own, to be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Cli, unless_all_is_required


@pytest.fixture
def disk(cli: Cli) -> Iterator[Path]:
    """A disk of 6 MB of its own, which holds the home."""
    place = cli.folder / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=6m,nr_inodes=200", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not done or done.returncode:
        unless_all_is_required("only root may mount a small disk")
    cli.home = place / "home"
    cli.env["FLOW_AGENT_HOME"] = str(cli.home)
    yield place
    cli.close()
    umount = [shutil.which("umount") or "umount", str(place)]
    end = time.monotonic() + 10  # what waited for the agent that was killed just now is on its way out
    while subprocess.run(umount, check=False, capture_output=True).returncode and time.monotonic() < end:
        time.sleep(0.05)
    assert not place.is_mount(), "something still works on that disk"


def fill(disk: Path) -> Path:
    """A file that leaves no room on ``disk``."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        while os.statvfs(disk).f_bavail:
            file.write(bytes(os.statvfs(disk).f_bsize))
    return path
