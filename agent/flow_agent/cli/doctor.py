"""The verb that looks whether everything can be used."""

from __future__ import annotations

import dataclasses

import click

from flow_agent import operations
from flow_agent.cli.listings import as_json_option
from flow_agent.cli.options import settings_verb
from flow_agent.cli.output import document, line
from flow_agent.ports import Queue
from flow_agent.resolver import opened
from flow_agent.settings import Settings


@click.command()
@as_json_option
@settings_verb
async def doctor(queue: Queue, settings: Settings, as_json: bool) -> int:
    """Check home, queue, providers of secrets, and each storage and result of the registered flows.

    Says for each whose credentials are used, never their values. Exit code 1 if something failed.

    \b
    Example: flow-agent doctor
    """
    async with opened(**settings.secrets_arguments()) as resolver:
        checks = await operations.examine(queue, resolver, settings.home, operations.shown_url(settings.queue))
    if as_json:
        document([dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            uses = f"; credentials: {check.uses}" if check.uses else ""
            line(f"{check.state:<8}{check.name}: {check.detail}{uses}")
            if check.hint:
                line(f"        hint: {check.hint}")
    return 1 if any(check.state == "failed" for check in checks) else 0
