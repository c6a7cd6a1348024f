"""An attempt in a forked process: made to look like a fresh interpreter before the flow, and ended like one after it.

Standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import traceback
from typing import NoReturn, TextIO

HIDDEN = [name for name in sys.modules if name.startswith(("flow_agent.launchers", "flow_agent.redact"))]
"""What the keeper needed; an attempt that is started as a program has none of it.

Found before the fork: looking at a name writes into its memory, and so copies it.
"""

_kept: list[object] = []
"""Modules that nobody finds any more. Taking them apart would copy the memory that they share with the keeper."""


def main() -> NoReturn:
    """Run the attempt and end the process."""
    _look_fresh()
    descriptors = _open_descriptors() - 1  # the runner closes three of them, and opens two
    from flow_agent.runner.main import main as run

    code = 1
    try:
        code = run("pickle")
    except BaseException:  # as an interpreter does with what nobody caught
        traceback.print_exc()
    _end(code, descriptors)


def _look_fresh() -> None:
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(descriptor, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for name in HIDDEN:
        _kept.append(sys.modules.pop(name, None))
    if (numpy := sys.modules.get("numpy.random")) is not None:  # random itself sees to it; this one does not
        numpy.seed()


def _stream(descriptor: int, like: TextIO) -> TextIO:
    """A stream on ``descriptor`` like the one of the process that was forked, which may remember another file."""
    assert isinstance(like, io.TextIOWrapper)
    mode = "r" if descriptor == 0 else "w"
    raw = io.FileIO(descriptor, mode, closefd=False)
    raw.name = like.name
    buffer = io.BufferedReader(raw) if descriptor == 0 else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(
        buffer, like.encoding, like.errors, None if descriptor == 0 else "\n", write_through=like.write_through
    )
    stream.mode = mode  # type: ignore[misc]  # as the interpreter does
    return stream


def _end(code: int, descriptors: int) -> NoReturn:
    """Wait for threads, run exit handlers, write what is still in buffers; taking modules apart is left out.

    ``descriptors`` is how many were open before the flow.
    """
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its processes
    atexit._run_exitfuncs()
    if _open_descriptors() > descriptors:
        _write_forgotten_files()
    os._exit(code & 0xFF)


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # but the one that lists them
    except OSError:  # the flow left none to list them with
        return sys.maxsize


def _write_forgotten_files() -> None:
    """An interpreter closes files as it takes everything apart; what was made since the fork is few."""
    for item in [item for item in gc.get_objects() if issubclass(type(item), io.IOBase)]:
        with contextlib.suppress(Exception):
            if not item.closed and item.writable():
                item.flush()
