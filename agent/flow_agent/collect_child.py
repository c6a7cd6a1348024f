"""The process that loads what is registered: a file, a module, or what was fetched from a storage.

It is asked by its second argument, a JSON table: ``target`` and ``labels``; and ``stored`` for what lies in a storage
already: the ``file`` that was fetched, its ``kind`` (``pickle`` or ``script``), the description of its ``storage``, the
``flow`` that is wanted (null: all), its ``location`` (null: the storage says it), and the ``digest`` and ``size`` of a
pickle. It answers with registrations, or with an error, on the descriptor that is its first argument. An empty line
there says that it has begun to store: from then on SIGTERM has it remove what was stored.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal

from flow_agent.adoption import adopted, placed
from flow_agent.errors import FlowAgentError, InvalidInput, RegistrationError
from flow_agent.flow import Flow, loading
from flow_agent.model import Registration
from flow_agent.plugins import load
from flow_agent.registration import build_registrations, described
from flow_agent.runner import foreign, stored
from flow_agent.runner.load import NoSuchFlow, find_flow, flows_of, load_script, name_of
from flow_agent.storages.base import Stored


def child() -> None:
    """The child's whole life: loads what ``sys.argv`` says, writes the answer to the descriptor, and ends."""
    answer, request = int(sys.argv[1]), json.loads(sys.argv[2])
    os.set_inheritable(answer, False)
    sys.argv = [request["target"]]
    # The author's folder is no place for our leftovers.
    sys.dont_write_bytecode = True
    try:
        registrations = _collected(request["target"], request["labels"], request.get("stored"), lambda: _begin(answer))
        found: dict[str, Any] = {"registrations": [each.to_json() for each in registrations]}
    except KeyboardInterrupt:  # what was stored is removed
        os._exit(1)
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


def _begin(answer: int) -> None:
    """What is stored from here on is removed again if we are told to end."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    os.write(answer, b"\n")


def _collected(
    target: str, labels: Iterable[str], lies: Mapping[str, Any] | None, begin: Callable[[], object]
) -> list[Registration]:
    place, name = _parsed(target) if lies is None else (target, lies["flow"])
    try:
        if lies is None:
            flows = _defined(place, name)
            begin()
            return build_registrations(flows, labels=labels)
        pickled = lies["kind"] == "pickle"
        flows = _placed(lies, [_unpickled(target, lies)] if pickled else _script(target, lies))
        if lies["location"] is None:
            begin()
            return build_registrations(flows, labels=labels)
        found = Stored(kind=lies["kind"], location=lies["location"], digest=lies["digest"], size=lies["size"])
        return [described(flow, found, frozenset(labels)) for flow in flows]
    except FlowAgentError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - signatures and defaults are the author's code
        raise _raised(place, error) from None


def _defined(place: str, name: str | None) -> list[Flow]:
    """The flows of a file or module, those of other frameworks as ours."""
    module = _loaded(place)
    found = _named(module, name, place)
    return [adopted(each, getattr(module, "__file__", None), module.__name__) for each in found]


def _named(module: ModuleType, name: str | None, place: str) -> list[Any]:
    """The flows of ``module``, or the one of that name.

    Raises RegistrationError: there is none.
    """
    if name is not None:
        try:
            return [find_flow(module, name)]
        except NoSuchFlow as error:
            raise RegistrationError(str(error.args[0])) from None
    found = [each for each in flows_of(module) if _is_of(module, each)]
    if not found:
        raise RegistrationError(
            f"there is no flow in {place}",
            hint="define one at the top level of the file, with @flow or Flow(...); a plain function is named behind a"
            " colon, as FILE:FUNCTION",
        )
    return found


def _is_of(module: ModuleType, flow: Any) -> bool:
    """Whether a flow of Prefect 2 or 3 is defined here; those that it calls are often imported."""
    return foreign.framework(flow) != "prefect" or getattr(flow.fn, "__module__", None) == module.__name__


# What lies in a storage already


def _placed(lies: Mapping[str, Any], found: Iterable[Any]) -> list[Flow]:
    storage = load("storages", lies["storage"]["type"]).from_description(lies["storage"])
    return [placed(each, storage, None) for each in found]


def _script(target: str, lies: Mapping[str, Any]) -> list[Any]:
    file = Path(lies["file"])
    return _named(_executed(file.parent, file.name, target), lies["flow"], target)


def _unpickled(target: str, lies: Mapping[str, Any]) -> Any:
    try:
        found = stored.load(lies["file"])
    except stored.Mismatch as mismatch:
        raise RegistrationError(
            f"{target}: {mismatch}", hint="register it with the Python that wrote it, if that is 3.11 or newer"
        ) from None
    except BaseException as error:  # noqa: BLE001 - a pickle may raise anything, SystemExit too
        raise _raised(target, error) from None
    if name_of(found) is None and not callable(found):
        raise RegistrationError(f"{target} holds a {type(found).__name__}, expected a flow or a function")
    if lies["flow"] not in (None, name_of(found) or getattr(found, "__name__", None)):
        raise RegistrationError(f"{target} holds the flow {name_of(found)!r}, expected {lies['flow']!r}")
    return found


# Files and modules


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
    if not _is_file(place):
        return _imported(place)
    root = file.parent
    while (root / "__init__.py").is_file() and root.name.isidentifier() and root != root.parent:
        root = root.parent
    return _executed(root, file.relative_to(root).as_posix(), place)


def _executed(root: Path, path: str, place: str) -> ModuleType:
    try:
        return load_script(root, path)
    except KeyboardInterrupt:
        raise RegistrationError(f"loading {place} was interrupted; nothing was registered") from None
    except BaseException as error:  # noqa: BLE001 - a file may raise anything, SystemExit too
        raise _raised(place, error) from None


def _imported(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        with loading():
            return import_module(name)
    except KeyboardInterrupt:
        raise RegistrationError(f"loading {name} was interrupted; nothing was registered") from None
    except BaseException as error:  # noqa: BLE001 - as in _executed
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not (name == missing or name.startswith(f"{missing}.")):
            raise _raised(name, error) from None
        raise RegistrationError(
            f"there is no module {missing!r} in {Path.cwd()} or on Python's path",
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
