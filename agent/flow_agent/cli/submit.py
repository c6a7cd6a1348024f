"""``flow-agent submit``."""

from __future__ import annotations

import sys

import click

from flow_agent import operations
from flow_agent.cli.options import settings_verb
from flow_agent.cli.output import document, ended, line, note
from flow_agent.cli.parameters import parameters_option
from flow_agent.cli.waiting import wait_for
from flow_agent.model import Json, State
from flow_agent.ports import Queue
from flow_agent.settings import Settings

PRIORITIES = click.IntRange(-(2**31), 2**31 - 1)
"""What every queue can keep."""


@click.command()
@click.argument("flow")
@parameters_option
@click.option("-l", "--label", "labels", multiple=True, metavar="LABEL", help="Label added to those of the flow.")
@click.option("--at", metavar="TIME", help="When it is due: ISO 8601, or +30s, +5m, +2h, +1d.  [default now]")
@click.option("--priority", type=PRIORITIES, default=0, metavar="N", help="Higher comes first.  [default 0]")
@click.option("--key", metavar="KEY", help="Idempotency key: a second submit with it gives the first one's run.")
@click.option("--count", type=int, metavar="N", help="Submit N equal runs at once; --json then prints a list.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 0 if every run succeeded, else 1.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON, with --wait as it ended.")
@settings_verb
async def submit(
    queue: Queue,
    settings: Settings,
    *,
    flow: str,
    parameters: dict[str, Json],
    labels: tuple[str, ...],
    at: str | None,
    priority: int,
    key: str | None,
    count: int | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Ask for a run of FLOW, and print its id.

    \b
    Example: flow-agent submit report -p day=2030-01-31 -p dry=true --wait
    """
    runs, warning = await operations.submit_runs(
        queue,
        flow,
        parameters,
        labels=labels,
        priority=priority,
        at=operations.parse_time(at) if at is not None else None,
        key=key,
        count=1 if count is None else count,
    )
    if warning:
        note(f"warning: {warning}")
    if not as_json:
        for run in runs:
            line(run.id)
        sys.stdout.flush()  # in a pipe too, the ids come before what is said while waiting
    if wait:
        runs = await wait_for(queue, settings, runs)
        for run in runs:
            note(ended(run))
    if as_json:
        shown = [operations.run_json(run) for run in runs]
        document(shown[0] if count is None else shown)
    return int(wait and any(run.state is not State.SUCCEEDED for run in runs))
