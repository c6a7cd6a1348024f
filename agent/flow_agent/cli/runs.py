"""The verbs that look at runs, and those that end or repeat one."""

from __future__ import annotations

import sys
import time
from contextlib import aclosing

import click

from flow_agent import operations
from flow_agent.cli.options import queue_verb, settings_verb
from flow_agent.cli.output import document, ended, facts, line, log_line, note, status, table, terminal
from flow_agent.cli.waiting import explained, wait_for
from flow_agent.model import Attempt, Registration, Run, State
from flow_agent.ports import Queue
from flow_agent.resolver import opened
from flow_agent.settings import Settings
from flow_agent.why import span, stamp

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
run_argument = click.argument("run_id", metavar="RUN")


@click.command()
@click.option(
    "--state", "states", multiple=True, type=click.Choice([str(s) for s in State]), help="Only runs in this state."
)
@click.option("--flow", metavar="FLOW", help="Only runs of this flow.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, metavar="N", help="At most N runs.  [default 50]")
@as_json_option
@queue_verb
async def runs(queue: Queue, *, states: tuple[str, ...], flow: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first.

    \b
    Example: flow-agent runs --state failed --flow report
    """
    found = await queue.runs(states=tuple(State(state) for state in states), flow=flow, limit=limit)
    if flow is not None and not found:
        await queue.registration(flow)  # an unknown flow is said to be one
    if as_json:
        document([operations.run_json(run) for run in found])
        return
    table(
        ("id", "flow", "state", "reason", "created", "took", "agent"),
        less=("agent", "took", "reason"),
        rows=[
            (run.id, run.flow, run.state.value, run.reason or "", stamp(run.created_at), _took(run), run.agent or "")
            for run in found
        ],
    )


def _took(run: Run) -> str:
    if run.started_at is None:
        return ""
    return span((run.finished_at if run.finished_at is not None else time.time()) - run.started_at)


@click.command()
@run_argument
@as_json_option
@queue_verb
async def show(queue: Queue, run_id: str, as_json: bool) -> None:
    """Everything known of RUN: its flow, its attempts, how it ended. RUN may be the beginning of an id.

    \b
    Example: flow-agent show 01jq
    """
    run = await queue.get(run_id)
    registration = await queue.registration(run.flow, run.version)
    attempts = await queue.attempts(run.id)
    if as_json:
        document(
            {
                **operations.run_json(run),
                "attempts": [operations.attempt_json(attempt) for attempt in attempts],
                "registration": operations.registration_json(registration),
            }
        )
        return
    facts(_run_facts(run) + _registration_facts(registration))
    for attempt in attempts:
        line(_attempt_line(attempt))


def _run_facts(run: Run) -> list[tuple[str, str]]:
    return [
        ("run", run.id),
        ("flow", f"{run.flow}, version {run.version}"),
        ("state", run.state + (f", {run.reason}" if run.reason else "")),
        ("detail", run.detail),
        ("parameters", ", ".join(f"{name}={value!r}" for name, value in run.parameters.items())),
        ("labels", ", ".join(sorted(run.labels))),
        ("priority", str(run.priority) if run.priority else ""),
        ("retry of", run.retry_of or ""),
        *((name, stamp(when)) for name, when in _times(run) if when is not None),
        ("agent", run.agent or ""),
        ("launcher", run.launcher or ""),
        ("ref", run.ref or ""),
        ("revision", run.revision or ""),
        ("exit code", "" if run.exit_code is None else str(run.exit_code)),
    ]


def _times(run: Run) -> list[tuple[str, float | None]]:
    due = run.due_at if run.due_at != run.created_at else None
    return [
        ("created", run.created_at),
        ("due", due),
        ("claimed", run.claimed_at),
        ("started", run.started_at),
        ("finished", run.finished_at),
    ]


def _registration_facts(registration: Registration) -> list[tuple[str, str]]:
    storage = dict(registration.storage)
    kind = str(storage.pop("type", ""))
    options = ", ".join(f"{name}={value}" for name, value in storage.items() if value not in (None, False, "", [], {}))
    return [
        ("storage", f"{kind} ({options})" if options else kind),
        ("payload", registration.kind + (f", {registration.size} bytes" if registration.size is not None else "")),
        ("digest", registration.digest or ""),
        ("python", registration.python or ""),
        ("retries", str(registration.retries) if registration.retries else ""),
        ("timeout", f"{registration.timeout:g} s" if registration.timeout else ""),
        ("registered", stamp(registration.created_at)),
    ]


def _attempt_line(attempt: Attempt) -> str:
    took = f", {span(attempt.finished_at - attempt.started_at)}" if attempt.finished_at is not None else ""
    how = f", {attempt.reason}" if attempt.reason else ", goes on"
    code = f", exit code {attempt.exit_code}" if attempt.exit_code is not None else ""
    detail = f": {attempt.detail}" if attempt.detail else ""
    return f"attempt {attempt.number} on {attempt.agent} at {stamp(attempt.started_at)}{took}{how}{code}{detail}"


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@queue_verb
async def logs(queue: Queue, run_id: str, follow: bool) -> None:
    """Print what RUN wrote: plain output as it is, log records with time and level.

    \b
    Example: flow-agent logs -f 01jq
    """
    run = await queue.get(run_id)
    if follow and sys.stdout.isatty():
        await _live(queue, run)
        return
    async with aclosing(operations.follow_logs(queue, run.id, follow=follow)) as lines:
        async for entry in lines:
            line(log_line(entry))
            if follow:
                sys.stdout.flush()


async def _live(queue: Queue, run: Run) -> None:
    """The log on a terminal, with a moving last line while the run goes on."""
    console = terminal()
    with status(f"{run.flow} {run.id}", console):
        async with aclosing(operations.follow_logs(queue, run.id, follow=True)) as lines:
            async for entry in lines:
                console.out(log_line(entry), highlight=False)
    note(ended(await queue.get(run.id)))


@click.command()
@run_argument
@click.option(
    "--unpickle", is_flag=True, help="Load a pickled result, which runs code of the flow's author on this machine."
)
@click.option("--json", "as_json", is_flag=True, help="Print the value as JSON, a text too.")
@click.option("--recover", is_flag=True, help="First write a result that its agent could not write, and kept here.")
@settings_verb
async def result(
    queue: Queue, settings: Settings, run_id: str, *, unpickle: bool, as_json: bool, recover: bool
) -> None:
    """Print what RUN returned: a text as it is, a pickled value as Python writes it, others as JSON.

    \b
    Example: flow-agent result 01jq
    """
    run = await queue.get(run_id)
    async with opened(**settings.secrets_arguments()) as secrets:
        if recover:
            written = await operations.recover_result(run, secrets)
            note("written to its store" if written else "it is in its store already")
            if operations.is_pickled(run) and not unpickle:
                return
        value = await operations.read_result(run, secrets, unpickle=unpickle)
    _print_value(run, value, as_json)


def _print_value(run: Run, value: object, as_json: bool) -> None:
    if as_json:
        try:
            document(value)
        except (TypeError, ValueError, RecursionError):
            raise operations.no_json(run.id, value) from None
    elif isinstance(value, str):
        line(value)
    elif operations.is_pickled(run):
        # It is a pickle because JSON would give another value back, as a list for a tuple.
        line(operations.python_text(run.id, value))
    else:
        document(value)


@click.command()
@run_argument
@as_json_option
@settings_verb
async def why(queue: Queue, settings: Settings, run_id: str, as_json: bool) -> None:
    """Say in one sentence why RUN is where it is, and what the way out is.

    \b
    Example: flow-agent why 01jq
    """
    run = await queue.get(run_id)
    said = await explained(queue, settings, run)
    if as_json:
        document({"id": run.id, "state": run.state.value, "sentence": said.sentence, "hint": said.hint or None})
        return
    line(said.sentence)
    if said.hint:
        line(f"hint: {said.hint}")


@click.command()
@run_argument
@click.option("--wait", is_flag=True, help="Wait until nothing of it runs any more.")
@as_json_option
@settings_verb
async def cancel(queue: Queue, settings: Settings, run_id: str, wait: bool, as_json: bool) -> None:
    """Cancel RUN: one that waits ends at once, one that runs is ended by its agent. An ended one stays as it is.

    \b
    Example: flow-agent cancel 01jq --wait
    """
    run = await operations.cancel_run(queue, run_id)
    if wait:
        (run,) = await wait_for(queue, settings, [run])
    if as_json:
        document(operations.run_json(run))
    elif run.state.terminal:
        note(ended(run))
    else:
        note(f"run {run.id} is {run.state}; its agent was asked to end it")


@click.command()
@run_argument
@as_json_option
@queue_verb
async def retry(queue: Queue, run_id: str, as_json: bool) -> None:
    """Run the ended RUN again, as a new run of the same version and parameters, and print its id.

    It is due at once, also where the ended one was submitted for a time (--at).

    \b
    Example: flow-agent retry 01jq
    """
    run = await operations.retry_run(queue, run_id)
    if as_json:
        document(operations.run_json(run))
    else:
        line(run.id)
