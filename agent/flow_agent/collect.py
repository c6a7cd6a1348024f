"""Registers flows of a file, a module or a storage: loads them in a process of its own; nothing runs in ours."""

from __future__ import annotations

import codecs
import json
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import anyio

from flow_agent.errors import InvalidInput, RegistrationError
from flow_agent.model import Registration

_CHILD = "from flow_agent.collect_child import child; child()"
_HARMLESS = frozenset({"PATH", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "FLOW_AGENT_HOME", "PYTHONPATH"})
"""Variables of a process that loads what somebody stored: no secrets, and no home, whose files may hold some."""
_LAST_OUTPUT = 2.0
"""Seconds that a program which the file started may keep its output open after the file has ended."""
_TIDYING = 90.0
"""Seconds for removing what was stored, by a process that is told to end meanwhile."""


async def collect(target: str, *, labels: Iterable[str] = (), on_output: Callable[[str], object]) -> list[Registration]:
    """Store the flows of ``target`` and give their registrations, in the order in which the flows were made.

    ``target`` is ``FILE``, ``FILE:FLOW``, ``pkg.mod`` or ``pkg.mod:FLOW``. ``on_output`` gets what the file prints, a
    line at a time. Being cancelled ends the process and all it started.

    Raises RegistrationError: it is not there, raises, ends the process, holds no such flow or two of one name, or a
    flow cannot be stored. InvalidInput: a label is none.
    """
    return await _in_child(target, {"target": target, "labels": sorted(labels)}, on_output, None)


async def collect_stored(
    target: str,
    stored: Mapping[str, Any],
    *,
    folder: Path,
    labels: Iterable[str],
    on_output: Callable[[str], object],
) -> list[Registration]:
    """The registrations of flows that lie in a storage already; they are loaded by a process without any secret.

    ``stored`` says what was fetched, see ``collect_child``; ``folder`` is that process's home. The rest is as in
    ``collect``.
    """
    env = {name: value for name, value in os.environ.items() if name in _HARMLESS or name.startswith("LC_")}
    env |= {"HOME": str(folder), "PYTHONUSERBASE": site.getuserbase()}
    return await _in_child(target, {"target": target, "labels": sorted(labels), "stored": dict(stored)}, on_output, env)


async def _in_child(
    target: str, asked: Mapping[str, Any], on_output: Callable[[str], object], env: Mapping[str, str] | None
) -> list[Registration]:
    request = json.dumps(asked)
    with tempfile.TemporaryFile() as answer:
        command = [sys.executable, "-P", "-u", "-c", _CHILD, str(answer.fileno()), request]
        process = await anyio.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            pass_fds=[answer.fileno()],
            start_new_session=True,
            env=env,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_hand_on, process, on_output)
                code = await process.wait()
                _end_group(process.pid)
                tasks.cancel_scope.deadline = anyio.current_time() + _LAST_OUTPUT
        except BaseException:
            if os.fstat(answer.fileno()).st_size and process.returncode is None:  # it stores, see ``collect_child``
                process.terminate()
                with anyio.move_on_after(_TIDYING, shield=True):
                    await process.wait()
            raise
        finally:
            _end_group(process.pid)
            with anyio.move_on_after(5, shield=True):
                await process.aclose()
        return _registrations(target, answer, code)


async def _hand_on(process: Any, on_output: Callable[[str], object]) -> None:
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    try:
        async for chunk in process.stdout:
            *lines, rest = (rest + decode(chunk)).split("\n")
            for line in lines:
                on_output(line)
    finally:
        if rest:
            on_output(rest)


def _end_group(pid: int) -> None:
    """The file may have started programs; they live in the session that is named by the process's id."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _registrations(target: str, answer: IO[bytes], code: int) -> list[Registration]:
    answer.seek(0)
    try:
        found = json.load(answer)
    except ValueError:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise RegistrationError(
            f"{target} could not be loaded: its process {how} before it was done; nothing was registered",
            hint="what runs when the file is loaded must not end the process; put it under a main-guard",
        ) from None
    if "error" in found:
        error = found["error"]
        if error["type"] == "InvalidInput":
            raise InvalidInput(error["message"], hint=error["hint"])
        raise RegistrationError(error["message"], hint=error["hint"], traceback=error["traceback"])
    return [Registration.from_json(each) for each in found["registrations"]]
