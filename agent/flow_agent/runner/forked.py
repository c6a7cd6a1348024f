"""An attempt in a forked process: made to look like a fresh interpreter before the flow, and ended like one after it.

Standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
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

STREAMS = ("stdin", "stdout", "stderr")

_streams: list[TextIO] = []
"""Those of an attempt; see ``make_ahead``."""

_kept: list[object] = []
"""What nobody finds any more. Taking it apart would copy the memory that it shares with the keeper."""


def make_ahead() -> None:
    """Make, in the zygote, what no attempt can tell from its own.

    A process that was forked copies each page that it writes to, at some 2 us each: for the three streams alone a
    hundred of them. They are made on a pipe, as an attempt has it, since they remember what they were made on.
    """
    ours = [os.dup(descriptor) for descriptor in (1, 2)]
    pipe = os.pipe()
    try:
        for descriptor in (1, 2):
            os.dup2(pipe[1], descriptor)
        _streams[:] = [_stream(descriptor, getattr(sys, name)) for descriptor, name in enumerate(STREAMS)]
    finally:
        for descriptor, own in zip((1, 2), ours, strict=True):
            os.dup2(own, descriptor)
        for each in (*ours, *pipe):
            os.close(each)
    faulthandler.enable(2)


def main(path: list[str] | None = None) -> NoReturn:
    """Run the attempt and end the process; ``path`` is as in the runner's ``main``."""
    _look_fresh()
    descriptors = _open_descriptors() - 1  # the runner closes three of them, and opens two
    from flow_agent.runner.main import main as run

    code = 1
    try:
        code = run("pickle", path)
    except BaseException:  # as an interpreter does with what nobody caught
        traceback.print_exc()
    _end(code, descriptors)


def _look_fresh() -> None:
    for name, stream in zip(STREAMS, _streams, strict=True):
        for place in (name, f"__{name}__"):
            _kept.append(getattr(sys, place))
            setattr(sys, place, stream)
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
        buffer,
        like.encoding,
        like.errors,
        None if descriptor == 0 else "\n",
        line_buffering=like.line_buffering or descriptor > 0,  # as the runner wants it
        write_through=like.write_through,
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
