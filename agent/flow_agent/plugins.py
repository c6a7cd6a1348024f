"""Finds adapters by name: entry points are the only registry, ours included. Nothing is imported before it is used."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from flow_agent.errors import FlowAgentError, InvalidInput

GROUPS = {
    "queues": "queue",
    "storages": "storage",
    "results": "result",
    "launchers": "launcher",
    "secret_providers": "secret provider",
}
"""Each group of entry points (behind ``flow_agent.``) and what one of it is called."""


def names(group: str) -> list[str]:
    """The installed names of a group, sorted."""
    return sorted({point.name for point in entry_points(group=f"flow_agent.{group}")})


@functools.cache  # a scan of the installed packages takes some 10 ms, and each run asks for its storage
def load(group: str, name: str) -> Any:
    """What the entry point ``name`` of ``group`` names.

    Raises InvalidInput: nothing has that name (the message lists what is there), or two packages claim it: one of
    them could have taken it over in silence. FlowAgentError: it is there but cannot be imported.
    """
    found = list(entry_points(group=f"flow_agent.{group}", name=name))
    what = GROUPS[group]
    if not found:
        raise InvalidInput(f"no {what} is called {name!r}; installed: {', '.join(names(group)) or 'none'}")
    if len({point.value for point in found}) > 1:
        owners = " and ".join(sorted(f"{_owner(point)} ({point.value})" for point in found))
        raise InvalidInput(f"{what} {name!r} is claimed by {owners}", hint="uninstall one of them")
    try:
        return found[0].load()
    except ImportError as error:
        raise FlowAgentError(
            f"{what} {name!r} of {_owner(found[0])} cannot be imported: {error}", hint="install what it needs"
        ) from error


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"
