"""The verb that removes what is not needed any more."""

from __future__ import annotations

from dataclasses import asdict

import click

from flow_agent import operations
from flow_agent.cli.listings import as_json_option
from flow_agent.cli.options import queue_verb
from flow_agent.cli.output import document, note
from flow_agent.errors import InvalidInput, QueueError
from flow_agent.model import Pruned, Pruning, State
from flow_agent.ports import Queue

_ENDED = [state.value for state in State if state.terminal]


@click.command()
@click.option("--older-than", metavar="SPAN", help="Only runs that ended so long ago: 90s, 30m, 12h, 30d, 8w.")
@click.option("--keep-last", type=click.IntRange(0), metavar="N", help="All but the newest N runs of each flow.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_ENDED), help="Only runs in this state; may be repeated."
)
@click.option("--flow", metavar="FLOW", help="Only runs of this flow.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@as_json_option
@queue_verb
async def prune(
    queue: Queue,
    *,
    older_than: str | None,
    keep_last: int | None,
    states: tuple[str, ...],
    flow: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove ended runs, with their logs, from the queue; also registrations that nothing uses, and dead agents.

    Runs that have not ended stay, and so does a run as long as a retry of it does. What flows have stored stays:
    payloads and results.

    \b
    Example: flow-agent prune --older-than 30d --keep-last 100
    """
    if older_than is None and keep_last is None:
        raise InvalidInput(
            "nothing says which runs may go",
            hint="give --older-than or --keep-last or both, as `flow-agent prune --older-than 30d --keep-last 100`",
        )
    if flow is not None:
        await queue.registration(flow)  # a misspelt one has no runs
    rule = Pruning(
        older_than=operations.parse_age(older_than) if older_than is not None else 0.0,
        keep_last=keep_last or 0,
        states=frozenset(map(State, states or _ENDED)),
        flow=flow,
    )
    total = Pruned()

    def told(so_far: Pruned) -> None:
        nonlocal total
        total = so_far

    try:
        await operations.prune(queue, rule, dry_run=dry_run, told=told)
    except QueueError:
        if not dry_run:
            note(f"{_sentence(total, dry_run)}, then it failed")
        raise
    if as_json:
        document({name: count for name, count in asdict(total).items() if name != "next"} | {"dry_run": dry_run})
    else:
        note(_sentence(total, dry_run))


def _sentence(total: Pruned, dry_run: bool) -> str:
    what = [
        f"{count} {one if count == 1 else many}"
        for count, one, many in (
            (total.runs, "run", "runs"),
            (total.lines, "line of their logs", "lines of their logs"),
            (total.registrations, "registration", "registrations"),
            (total.agents, "agent", "agents"),
        )
    ]
    return f"{'would remove' if dry_run else 'removed'} {', '.join(what)}"
