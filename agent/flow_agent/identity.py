"""Who an agent is: a name in a home, held by one live process at a time, and an id that outlives it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from flow_agent.errors import AgentRunning, InvalidInput
from flow_agent.home import make_private

LONGEST = 100
"""Characters of an agent's name: it becomes the name of a folder."""


def checked_name(name: str) -> str:
    """``name``, if it can name an agent.

    Raises InvalidInput: it is empty, too long, or could not name a folder.
    """
    if not name or len(name) > LONGEST or name.startswith(".") or "/" in name or not name.isprintable():
        raise InvalidInput(
            f"agent name {name!r} is not a name: expected 1 to {LONGEST} printable characters, no slash, no leading dot"
        )
    return name


@contextlib.contextmanager
def held(home: Path, name: str) -> Iterator[str]:
    """Hold ``name`` in ``home`` while the block runs; gives the agent's lasting id.

    Raises AgentRunning: a live agent holds it. OSError: the home cannot be written.
    """
    folder = home / "agents"
    make_private(folder)
    descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 64).decode(errors="replace").partition(" ")[0]
            raise AgentRunning(
                f"an agent named {name!r} already works in {home}" + (f" (pid {holder})" if holder else ""),
                hint="give this one another name with --name, or stop the other one",
            ) from None
        yield _written(descriptor)
    finally:
        os.close(descriptor)


def _written(descriptor: int) -> str:
    """Keep the id that stands in the file, or write a new one; the pid before it is for people."""
    known = os.read(descriptor, 256).decode(errors="replace").split()
    lasting = known[1] if len(known) == 2 else uuid.uuid4().hex
    text = f"{os.getpid()} {lasting}\n".encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    return lasting


def lasting_id(home: Path, name: str) -> str:
    """The lasting id of the agent ``name`` of ``home``; its place, where it never had one."""
    try:
        known = (home / "agents" / f"{name}.lock").read_text(errors="replace").split()
    except OSError:
        known = []
    return known[1] if len(known) == 2 else f"{home}/{name}"
