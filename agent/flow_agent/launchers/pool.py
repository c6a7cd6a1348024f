"""The parked attempts of one environment, and the zygote they come from."""

from __future__ import annotations

import anyio

from flow_agent.launchers.environments import Environment, can_fork
from flow_agent.launchers.parked import Parked
from flow_agent.launchers.warm import Zygote


class Pool:
    """What waits in one environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.waiting: list[Parked] = []
        self.zygote: Zygote | None = None
        self.cold = not can_fork()
        """Whether there can be no zygote."""
        self.checked = environment.interpreter is None
        """Whether the interpreter is known to be able to run attempts."""
        self.used = anyio.current_time()
        self.starting = anyio.Lock()

    def ready(self) -> Parked | None:
        """One that waits; it is taken out. Those that died are, too."""
        for parked in list(self.waiting):
            if parked.look():
                self.waiting.remove(parked)
                return parked
            if parked.gone:
                self.waiting.remove(parked)
        return self.waiting.pop(0) if self.waiting else None
