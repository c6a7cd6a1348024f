"""Puts an agent together from the settings and an open queue."""

from __future__ import annotations

import errno
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from flow_agent import events, plugins
from flow_agent.agent import Agent
from flow_agent.backlog import Backlog
from flow_agent.cache import Cache
from flow_agent.cli.launchers import opened as opened_launchers
from flow_agent.errors import FlowAgentError
from flow_agent.execute import Tools
from flow_agent.health import Health
from flow_agent.hold import Pace
from flow_agent.identity import checked_name, held
from flow_agent.model import AgentInfo, Registration
from flow_agent.objects.pool import clients
from flow_agent.ports import Launcher, Leases, Queue, Storage
from flow_agent.prepare import Means
from flow_agent.probes import Probes, served
from flow_agent.resolver import Resolver, opened
from flow_agent.retry import Policy
from flow_agent.settings import Settings
from flow_agent.version import __version__
from flow_agent.workspace import spool_root

_STORAGES = 1_024
"""Registrations whose storages are kept made."""


@asynccontextmanager
async def assembled(
    settings: Settings,
    queue: Queue,
    *,
    name: str | None = None,
    until_empty: bool = False,
    probes: str | None = None,
) -> AsyncIterator[tuple[Agent, AgentInfo]]:
    """An agent that works on ``queue`` and has not begun to, with what it says of itself.

    It holds its name (``name``, else the settings') in the home while the block runs, and answers probes at the address
    ``probes``, if there is one.

    Raises AgentRunning: another one holds it. InvalidInput: the name or a launcher's cannot be. FlowAgentError: the
    home cannot be written, or no launcher can be served.
    """
    name = checked_name(name or settings.agent.name)
    async with AsyncExitStack() as stack:
        try:
            lasting = stack.enter_context(held(settings.home, name))
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise FlowAgentError(
                f"the home {settings.home} cannot be used: {error.strerror or error}",
                hint="free some space on its disk"
                if full
                else "set FLOW_AGENT_HOME to a folder that you may write, or give --home",
            ) from error
        await stack.enter_async_context(clients())
        resolver = await stack.enter_async_context(opened(**settings.secrets_arguments()))
        launchers = await opened_launchers(settings, name, stack)
        info = replace(_info(settings, launchers), id=lasting, name=name)
        pace = Pace(poll=settings.agent.poll, heartbeat=settings.lease.heartbeat, last_words=settings.report.seconds)
        health, tools = Health(), _tools(settings, queue, launchers, name, resolver)
        if probes:
            asked = Probes(health, Backlog(queue), info, tools.means.cache)
            tools = replace(tools, ended=asked.ended)
            events.probes_listen(await stack.enter_async_context(served(probes, asked)))
        yield Agent(info, tools, pace, until_empty=until_empty, health=health), info


def _info(settings: Settings, launchers: dict[str, Launcher]) -> AgentInfo:
    host = socket.gethostname()
    return AgentInfo(
        id="",
        name="",
        incarnation=uuid.uuid4().hex,
        labels=frozenset(settings.agent.labels) | ({host} if settings.agent.hostname_label else set()),
        launchers={name: launcher.scope for name, launcher in launchers.items()},
        default_launcher=next(iter(launchers)),
        only_labelled=settings.agent.only_labelled,
        limit=settings.agent.limit,
        host=host,
        pid=os.getpid(),
        version=__version__,
        started_at=time.time(),
    )


def _tools(settings: Settings, queue: Queue, launchers: dict[str, Launcher], name: str, resolver: Resolver) -> Tools:
    means = Means(
        storage=_Storages(),
        secrets=resolver,
        cache=Cache(settings.home / "cache", settings.cache.limit),
        write_for=settings.result.seconds,
        unwritten=settings.home / "unwritten",
        fetch=Policy(tries=settings.fetch.tries, seconds=settings.fetch.seconds),
        env=settings.agent.env,
        grace=settings.stop.grace,
        output_limit=settings.output.limit,
    )
    return Tools(
        queue=queue,
        launchers=launchers,
        means=means,
        spool=spool_root(settings.home, name),
        leases=Leases(claimed=settings.lease.claimed, running=settings.lease.running),
        release_for=settings.fetch.release_for,
    )


class _Storages:
    """The storage of a registration, which never changes; making one anew takes longer than copying a small flow."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], Storage] = {}

    def __call__(self, registration: Registration) -> Storage:
        key = registration.flow, registration.version
        if (made := self._made.get(key)) is None:
            made = plugins.load("storages", registration.storage["type"]).from_description(registration.storage)
            if len(self._made) >= _STORAGES:
                self._made.clear()
            self._made[key] = made
        return made
