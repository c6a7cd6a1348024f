"""The verbs for concurrency limits."""

from __future__ import annotations

import click

from flow_agent.cli.listings import as_json_option
from flow_agent.cli.options import queue_verb
from flow_agent.cli.output import document, note, table
from flow_agent.errors import InvalidInput
from flow_agent.model import Full, Limit
from flow_agent.ports import Queue

_flow = click.option("--flow", "of_flow", is_flag=True, help="NAME is that of a flow, not a label.")


@click.group()
def limits() -> None:
    """How many runs of a flow, or with a label, may run at a time, on all agents together.

    \b
    Example: flow-agent limits set gpu 2
    """


@limits.command("set")
@click.argument("name")
@click.argument("slots", type=click.IntRange(0, 1_000_000))
@_flow
@click.option(
    "--when-full",
    type=click.Choice([each.value for each in Full]),
    default=Full.QUEUE.value,
    help="What becomes of a run that is submitted while as many wait or run as there are slots: it waits (queue), is"
    " cancelled (skip), or the oldest of the others is (replace).  [default queue]",
)
@queue_verb
async def set_(queue: Queue, name: str, slots: int, of_flow: bool, when_full: str) -> None:
    """Let at most SLOTS runs with the label NAME run at a time; 0 lets none begin.

    What runs already goes on.
    """
    if not name.strip():
        raise InvalidInput("a limit needs the name of a label or of a flow")
    limit = Limit(kind="flow" if of_flow else "label", name=name, slots=slots, when_full=Full(when_full))
    if of_flow:
        await queue.registration(name)  # a misspelt one would limit nothing
    await queue.set_limit(limit)
    note(f"{limit.kind} {name!r} is limited to {slots} at a time")


@limits.command("list")
@as_json_option
@queue_verb
async def list_(queue: Queue, as_json: bool) -> None:
    """List the limits, with how many slots are taken now."""
    found = await queue.limits()
    if as_json:
        document(
            [
                {
                    "kind": each.kind,
                    "name": each.name,
                    "slots": each.slots,
                    "taken": each.taken,
                    "when_full": each.when_full.value,
                }
                for each in found
            ]
        )
        return
    table(
        ("kind", "name", "taken", "when full"),
        [(each.kind, each.name, f"{each.taken}/{each.slots}", each.when_full.value) for each in found],
    )


@limits.command("remove")
@click.argument("name")
@_flow
@queue_verb
async def remove(queue: Queue, name: str, of_flow: bool) -> None:
    """Forget the limit of the label NAME."""
    kind = "flow" if of_flow else "label"
    await queue.remove_limit(kind, name)
    note(f"{kind} {name!r} has no limit any more")
