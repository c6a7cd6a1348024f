"""Ends what is left of an attempt whose keeper is gone, or does not do its work."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from flow_agent.launchers import linux
from flow_agent.launchers.attempt import MARK
from flow_agent.launchers.keep import KEEPER
from flow_agent.launchers.room import make_room
from flow_agent.launchers.spool import read_json

KILLS = 100
"""Rounds of killing what is left of a lost attempt; what outlives them belongs to another user."""


def kill(folder: Path) -> None:
    """Kill a keeper and all of its attempt, by what they said of themselves, until none is left.

    Then it makes room, if the disk is full, as the keeper would have.
    """
    who = read_json(folder / KEEPER) or {}
    keeper = who.get("pid")
    if keeper is not None and linux.start_time(keeper) == who["start"]:
        # Its descendants first: without it they are harder to find.
        for pid in [*linux.descendants(keeper), keeper]:
            _end(pid)
    leader = who.get("child", -1)
    if linux.start_time(leader) not in {None, who.get("child_start")}:
        leader = -1  # that number names another process by now, and its session is none of ours
    mark = f"{MARK}={who['mark']}" if "mark" in who else None
    for _ in range(KILLS):
        family = linux.family(leader, mark)
        if not family:
            break
        for pid in family:
            _end(pid)
        time.sleep(0.01)
    with contextlib.suppress(FileNotFoundError):
        make_room(str(folder))


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
