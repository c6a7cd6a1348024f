"""The first process of a container, where there is no other: it has to collect every process whose parent has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def become_init() -> None:
    """Where this is process 1, go on in a child, and see to it from here: pass signals on, collect the dead, and end as
    it ends, which ends the container. Elsewhere nothing happens.

    What an attempt left behind becomes a child of process 1. The agent waits for its own children only, so that each
    end is told to whom it belongs; so somebody else must wait for these. To be called before there are threads.
    """
    if os.getpid() != 1:
        return
    wanted = {*FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)  # none gets lost until it is waited for
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    _see_to(child, wanted)


def _see_to(child: int, wanted: set[signal.Signals]) -> None:
    while True:
        number = signal.sigwait(wanted)
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    sys.stdout.flush()
                    os._exit(code if code >= 0 else 128 - code)
