"""The command line: one module per group of verbs, loaded when its verb is used; no logic.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 it failed, or the run that was waited for did;
2 what was typed, set or configured does not fit; 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence

import click

from flow_agent.cli.group import LazyGroup
from flow_agent.version import __version__

VERBS = {
    "register": ("register", "Store flows and make them known to the queue."),
    "submit": ("submit", "Ask for runs of a flow."),
    "runs": ("runs", "List runs, newest first."),
    "show": ("runs", "Everything known of one run."),
    "logs": ("runs", "What a run wrote."),
    "result": ("runs", "What a run returned."),
    "why": ("runs", "Why a run is where it is, and the way out."),
    "cancel": ("runs", "Cancel a run."),
    "retry": ("runs", "Run an ended run again, as a new one."),
    "flows": ("listings", "List registered flows."),
    "agents": ("listings", "List agents."),
    "limits": ("limits", "How many runs of a flow or with a label may run at a time."),
    "secrets": ("secrets", "Keep secrets for this machine's agents."),
    "cache": ("cache", "What fetched flows are kept on this machine."),
    "doctor": ("doctor", "Check that home, queue, secrets and storages can be used."),
    "migrate": ("listings", "Bring the queue to this program's version."),
    "prune": ("prune", "Remove old runs, unused registrations and dead agents."),
    "server": ("server", "Offer the queue to other machines, by HTTP."),
    "tokens": ("tokens", "Who may ask the server for what."),
    "start": ("start", "Claim runs and execute them until stopped."),
    "dev": ("dev", "Run the flows of a file here, again after each change."),
    "inside": ("inside", "Run one attempt in its container; agents start it."),
}

STUCK = 1.0
"""Seconds that threads which should have ended may take for it."""

_EPILOG = """\b
Exit codes: 0 done; 1 it failed, or the run that was waited for did;
            2 what was typed or configured does not fit; 130 Ctrl-C."""


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    subcommand_metavar="VERB [ARGS]...",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Get Python flows from where they are stored to where they should run.

    \b
    Example:
      flow-agent register flows.py
      flow-agent submit hello -p name=World --wait
    """


def _open_standard_streams() -> None:
    """Lead those of descriptors 0, 1 and 2 nowhere that the caller has closed.

    Otherwise the next file that is opened, perhaps the queue's, would get their number, and what prints would print
    into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Without ``arguments`` it is the program itself, and may end right here."""
    code = _main(arguments)
    if arguments is None:  # else the threads of this process are the caller's
        _leave_stuck_threads(code)
    return code


def _leave_stuck_threads(code: int) -> None:
    """End here if a thread hangs in a call to the system (a lock that another program holds, a disk that stands still).

    The interpreter would wait for it. What it was to write was given up and told as such.
    """
    until = time.monotonic() + STUCK
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
                os._exit(code)


def _main(arguments: Sequence[str] | None) -> int:
    _open_standard_streams()
    try:
        if "_FLOW_AGENT_COMPLETE" in os.environ:  # a shell asks what could come next
            cli.main(prog_name="flow-agent")
        # Not click's own main: it answers Ctrl-C and closed pipes in its own way.
        with cli.make_context("flow-agent", list(sys.argv[1:] if arguments is None else arguments)) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the last handler, which tells of each: Ctrl-C and closed pipes are no Exceptions
        from flow_agent.cli.failures import report  # noqa: PLC0415 - 30 ms that what succeeds saves

        return report(error)
