"""What an agent knows of one attempt in a task of ECS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from flow_agent.errors import LaunchError
from flow_agent.launchers.ecs_task import CONTAINER


@dataclass
class Held:
    """One attempt. ``request`` is what starts it, None where another agent has done so; ``task`` what ECS said last;
    ``parked`` the ARN of where the request was found."""

    ref: str
    request: Mapping[str, Any] | None = None
    nonce: str = ""
    container: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] | None = None
    went: bool = False
    stopped: bool = False
    settled: bool = False
    forgotten: bool = False
    parked: str = ""
    failure: LaunchError | None = None
    missing_since: float | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def cluster(self) -> str:
        """That of its task."""
        return self.ref.partition("/")[0]

    @property
    def token(self) -> str:
        """By which its task is found."""
        return self.ref.split("/")[1]

    @property
    def name(self) -> str:
        """That of the container which runs the flow."""
        return str(self.container.get("name") or CONTAINER)

    def tell(self) -> None:
        """Something is new: wake who waits for it."""
        changed, self.changed = self.changed, anyio.Event()
        changed.set()
