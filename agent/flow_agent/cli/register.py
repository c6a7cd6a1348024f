"""``flow-agent register``."""

from __future__ import annotations

import signal

import anyio
import click
from anyio.abc import TaskStatus

from flow_agent import operations
from flow_agent.cli.options import queue_verb
from flow_agent.cli.output import document, line, note
from flow_agent.launchers.linux import hide_memory
from flow_agent.model import Registration
from flow_agent.ports import Queue
from flow_agent.storages import author


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="FILE_OR_MODULE_OR_URL[:FLOW]...")
@click.option("-l", "--label", "labels", multiple=True, metavar="LABEL", help="Label added to those of each flow.")
@click.option("--json", "as_json", is_flag=True, help="Print the registrations as JSON.")
@queue_verb
async def register(queue: Queue, targets: tuple[str, ...], labels: tuple[str, ...], as_json: bool) -> int | None:
    """Store the flows of files or modules, and make them known to the queue: all of them, or none.

    Each file runs in a process of its own, to find its flows. Prints the name and version of each flow.

    What lies somewhere already is registered where it is, and nothing is uploaded: s3://BUCKET/KEY, gs://BUCKET/KEY,
    az://CONTAINER/BLOB, https://github.com/OWNER/NAME/blob/REF/PATH, or a pickle in a file.

    \b
    Example: flow-agent register flows.py reports/nightly.py:report -l eu
    Example: flow-agent register s3://flows/etl/2021-05-01t10-00-00
    """
    hide_memory()  # what is loaded, perhaps somebody else's pickle, runs as this user
    stored: list[Registration] = []
    ended: list[int] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(_end_on_a_signal, tasks.cancel_scope, ended)
        stored += await operations.register(queue, targets, labels=labels, on_output=note, secrets_of=author.secrets)
        tasks.cancel_scope.cancel()
    if ended and not stored:
        return 128 + ended[0]
    if as_json:
        document([operations.registration_json(registration) for registration in stored])
        return None
    for registration in stored:
        line(f"{registration.flow}\t{registration.version}")
    return None


async def _end_on_a_signal(
    scope: anyio.CancelScope, ended: list[int], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """The first one cancels ``scope`` and stands in ``ended`` then."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for number in received:
            ended.append(number)
            note("flow-agent: interrupted; what was stored, and is not registered, is being removed")
            scope.cancel()
            return
