"""The attempt's own process, as its keeper starts it: parked, in a session of its own, with nothing of the keeper's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal

from flow_agent.launchers import linux

TYPE_CHECKING = False  # typing itself costs every keeper some 10 ms
if TYPE_CHECKING:
    from typing import Any

MESSAGE_SIZE = 1 << 20
"""Bytes that the pipe for the message is made to take, where that is longer than a pipe usually takes."""
PIPE_SIZE = 65536

GO_WORD = b"go\n"

MESSAGE, EVENTS, GO = 3, 4, 5
"""The attempt's descriptors, as ``runner.main`` knows them; output is 1 and 2."""

MARK = "FLOW_AGENT_ATTEMPT"
"""The variable by which whatever an attempt started can be told, as long as it keeps its environment."""
MARK_LENGTH = 32


PASSES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors that another try may not meet."""


class NotStarted(Exception):
    """The attempt's process could not be started; the message says why. ``passes``: another try may do better."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.passes = number in PASSES


class Attempt:
    """A started process, parked until the word to go is in the pipe ``word``, which the daemon has too.

    ``output`` and ``events`` are the descriptors to read from; ``mark`` stands in its environment and in that of
    whatever it starts.
    """

    def __init__(self, pid: int, *, output: int, events: int, message: int, word: int, mark: str) -> None:
        self.pid, self.output, self.events, self.mark = pid, output, events, mark
        self._message, self.word = message, word
        for descriptor in (output, events):
            os.set_blocking(descriptor, False)

    def prepare(self, message: bytes) -> None:
        """Give the runner its message, one line, for all that it can do before the word to go."""
        if len(message) > PIPE_SIZE:
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(self._message, fcntl.F_SETPIPE_SZ, MESSAGE_SIZE)
        with contextlib.suppress(BrokenPipeError):
            while message:
                message = message[os.write(self._message, message) :]

    def go(self) -> None:
        """User code runs from here on. A second time does nothing: the attempt reads one word."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.word, GO_WORD)

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group, if there is one left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Close the ways to it."""
        os.close(self._message)
        os.close(self.word)


def start(program: dict[str, Any] | None) -> Attempt | None:
    """Start an attempt, parked: ``program`` (``argv`` and ``env``), or this process's own image if it is None.

    None comes back in the new process itself, which is to go on as the attempt.

    Raises NotStarted.
    """
    mark = os.urandom(MARK_LENGTH // 2).hex()
    pipes = [os.pipe() for _ in range(5)]
    (output, output_end), (events, events_end), (message_end, message), (word_end, word), (failed, fail) = pipes
    try:
        pid = os.fork()
    except OSError as error:
        for descriptor in (each for pipe in pipes for each in pipe):
            os.close(descriptor)
        raise NotStarted(error.errno or 0, f"{error.strerror}: no process could be forked") from None
    if pid == 0:
        _become(program, {message_end: MESSAGE, events_end: EVENTS, word_end: GO, output_end: 1}, fail, mark)
        return None
    for descriptor in (output_end, events_end, message_end, word_end, fail):
        os.close(descriptor)
    with os.fdopen(failed, "rb") as pipe:  # ends when it has become what it is to be
        problem = pipe.read()
    if problem:
        os.waitpid(pid, 0)
        for descriptor in (output, events, message, word):
            os.close(descriptor)
        number, _, why = problem.decode(errors="replace").partition(" ")
        raise NotStarted(int(number), why)
    return Attempt(pid, output=output, events=events, message=message, word=word, mark=mark)


def _become(program: dict[str, Any] | None, descriptors: dict[int, int], fail: int, mark: str) -> None:
    """In the forked child: become the attempt's program, or write into ``fail`` why not; return as our own image."""
    try:
        parent = os.getppid()
        os.setsid()
        linux.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        _usual_signals(program)
        high = {_high(source): target for source, target in descriptors.items()}
        fail = _high(fail)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for source, target in high.items():
            os.dup2(source, target)
        os.dup2(1, 2)
        if program is None:
            linux.show_memory()
            linux.mark(MARK, mark)
            os.closerange(GO + 1, os.sysconf("SC_OPEN_MAX"))
            return
        os.execve(program["argv"][0], program["argv"], {**program["env"], MARK: mark})
    except OSError as error:
        os.write(fail, f"{error.errno} {error.strerror}: {error.filename or 'the attempt'}".encode())
    os._exit(127)


def _usual_signals(program: dict[str, Any] | None) -> None:
    """As a program finds them at its start; one that is Python already, as Python has them, which ignores two."""
    signal.set_wakeup_fd(-1)
    usual = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)
    for number in usual if program is None else (*usual, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if program is None:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _high(descriptor: int) -> int:
    """A copy out of the way of 0 to 5."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
