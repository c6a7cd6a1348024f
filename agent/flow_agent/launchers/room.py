"""Makes room on a disk that is as good as full. Standard library only."""

from __future__ import annotations

import os

LITTLE_ROOM = 16_000_000
"""Bytes on the disk; the queue needs some of them, and other attempts."""


def make_room(folder: str) -> None:
    """Where the disk is as good as full, delete what an ended attempt had to work with: nobody needs it any more.

    It may be just what fills the disk, so that its end could not be told for want of room.
    """
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize > LITTLE_ROOM:
        return
    import shutil

    with os.scandir(folder) as found:
        for each in found:
            if each.is_dir(follow_symlinks=False):  # all that tells of the attempt are files
                shutil.rmtree(each.path, ignore_errors=True)
