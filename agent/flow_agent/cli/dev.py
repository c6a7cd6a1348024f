"""``flow-agent dev``."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
from watchfiles import PythonFilter, awatch

from flow_agent import events, operations
from flow_agent.agent import Agent
from flow_agent.cli.assemble import assembled
from flow_agent.cli.options import options
from flow_agent.cli.output import ended, line, log_line, note, status, terminal
from flow_agent.cli.parameters import parameters_option
from flow_agent.client import own_secrets
from flow_agent.collect import collect
from flow_agent.errors import AgentRunning, FlowAgentError, InvalidInput
from flow_agent.launchers.linux import hide_memory
from flow_agent.model import AgentInfo, Json, Registration, Run, State
from flow_agent.ports import Queue
from flow_agent.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

MOVES_ON = 5.0
"""Seconds that cancelling the runs of the last turn may take before the next one begins."""

_UNFIT = re.compile(r"[^\w.-]")
"""Characters of a file's name that stay out of an agent's."""

MOST_SHOWN = 2_000
"""Characters of a return value that are printed."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@parameters_option
@options("")
def dev(settings: Settings, file: Path, parameters: dict[str, Json]) -> int:
    """Run each flow of FILE once, here, and again whenever a .py file in its folder changes. Ctrl-C ends it.

    Flows are stored as when they are registered, but in a queue of this process only: other agents see nothing of
    it, and this one takes no runs of others. Labels are left out.

    \b
    Example: flow-agent dev flows.py -p name=World
    """
    events.configure(style=settings.log.format, level="error")
    hide_memory()  # the agent in here holds the secrets of its runs
    return anyio.run(_dev, settings, file.absolute(), parameters)


async def _dev(settings: Settings, file: Path, parameters: Mapping[str, Json]) -> int:
    async with (
        operations.open_queue("memory:", leases=settings.queue_arguments()["leases"]) as queue,
        _agent_of(file, settings, queue) as (agent, info),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(agent.serve, signals=False), name="agent")
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            stop = anyio.Event()
            async with anyio.create_task_group() as turns:
                turns.start_soon(_turns, queue, info, file, parameters, stop, name="turns")
                async for _ in signals:
                    break
                stop.set()
        # Twice: claim nothing more, and end what runs. The task group waits for the agent's own end.
        agent.drain()
        agent.drain()
    return 0


@asynccontextmanager
async def _agent_of(file: Path, settings: Settings, queue: Queue) -> AsyncIterator[tuple[Agent, AgentInfo]]:
    async with AsyncExitStack() as stack:
        try:
            pair = await stack.enter_async_context(assembled(settings, queue, name=_name_of(file)))
        except AgentRunning as error:
            raise AgentRunning(
                f"another `flow-agent dev` runs {file} already: {error}",
                hint="use that one, which sees each change, or stop it; --home FOLDER gives this one a home of its own",
            ) from None
        yield pair


def _name_of(file: Path) -> str:
    """It says the file and hints at its folder: files of one name may be worked on side by side."""
    whole = sha256(os.fsencode(file.resolve())).hexdigest()
    return f"dev-{_UNFIT.sub('_', file.stem)[:60]}-{whole[:8]}"


async def _turns(queue: Queue, info: AgentInfo, file: Path, parameters: Mapping[str, Json], stop: anyio.Event) -> None:
    """A turn now and after each change, until ``stop``; a change ends the turn before."""
    # Stopped by the event, since its thread does not look at cancellation for seconds.
    watching = awatch(file.parent, watch_filter=PythonFilter(), step=50, debounce=400, stop_event=stop)
    async with aclosing(watching) as changes:
        while True:
            async with anyio.create_task_group() as turn:
                turn.start_soon(_turn, queue, info, file, parameters, name="turn")
                changed = await anext(changes, None)
                turn.cancel_scope.cancel()
            if changed is None:
                return
            await _cancel_all(queue)
            note("\nchanged")


async def _cancel_all(queue: Queue) -> None:
    """End what the last turn left running."""
    for run in await queue.runs(states=(State.SCHEDULED, State.QUEUED, State.CLAIMED, State.RUNNING)):
        with anyio.move_on_after(MOVES_ON):
            await operations.cancel_run(queue, run.id, wait=True)


async def _turn(queue: Queue, info: AgentInfo, file: Path, parameters: Mapping[str, Json]) -> None:
    """Register the flows of the file, run each, and show what they write."""
    try:
        found = await collect(str(file), on_output=note)
        # Nobody else is on this queue, and its one agent takes everything.
        registrations = await queue.register([replace(each, labels=()) for each in found])
        runs = [await _submit(queue, info, each, _fitting(each, registrations, parameters)) for each in registrations]
    except FlowAgentError as error:
        note(f"flow-agent: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
        note(f"waiting for a change in {file.parent}")
        return
    show, console = _shower()
    with status(", ".join(each.flow for each in registrations), console):
        async with anyio.create_task_group() as followers:
            for run in runs:
                followers.start_soon(_follow, queue, run, show, f"{run.flow}: " if len(runs) > 1 else "")
    note(f"waiting for a change in {file.parent}")


def _fitting(
    registration: Registration, all_of_them: Sequence[Registration], parameters: Mapping[str, Json]
) -> dict[str, Json]:
    """Of several flows, each gets those of the parameters that it has; what none of them has goes to all."""

    def has(flow: Registration, name: str) -> bool:
        return any(parameter.kind == "any" or parameter.name == name for parameter in flow.parameters)

    return {
        name: value
        for name, value in parameters.items()
        if has(registration, name) or not any(has(other, name) for other in all_of_them)
    }


async def _submit(queue: Queue, info: AgentInfo, registration: Registration, parameters: dict[str, Json]) -> Run:
    if registration.launcher is not None and registration.launcher not in info.launchers:
        raise InvalidInput(
            f"flow {registration.flow!r} asks for launcher {registration.launcher!r}, and the agent here offers"
            f" {', '.join(sorted(info.launchers))}",
            hint="set FLOW_AGENT_AGENT__LAUNCHERS",
        )
    (run,), warning = await operations.submit_runs(queue, registration.flow, parameters)
    if warning:
        note(f"warning: {warning}")
    return run


def _shower() -> tuple[Callable[[str], None], Console | None]:
    """How lines are shown, and the terminal that a moving last line needs."""
    if not sys.stdout.isatty():
        return _shown_at_once, None
    console = terminal()
    return partial(console.out, highlight=False), console


def _shown_at_once(text: str) -> None:
    line(text)
    sys.stdout.flush()


async def _follow(queue: Queue, run: Run, show: Callable[[str], None], prefix: str) -> None:
    async with aclosing(operations.follow_logs(queue, run.id, follow=True)) as lines:
        async for entry in lines:
            show(prefix + log_line(entry))
    run = await queue.get(run.id)
    note(prefix + ended(run))
    if run.result is not None and run.result.get("format") != "pickle":
        async with own_secrets() as secrets:
            value = await operations.read_result(run, secrets)
        note(f"{prefix}returned {_shortened(repr(value))}")


def _shortened(text: str) -> str:
    """At most MOST_SHOWN characters: a terminal is no place for megabytes."""
    if len(text) <= MOST_SHOWN:
        return text
    return f"{text[:MOST_SHOWN]}... ({len(text)} characters in all)"
