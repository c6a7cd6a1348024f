"""The driver's half of the talk with ``peers``: questions come in as lines, each gets one line of JSON.

A driver runs in the environment of what it measures, so: standard library only. It starts everything in ``opened``,
and stops it when there are no more questions or SIGTERM comes.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import AbstractContextManager
from typing import Any, Protocol

PYTHON = f"Python {sys.version.split()[0]}"

PAUSE = 0.25
"""Seconds of rest between the end of one job and the next, so that each finds whoever runs it idle: also what a worker
gets ready in advance, such as the next interpreter, is ready again."""
WARM_UP = 5
"""Jobs before the first that counts."""


class Measured(Protocol):
    """Something that runs jobs, started and ready."""

    version: str

    def first_line(self) -> tuple[float, float]:
        """Run one job: seconds to its function's first line, from what the system calls the job's creation, and from
        the call that asked for it.

        Raises anything: it did not end well.
        """

    def rate(self, jobs: int) -> float:
        """Jobs that ended in a second, all of them given at once: from the first one's claim to the last one's end.

        Raises anything: one of them did not end well.
        """


def serve(opened: AbstractContextManager[Measured]) -> None:
    """Answer questions until there are no more."""
    signal.signal(signal.SIGTERM, _stop)
    with opened as measured:
        _answer({"version": measured.version})
        for line in sys.stdin:
            question, number = line.split()
            if question == "rate":
                _answer({"rate": measured.rate(int(number))})
            elif question == "warm":
                for _ in range(int(number)):
                    measured.first_line()
                _answer({})
            else:
                _answer({"first_lines": [_rested(measured) for _ in range(int(number))]})


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the clearing up is not broken off
    sys.exit(143)


def _rested(measured: Measured) -> tuple[float, float]:
    time.sleep(PAUSE)
    return measured.first_line()


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def wait_until(condition: Any, seconds: float, pause: float = 0.02) -> None:
    """Return when ``condition()`` is true.

    Raises TimeoutError: it was not within ``seconds``.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"what was waited for did not come within {seconds:g} s")
        time.sleep(pause)
