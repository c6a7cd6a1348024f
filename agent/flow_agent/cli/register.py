"""``flow-agent register``."""

from __future__ import annotations

import click

from flow_agent import operations
from flow_agent.cli.options import queue_verb
from flow_agent.cli.output import document, line, note
from flow_agent.launchers.linux import hide_memory
from flow_agent.ports import Queue
from flow_agent.storages import author


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="FILE_OR_MODULE_OR_URL[:FLOW]...")
@click.option("-l", "--label", "labels", multiple=True, metavar="LABEL", help="Label added to those of each flow.")
@click.option("--json", "as_json", is_flag=True, help="Print the registrations as JSON.")
@queue_verb
async def register(queue: Queue, targets: tuple[str, ...], labels: tuple[str, ...], as_json: bool) -> None:
    """Store the flows of files or modules, and make them known to the queue: all of them, or none.

    Each file runs in a process of its own, to find its flows. Prints the name and version of each flow.

    What lies somewhere already is registered where it is, and nothing is uploaded: s3://BUCKET/KEY, gs://BUCKET/KEY,
    az://CONTAINER/BLOB, https://github.com/OWNER/NAME/blob/REF/PATH, or a pickle in a file.

    \b
    Example: flow-agent register flows.py reports/nightly.py:report -l eu
    Example: flow-agent register s3://flows/etl/2021-05-01t10-00-00
    """
    hide_memory()  # what is loaded, perhaps somebody else's pickle, runs as this user
    stored = await operations.register(queue, targets, labels=labels, on_output=note, secrets_of=author.secrets)
    if as_json:
        document([operations.registration_json(registration) for registration in stored])
        return
    for registration in stored:
        line(f"{registration.flow}\t{registration.version}")
