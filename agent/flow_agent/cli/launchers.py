"""Which launchers an agent starts with: of those that the settings name, the ones that can be served here."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Any

from flow_agent import events, plugins
from flow_agent.engine.client import Address, may_be_there
from flow_agent.errors import FlowAgentError, InvalidInput
from flow_agent.ports import Launcher
from flow_agent.prepare import attempt_variables
from flow_agent.settings import Settings


async def opened(settings: Settings, agent: str, stack: AsyncExitStack) -> dict[str, Launcher]:
    """The launchers of the agent called ``agent`` by name, the default one first; ``stack`` closes them.

    Raises InvalidInput: nothing is called so. FlowAgentError: none of them can be served; it says why the first cannot.
    """
    asked_for = "launchers" in settings.agent.model_fields_set
    found: dict[str, Launcher] = {}
    first: FlowAgentError | None = None
    for name in dict.fromkeys(settings.agent.launchers):
        if not asked_for and name == "docker" and not may_be_there(_engine(settings)):
            continue
        try:
            opener = plugins.load("launchers", name)
            found[name] = await stack.enter_async_context(opener(settings.home, agent, _options(settings, name)))
        except InvalidInput:
            raise
        except FlowAgentError as error:
            first = first or error
            events.launcher_left_out(name, error, error.hint, asked_for=asked_for)
    if not found and first is not None:
        raise first
    return found


def _options(settings: Settings, launcher: str) -> dict[str, Any]:
    if launcher == "process":
        return settings.process.model_dump() | {"env": attempt_variables(settings.agent.env, os.environ)}
    if launcher == "docker":
        return settings.docker.model_dump()
    if launcher == "kubernetes":
        patience = {"fetch_for": settings.fetch.release_for, "write_for": settings.result.seconds}
        return settings.kubernetes.model_dump() | patience
    if launcher == "ecs":
        patience = {"fetch_for": settings.fetch.release_for, "write_for": settings.result.seconds}
        return settings.ecs.model_dump() | patience
    return {}


def _engine(settings: Settings) -> Address:
    return Address(url=settings.docker.url, certificates=settings.docker.certificates)
