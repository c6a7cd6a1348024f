"""Pickles a flow's function together with the author's own modules, so that it runs where those are not."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from flow_agent.flow import Flow

_DEEPEST = 8
"""Steps from the function to what cannot be pickled that are worth telling."""


def cloudpickle_version() -> str:
    """Of the one that writes here."""
    import cloudpickle  # noqa: PLC0415 - 20 ms that only storing a pickle needs

    return str(cloudpickle.__version__)


def dump_function(flow: Flow, file: BinaryIO) -> None:
    """Write ``flow``'s function (or None) to ``file``, the author's own modules by value.

    Raises RegistrationError: it cannot be pickled; names what in it.
    """
    import cloudpickle  # noqa: PLC0415 - as above

    from flow_agent.errors import RegistrationError  # noqa: PLC0415 - see storages.base
    from flow_agent.storages.neighbours import warn_of_pickle  # noqa: PLC0415 - only storing needs it

    warn_of_pickle(flow)
    # A flow of another framework is what it is; it only looks like a function to us.
    what_runs = getattr(flow.function, "target", flow.function)
    with _by_value(own_modules(flow)):
        try:
            cloudpickle.dump(what_runs, file)
        except Exception as error:
            what = _culprit(what_runs)
            reason = f"{type(error).__name__}: {error}"
            raise RegistrationError(
                f"flow {flow.name!r} cannot be pickled{f', because it uses {what}' if what else ''} ({reason})",
                hint="make that object inside the function, or store the flow as a script:"
                " storage=Local(stored_as_script=True)",
            ) from error


def own_modules(flow: Flow) -> list[ModuleType]:
    """The flow's module, and the loaded modules below its file's folder that are neither installed nor Python's."""
    folder = Path(flow.file).resolve().parent if flow.file else Path.cwd().resolve()
    package = (flow.module or "").partition(".")[0] if "." in (flow.module or "") else None
    found = []
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name != module.__name__ or name in ("__main__", "__mp_main__"):
            continue
        if name.partition(".")[0] in ("flow_agent", "cloudpickle"):
            continue
        place = _place(module)
        if name == flow.module or (
            place is not None
            and (_is_below(place, str(folder)) or name.partition(".")[0] == package)
            and not installed(Path(place), folder)
        ):
            found.append(module)
    return found


def _place(module: ModuleType) -> str | None:
    """The file of a module written in Python; the folder of a package without one."""
    file = module.__dict__.get("__file__")
    if isinstance(file, str):
        return _real(file) if file.endswith(".py") else None
    parts = [str(part) for part in module.__dict__.get("__path__", ())]
    return _real(parts[0]) if parts else None


def _real(path: str) -> str:
    return _kept_real(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))  # noqa: PTH109,PTH117,PTH118


@cache
def _kept_real(path: str) -> str:
    # Kept, and compared as texts: there may be thousands of modules, and each flow asks for all of them.
    return os.path.realpath(path)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def installed(place: Path, folder: Path) -> bool:
    """Whether ``place``, at or below the author's ``folder``, is Python's or somebody else's package."""
    if {"site-packages", "dist-packages"}.intersection(place.parts):
        return True
    if any(place.is_relative_to(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib")):
        return True
    between = [parent for parent in place.parents if parent != folder and parent.is_relative_to(folder)]
    return any((parent / "pyvenv.cfg").is_file() for parent in between)


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    import cloudpickle  # noqa: PLC0415 - as above

    before = cloudpickle.list_registry_pickle_by_value()
    ours = [module for module in modules if module.__name__ not in before]
    for module in ours:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in ours:
            cloudpickle.unregister_pickle_by_value(module)


# Finding what cannot be pickled


def _culprit(function: Any) -> str | None:
    """The innermost part of ``function`` that cannot be pickled by itself, for people."""
    path: list[str] = []
    value, seen = function, {id(function)}
    while len(path) < _DEEPEST:
        for name, part in _parts(value):
            if id(part) not in seen and not _can_be_pickled(part):
                path.append(name)
                value = part
                seen.add(id(part))
                break
        else:
            break
    if not path:
        return None
    kind = type(value)
    named = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{' -> '.join(path)}, which is of type {named}"


def _can_be_pickled(value: Any) -> bool:
    import cloudpickle  # noqa: PLC0415 - as above

    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - the parts may be large: nothing is kept
            cloudpickle.dump(value, nowhere)
    except Exception:  # noqa: BLE001 - whatever it is, it cannot
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What is pickled along with ``value``, with names that the author knows."""
    match value:
        case FunctionType():
            names = _names(value.__code__)
            yield from ((repr(name), value.__globals__[name]) for name in sorted(names) if name in value.__globals__)
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                try:
                    yield repr(name), cell.cell_contents
                except ValueError:  # not bound yet
                    continue
            yield from (("a default value", default) for default in value.__defaults__ or ())
            yield from ((f"the default of {name!r}", part) for name, part in (value.__kwdefaults__ or {}).items())
            yield from ((f"its attribute {name!r}", part) for name, part in value.__dict__.items())
        case dict():
            yield from ((f"[{key!r}]", part) for key, part in value.items())
        case list() | tuple() | set() | frozenset():
            yield from ((f"item {number}", part) for number, part in enumerate(value))
        case ModuleType() | type():
            yield from ((repr(n), part) for n, part in list(vars(value).items()) if not n.startswith("__"))
        case _:
            yield from ((f"its attribute {name!r}", part) for name, part in getattr(value, "__dict__", {}).items())


def _names(code: CodeType) -> set[str]:
    """Global names that ``code`` and the functions inside it may use."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found
