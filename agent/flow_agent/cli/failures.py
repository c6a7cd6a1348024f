"""What a person sees when something failed: ``flow-agent: message``, ``hint: ...``, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from flow_agent.errors import FlowAgentError
from flow_agent.home import home

INTERRUPTED = 130
PIPE_CLOSED = 141
"""What a shell gives for a program that SIGPIPE ended."""


def report(error: BaseException) -> int:
    """Tell of ``error`` on stderr, and give the exit code."""
    error = _single(error)
    match error:
        case KeyboardInterrupt() | click.exceptions.Abort():
            code = INTERRUPTED
        case BrokenPipeError():
            _silence_stdout()
            code = PIPE_CLOSED
        case click.exceptions.Exit():
            code = error.exit_code
        case SystemExit():
            code = error.code if isinstance(error.code, int) else 1
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            code = error.exit_code
        case click.UsageError():
            _say(_usage_message(error), _usage_hint(error))
            code = 2
        case click.ClickException():
            _say(_lowered(error.format_message()))
            code = error.exit_code
        case FlowAgentError():
            _say(str(error), error.hint)
            code = error.exit_code
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            _silence_stdout()
            what = error.filename or "the output"
            _say(f"{what} cannot be written: {error.strerror}", "free some space on that disk")
            code = 1
        case PermissionError() if error.filename is not None:
            _say(
                f"{error.filename} cannot be reached by user id {os.geteuid()}: {error.strerror}",
                "give this user permission on it and its folders, or set FLOW_AGENT_HOME to a folder of its own",
            )
            code = 1
        case UnicodeEncodeError() if (typed := next(filter(_undecoded, sys.argv), None)) is not None:
            _say(f"{typed!r} is no text in UTF-8, as the queue keeps it", "files may have such names; nothing else may")
            code = 2
        case _:
            code = _crashed(error)
    return code


def _undecoded(text: str) -> bool:
    """Whether bytes of it are no UTF-8: Python stands half a pair of characters for each."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def _single(error: BaseException) -> BaseException:
    """The one error that a task group wrapped; of several the first that has something to say to a person."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    several = [_single(inner) for inner in error.exceptions]
    if len(several) == 1 or all(isinstance(inner, (FlowAgentError, KeyboardInterrupt)) for inner in several):
        return several[0]
    return error


def _say(message: str, hint: str | None = None) -> None:
    # If nobody listens on stderr, there is nowhere else to say it.
    with contextlib.suppress(OSError):
        print(f"flow-agent: {message}", file=sys.stderr)
        if hint:
            print(f"hint: {hint}", file=sys.stderr)


def _usage_message(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return f"no such option {error.option_name}"
    return _lowered(error.format_message())


def _usage_hint(error: click.UsageError) -> str:
    if hint := getattr(error, "hint", None):
        return str(hint)
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        return f"did you mean {error.possibilities[0]}?"
    return f"`{error.ctx.command_path if error.ctx else 'flow-agent'} --help` shows what there is"


def _lowered(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")


def _silence_stdout() -> None:
    """The reader has gone; without this the interpreter complains when it flushes stdout at its end."""
    # Where stdout is no file, nothing will be flushed to one.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _crashed(error: BaseException) -> int:
    """A mistake of ours: the traceback goes to a file, since a person can do nothing with it."""
    text = "".join(traceback.format_exception(error))
    where = _write_crash(home() / "crashes", text) or _write_crash(Path(tempfile.gettempdir()), text)
    place = f"its traceback is in {where}" if where else "its traceback could not be written"
    _say(f"unexpected {type(error).__name__}, a mistake of this program; {place}", "please report it with that file")
    return 1


def _write_crash(folder: Path, text: str) -> Path | None:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = folder / f"flow-agent-crash-{stamp}-{os.getpid()}.txt"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return path
