"""The zygote: a warm process of one environment that forks keepers, and through them attempts.

The daemon starts it as a program of its own, so that it has none of the daemon's memory. It imports what attempts need
anyway and what the settings name, nothing of a flow's; then it does nothing but fork. Single-threaded: a fork in the
middle of another thread's work could leave a lock that nobody opens. What is preloaded may start threads; then it says
so and forks nothing.

Descriptor 0 is its socket: it says one line of JSON when it is ready, then each message it gets brings the descriptor
of a new keeper's socket. It ends when the daemon does; keepers go on.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from contextlib import contextmanager

from flow_agent.launchers import keeper, linux

TYPE_CHECKING = False  # as in the keeper
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

WARM = (
    *("asyncio", "cloudpickle", "inspect", "logging", "pathlib", "random", "traceback", "typing"),
    *("flow_agent.current", "flow_agent.flow", "flow_agent.run_configs"),
    *("flow_agent.runner.main", "flow_agent.runner.load", "flow_agent.runner.stored", "flow_agent.runner.forked"),
)
"""What most flows need, or the runner for them."""


def main(*preload: str) -> NoReturn:
    """Be a zygote; in a process that was forked as an attempt, be the attempt."""
    # Attempts are not to be told from fresh ones by what we are: these two are theirs then.
    daemon = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a keeper ended
    linux.hide_memory()
    linux.die_with_parent()
    _say_ready(daemon, preload)
    keepers_end = _fork_keepers(daemon)
    daemon.close()
    gc.enable()
    if not keeper.serve(keepers_end, None):
        os._exit(0)
    keepers_end.detach()  # closed already, by its number
    from flow_agent.runner import forked

    forked.main()


def _say_ready(daemon: socket.socket, preload: tuple[str, ...]) -> None:
    problems = []
    for name in WARM:
        importlib.import_module(name)
    from flow_agent.runner import forked

    forked.make_ahead()
    with _usual_state():
        for name in preload:
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 - whatever a module raises
                problems.append(f"{name}: {type(error).__name__}: {error}")
    gc.collect()
    gc.disable()
    gc.freeze()
    ready: dict[str, Any] = {"python": list(sys.version_info[:2]), "threads": linux.threads(), "problems": problems}
    daemon.sendall(json.dumps(ready).encode() + b"\n")


@contextmanager
def _usual_state() -> Iterator[None]:
    """Take back what a module that is imported inside did to the process, and write what it printed."""
    mask, umask = signal.pthread_sigmask(signal.SIG_BLOCK, ()), os.umask(0o077)
    os.umask(umask)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    os.umask(umask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever a module has put there
            stream.flush()


def _fork_keepers(daemon: socket.socket) -> socket.socket:
    """Fork a keeper for each socket that comes. Returns in the keepers only, each with its own."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(daemon, 1, 1)
        if not data:
            os._exit(0)
        end = socket.socket(fileno=descriptors[0])
        try:
            pid = os.fork()
        except OSError as error:
            failed = {"why": f"{error.strerror}: no keeper could be forked", "passes": True}
            end.send(json.dumps({"failed": failed}).encode() + b"\n")
        else:
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return end
        end.close()
