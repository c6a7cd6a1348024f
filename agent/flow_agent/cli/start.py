"""``flow-agent start``."""

from __future__ import annotations

import os
import sys

import anyio
import click

from flow_agent import events, operations
from flow_agent.cli.assemble import assembled
from flow_agent.cli.options import options
from flow_agent.init import become_init
from flow_agent.launchers.linux import hide_memory
from flow_agent.model import AgentInfo
from flow_agent.notify import ServiceManager
from flow_agent.operations.awaiting import awaited_queue
from flow_agent.settings import Settings

SWITCH = 0.0005
"""Seconds after which a thread lets another one go on; the 5 ms of Python are longer than an attempt takes to start."""
LAST_LINES = 2.0
"""Seconds that the end of the log may wait for a slow reader."""

_EPILOG = """\b
Exit codes: 0 stopped after draining; 1 attempts were ended by a second signal, or an error;
            2 what was typed or configured does not fit."""


@click.command(epilog=_EPILOG)
@click.option("--until-empty", is_flag=True, help="End when nothing is left that this agent may run.")
@options()
def start(settings: Settings, until_empty: bool) -> int:
    """Claim runs whose labels this agent has, and execute them until stopped.

    The first SIGTERM or Ctrl-C claims nothing more and waits for what runs; the second ends it, after --grace.
    Attempts that outlive a crash are found again by the next agent of this name.

    \b
    Example: flow-agent start -l gpu -l eu --limit 8
    """
    become_init()
    events.configure(style=settings.log.format, level=settings.log.level)
    hide_memory()  # it holds the secrets of every run
    sys.setswitchinterval(SWITCH)
    try:
        return anyio.run(_start, settings, until_empty)
    finally:
        events.flush(LAST_LINES)


async def _start(settings: Settings, until_empty: bool) -> int:
    manager = ServiceManager.taken_from(os.environ)

    def ready(info: AgentInfo) -> None:
        events.agent_started(info, operations.shown_url(settings.queue))
        manager.ready()

    # What ends by itself has somebody who waits for it, and should be told.
    opening = operations.open_queue if until_empty else awaited_queue
    async with (
        opening(settings.queue, **settings.queue_arguments()) as queue,
        assembled(settings, queue, until_empty=until_empty, probes=settings.probes.listen) as (agent, info),
        manager.told(agent.health),
    ):
        return 0 if await agent.serve(ready=lambda: ready(info)) else 1
