"""Registers the flows of a file or module: loads it in a process of its own, so that nothing of it runs in ours."""

from __future__ import annotations

import atexit
import codecs
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Literal

from flow_agent.errors import FlowAgentError, InvalidInput, RegistrationError
from flow_agent.model import Registration
from flow_agent.registration import build_registrations
from flow_agent.runner.load import find_flow, flows_of, load_script

_CHILD = "from flow_agent.collect import child; child()"
_LAST_OUTPUT = 2.0
"""Seconds that a program which the file started may keep its output open after the file has ended."""


async def collect(target: str, *, labels: Iterable[str] = (), on_output: Callable[[str], object]) -> list[Registration]:
    """Store the flows of ``target`` and give their registrations, in the order in which the flows were made.

    ``target`` is ``FILE``, ``FILE:FLOW``, ``pkg.mod`` or ``pkg.mod:FLOW``. ``on_output`` gets what the file prints, a
    line at a time. Being cancelled ends the process and all it started.

    Raises RegistrationError: it is not there, raises, ends the process, holds no such flow or two of one name, or a
    flow cannot be stored. InvalidInput: a label is none.
    """
    import anyio  # noqa: PLC0415 - the child imports this module too

    request = json.dumps({"target": target, "labels": sorted(labels)})
    with tempfile.TemporaryFile() as answer:
        command = [sys.executable, "-P", "-u", "-c", _CHILD, str(answer.fileno()), request]
        process = await anyio.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            pass_fds=[answer.fileno()],
            start_new_session=True,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_hand_on, process, on_output)
                code = await process.wait()
                _end_group(process.pid)
                tasks.cancel_scope.deadline = anyio.current_time() + _LAST_OUTPUT
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


# In the child


def child() -> None:
    """The child's whole life: loads what ``sys.argv`` says, writes the answer to the descriptor, and ends."""
    answer, request = int(sys.argv[1]), json.loads(sys.argv[2])
    os.set_inheritable(answer, False)
    sys.argv = [request["target"]]
    # The author's folder is no place for our leftovers.
    sys.dont_write_bytecode = True
    try:
        registrations = _collected(request["target"], request["labels"])
        found: dict[str, Any] = {"registrations": [each.to_json() for each in registrations]}
    except FlowAgentError as error:
        kind = "InvalidInput" if isinstance(error, InvalidInput) else "RegistrationError"
        shown = getattr(error, "traceback", "")
        found = {"error": {"type": kind, "message": str(error), "hint": error.hint, "traceback": shown}}
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(answer, data) :]
    os.close(answer)
    # A thread that the file left running would keep us here for ever.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)


def _collected(target: str, labels: Iterable[str]) -> list[Registration]:
    place, name = _parsed(target)
    module = _loaded(place)
    flows = flows_of(module)
    if name is not None:
        try:
            find_flow(module, name)
        except LookupError as error:
            raise RegistrationError(str(error.args[0])) from None
        flows = [flow for flow in flows if flow.name == name]
    if not flows:
        raise RegistrationError(
            f"there is no flow in {place}",
            hint="define one at the top level of the file, with @flow or Flow(...)",
        )
    try:
        return build_registrations(flows, labels=labels)
    except FlowAgentError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - signatures and defaults are the author's code
        raise _raised(place, error) from None


def _parsed(target: str) -> tuple[str, str | None]:
    """File or module, and the flow's name if one is wanted."""
    if not target:
        raise RegistrationError("the target is empty, expected FILE, FILE:FLOW, pkg.mod or pkg.mod:FLOW")
    parts = target.split(":")
    # A file may have colons in its name, and so may a flow: the longest beginning that is a file is the file.
    for count in range(len(parts), 0, -1):
        place = ":".join(parts[:count])
        if _exists(place, "is_file"):
            return place, ":".join(parts[count:]) or None
    return parts[0], ":".join(parts[1:]) or None


def _is_file(place: str) -> bool:
    package = place.isidentifier() and _exists(f"{place}/__init__.py", "is_file")
    return place.endswith(".py") or os.sep in place or (_exists(place, "exists") and not package)


def _exists(place: str, how: Literal["is_file", "exists"]) -> bool:
    try:
        return bool(getattr(Path(place), how)())
    except OSError:  # too long for a name, or behind a folder that may not be entered
        return False


def _loaded(place: str) -> ModuleType:
    if not _is_file(place) and not all(part.isidentifier() for part in place.split(".")):
        raise RegistrationError(f"there is no file {place}, and it is no name of a module")
    file = Path(place).absolute()
    if _is_file(place) and not file.is_file():
        what = "is a folder, expected a file" if file.is_dir() else "does not exist"
        raise RegistrationError(f"{place} {what}", hint="name a Python file, or a module as pkg.mod")
    try:
        if _is_file(place):
            root = file.parent
            while (root / "__init__.py").is_file() and root.name.isidentifier() and root != root.parent:
                root = root.parent
            return load_script(root, file.relative_to(root).as_posix())
        return _imported(place)
    except KeyboardInterrupt:
        raise RegistrationError(f"loading {place} was interrupted; nothing was registered") from None
    except BaseException as error:  # noqa: BLE001 - a file may raise anything, SystemExit too
        raise _raised(place, error) from None


def _imported(name: str) -> ModuleType:
    from importlib import import_module  # noqa: PLC0415 - for modules only

    from flow_agent.flow import loading  # noqa: PLC0415 - for modules only

    sys.path.insert(0, str(Path.cwd()))
    try:
        with loading():
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise RegistrationError(
            f"there is no module {error.name!r} in {Path.cwd()} or on Python's path",
            hint="name a file as path/to/file.py, or run the command where the module can be imported",
        ) from None


def _raised(place: str, error: BaseException) -> RegistrationError:
    """What a person needs of an error that the file raised."""
    if isinstance(error, RegistrationError):
        return error
    shown = "".join(traceback.format_exception(type(error), error, _own_frames(error.__traceback__)))
    if isinstance(error, SystemExit):
        return RegistrationError(
            f"{place} ends the process while it is loaded (sys.exit({error.code!r})); nothing was registered",
            hint="put what is to run only as a program under a main-guard",
            traceback=shown,
        )
    if isinstance(error, SyntaxError) and error.filename:
        text = f": {error.text.strip()}" if error.text else ""
        return RegistrationError(
            f"{error.filename}, line {error.lineno}: {error.msg}{text}; nothing was registered", traceback=shown
        )
    hint = None
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"install it for {sys.executable}, or register from the environment that has it"
    line = _last_line(error.__traceback__)
    message = "".join(traceback.format_exception_only(error)).strip()
    return RegistrationError(f"{place} raises {message}{line}; nothing was registered", hint=hint, traceback=shown)


def _is_ours(file: str) -> bool:
    return file.startswith(("<frozen importlib", "<string>", str(Path(__file__).parent) + os.sep))


def _own_frames(frames: TracebackType | None) -> TracebackType | None:
    """From the first frame of the file's own code; ``format_exception`` shows the rest."""
    start = frames
    while start is not None and _is_ours(start.tb_frame.f_code.co_filename):
        start = start.tb_next
    return start


def _last_line(frames: TracebackType | None) -> str:
    """Where in the author's code it was."""
    own = [frame for frame in traceback.extract_tb(frames) if not _is_ours(frame.filename)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
