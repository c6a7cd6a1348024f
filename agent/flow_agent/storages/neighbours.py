"""Warns of imports that find a module beside the flow now, and will not find it when the flow runs."""

from __future__ import annotations

import ast
import dis
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from flow_agent.storages.pickling import installed, own_modules

if TYPE_CHECKING:
    from flow_agent.flow import Flow

_PATIENCE = 10.0
"""Seconds for asking the interpreter what it finds by itself."""


@dataclass(frozen=True)
class _Import:
    """One import statement: where it stands, and the top-level module that it needs (empty: that of the file)."""

    file: str
    line: int
    top: str
    whole: str


def warn_of_pickle(flow: Flow) -> None:
    """Warn of each module of the flow's folder that is imported inside a function: it is not in the pickle."""
    if flow.file is None:
        return
    modules = {module.__name__ for module in own_modules(flow)}
    functions = _functions(flow.function, modules | {flow.module or ""})
    imports = [found for function in functions for found in _inside(function.__code__, function.__globals__)]
    for found, root in _left_behind(imports, Path(flow.file)):
        _warn(
            found,
            f"flow {flow.name!r}: {found.whole!r} is imported inside a function, so it is not in the pickle and a run"
            " will not find it; import it at the top of the file, or store the flow with its folder:"
            f" {_with_folder(flow, root)}",
        )


def _with_folder(flow: Flow, root: Path) -> str:
    """How the storage of ``flow`` is made to take that folder along."""
    kind = type(flow.storage).__name__
    return f"{kind}({'' if kind == 'Local' else '..., '}stored_as_script=True, root={str(root)!r})"


def warn_of_script(flow: Flow, script: Path, way: str | None = None) -> None:
    """Warn of each module beside ``script`` that it imports: only the file itself comes along.

    ``way`` is how its storage is made to take the folder, where that folder is none of this machine.
    """
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # whoever loads it says so
    imports = [found for node in ast.walk(tree) for found in _statement(node, str(script))]
    for found, root in _left_behind(imports, script):
        _warn(
            found,
            f"flow {flow.name!r}: {found.whole!r} lies beside the script, and only the script is stored, so a run will"
            f" not find it; store its folder too: {way or _with_folder(flow, root)}",
        )


def _warn(found: _Import, message: str) -> None:
    warnings.warn_explicit(message, UserWarning, found.file, found.line)  # shows the author's line


# Which modules a run will not find


def _left_behind(imports: Iterable[_Import], file: Path) -> list[tuple[_Import, Path]]:
    """Those that are found only because the flow's folder is on the path now, each module once, with that folder."""
    root = _root(file)
    found: dict[str, tuple[_Import, str, Path]] = {}
    for each in imports:
        top = each.top or file.resolve().relative_to(root).with_suffix("").parts[0]
        if (folder := _folder_of(top, file, root)) is not None:
            found.setdefault(each.whole, (each, top, folder))
    lasting = _found_anyway({top for _, top, _ in found.values()})
    return [(each, folder) for each, top, folder in found.values() if top not in lasting]


def _root(file: Path) -> Path:
    """The folder from which ``file`` can be imported by its full name."""
    root = file.resolve().parent
    while (root / "__init__.py").is_file() and root != root.parent:
        root = root.parent
    return root


def _folder_of(top: str, file: Path, root: Path) -> Path | None:
    """Where the top-level module lies, if it is one of the author's, at or below ``root``."""
    if top in sys.stdlib_module_names or top in ("flow_agent", "cloudpickle"):
        return None
    spec = PathFinder.find_spec(top, [str(file.resolve().parent), str(root), *sys.path])
    if spec is None:
        return None
    places = [*([spec.origin] if spec.has_location and spec.origin else []), *(spec.submodule_search_locations or [])]
    place = Path(places[0]).resolve() if places else None
    if place is None or not place.is_relative_to(root) or installed(place, root):
        return None
    return place.parent.parent if place.name == "__init__.py" else place.parent


def _found_anyway(names: Iterable[str]) -> set[str]:
    """Those that the interpreter finds without the flow's folder, as what is installed in editable form."""
    wanted = sorted(names)
    if not wanted or not sys.executable:
        return set()
    code = "import sys\nfrom importlib.util import find_spec\nprint(*[n for n in sys.argv[1:] if find_spec(n)])"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *wanted],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(done.stdout.split())


# Import statements in source


def _statement(node: ast.AST, file: str) -> Iterator[_Import]:
    match node:
        case ast.Import():
            for alias in node.names:
                yield _Import(file, node.lineno, alias.name.partition(".")[0], alias.name)
        case ast.ImportFrom(level=0, module=str(module)):
            yield _Import(file, node.lineno, module.partition(".")[0], module)
        case ast.ImportFrom():
            yield _Import(file, node.lineno, "", "." * node.level + (node.module or ""))


# Import statements in what is pickled


def _inside(code: CodeType, names: Mapping[str, Any]) -> Iterator[_Import]:
    """Those of ``code`` and of the functions in it."""
    before: list[Any] = [None, None]  # level and names of a `from`, which are loaded right before
    for step in dis.get_instructions(code):
        if step.opname == "EXTENDED_ARG":
            continue
        if step.opname == "IMPORT_NAME":
            level = before[0] if isinstance(before[0], int) else 0
            line = step.positions.lineno if step.positions else None
            dotted = "." * level + str(step.argval)
            top = "" if level else str(step.argval).partition(".")[0]
            yield _Import(code.co_filename, line or code.co_firstlineno, top, dotted)
        before = [before[1], step.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _inside(constant, names)


def _functions(value: Any, modules: set[str]) -> list[FunctionType]:
    """``value`` and the functions of the author's modules that it uses, as far as names tell."""
    found: list[FunctionType] = []
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, FunctionType):
            if part.__module__ in modules:
                found.append(part)
                waiting += _used(part, modules)
        else:
            waiting += _behind(part, modules)
    return found


def _behind(value: Any, modules: set[str]) -> list[Any]:
    """The functions in what is called like one."""
    match value:
        case type():
            return list(vars(value).values()) if value.__module__ in modules else []
        case partial():
            return [value.func]
        case staticmethod() | classmethod():
            return [value.__func__]
        case property():
            return [value.fget, value.fset, value.fdel]
        case ModuleType():
            return []
        case _:
            return [part for part in (getattr(value, "__func__", None), type(value)) if part is not None]


def _used(function: FunctionType, modules: set[str]) -> list[Any]:
    names = _names(function.__code__)
    used = [function.__globals__[name] for name in names if name in function.__globals__]
    for part in list(used):
        if isinstance(part, ModuleType) and part.__name__ in modules:
            used += [vars(part)[name] for name in names if name in vars(part)]
    for cell in function.__closure__ or ():
        try:
            used.append(cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    return [*used, getattr(function, "__wrapped__", None)]


def _names(code: CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)
