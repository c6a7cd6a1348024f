"""The verbs that list what the queue knows beside runs, and the one that migrates it."""

from __future__ import annotations

import click

from flow_agent import operations
from flow_agent.cli.options import queue_verb, settings_verb
from flow_agent.cli.output import document, note, table
from flow_agent.ports import Queue
from flow_agent.settings import Settings
from flow_agent.why import span, stamp

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@as_json_option
@queue_verb
async def flows(queue: Queue, as_json: bool) -> None:
    """List the newest version of each registered flow."""
    found = await queue.registrations()
    if as_json:
        document([operations.registration_json(registration) for registration in found])
        return
    table(
        ("flow", "version", "storage", "labels", "registered"),
        less=("storage",),
        rows=[
            (f.flow, str(f.version), str(f.storage.get("type", "")), ",".join(f.labels), stamp(f.created_at))
            for f in found
        ],
    )


@click.command()
@as_json_option
@settings_verb
async def agents(queue: Queue, settings: Settings, as_json: bool) -> None:
    """List agents, those too that gave no sign of life for up to a day."""
    alive_within = 3 * settings.lease.heartbeat
    found = await queue.agents()
    if as_json:
        document([operations.agent_json(agent, alive_within=alive_within) for agent in found])
        return
    rows = []
    for agent in found:
        state = "gone" if agent.silent > alive_within else "draining" if agent.draining else "alive"
        slots, labels = f"{agent.running}/{agent.limit}", ",".join(sorted(agent.labels))
        launchers, seen = ",".join(sorted(agent.launchers)), f"{span(agent.silent)} ago"
        rows.append((agent.name, state, slots, labels, launchers, agent.host, agent.version, seen))
    head = ("agent", "state", "running", "labels", "launchers", "host", "version", "seen")
    table(head, rows, less=("version", "launchers", "host"))


@click.command()
@settings_verb
async def migrate(queue: Queue, settings: Settings) -> None:
    """Bring the queue to the version of this program; does nothing if it is there already.

    Every verb does this when it opens a queue on SQLite; this one does only this.
    """
    await queue.registrations()
    note(f"{operations.shown_url(settings.queue)} is up to date")
