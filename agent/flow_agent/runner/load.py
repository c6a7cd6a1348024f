"""Loads a flow's script as a module and finds flows in it. Standard library only."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from flow_agent.flow import Flow, loading
from flow_agent.runner import foreign


class NoSuchFlow(LookupError):
    """A script or module was loaded and lacks the flow: not to be taken for a KeyError of its own."""


class _Source(SourceFileLoader):
    """Takes the file as it is: cached bytecode misses an edit that keeps size and second."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - what importlib asks for
        return self.source_to_code(self.get_data(self.path), self.path)


def load_script(root: Path, path: str) -> ModuleType:
    """Execute the file ``path`` below the folder ``root`` as a module, and give it; main-guards do not run.

    The file's folder and ``root`` come first on ``sys.path``. The module is called by the file's stem, with the
    packages between ``root`` and it, if there are any, so that relative imports work; where another module has that
    name, ``flow_`` is put before the stem.

    Raises whatever the file raises; FileNotFoundError: there is no such file.
    """
    root = root.absolute()
    file = root / path
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {path} in {root}")
    for folder in dict.fromkeys([root, file.parent]):
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    name = _module_name(root, file)
    spec = spec_from_file_location(name, file, loader=_Source(name, str(file)))
    assert spec is not None  # a loader was given
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        with loading(), foreign.loading(file.read_bytes()):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _module_name(root: Path, file: Path) -> str:
    packages: list[str] = []
    folder = file.parent
    while folder != root and (folder / "__init__.py").is_file():
        packages.insert(0, folder.name)
        folder = folder.parent
    dotted = ".".join([*packages, file.stem])
    # Only from the root is a package found by its name.
    if packages and folder == root and _free(packages[0], root / packages[0] / "__init__.py") and _free(dotted, file):
        return dotted
    return file.stem if _free(file.stem, file) else f"flow_{file.stem}"


def _free(name: str, file: Path) -> bool:
    """Whether nothing but ``file`` has a claim to the module's name."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None) == str(file)
    return name not in sys.stdlib_module_names


def flow_of_module(name: str, attribute: str | None, flow: str) -> Any:
    """The flow called ``flow`` of the installed module ``name``: one of its flows, or what ``attribute`` is or makes.

    As :func:`find_flow` gives it.

    Raises NoSuchFlow: there is no such module, attribute or flow. Whatever the module raises.
    """
    try:
        with loading():
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise NoSuchFlow(f"there is no module {name} in {sys.executable}: {error}") from None
    if attribute is None:
        return find_flow(module, flow)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NoSuchFlow(f"module {name} has no {attribute}")
        found = getattr(found, part)
    if isinstance(found, FunctionType):
        if found.__name__ == flow:
            return found
        found = found()
    if (called := name_of(found)) == flow:
        return found
    what = f"the flow {called!r}" if called is not None else f"a {type(found).__name__}"
    raise NoSuchFlow(f"{name}:{attribute} is {what}, expected the flow {flow!r}, or a function that makes it")


def name_of(value: object) -> str | None:
    """What a flow is called, ours or another framework's; None: it is no flow."""
    if isinstance(value, Flow):
        return value.name
    return str(value.name) if foreign.framework(value) is not None else None  # type: ignore[attr-defined]  # a framework has it


def flows_of(module: ModuleType) -> list[Any]:
    """The flows among the module's names, each once: ours in the order in which they were made, then others'."""
    values = {id(value): value for value in vars(module).values()}.values()
    ours = sorted((value for value in values if isinstance(value, Flow)), key=lambda flow: flow.number)
    return [*ours, *(value for value in values if foreign.framework(value) is not None)]


def find_flow(module: ModuleType, name: str, place: str | None = None) -> Any:
    """The flow called ``name`` in ``module``, ours or another framework's; if there is none, the function ``name``.

    ``place`` is what people know the module as; its file unless given.

    Raises NoSuchFlow: there is none; the message lists those that were found.
    """
    flows = flows_of(module)
    for flow in flows:
        if name_of(flow) == name:
            return flow
    function = vars(module).get(name)
    if isinstance(function, FunctionType):
        return function
    found = f"found: {', '.join(repr(name_of(flow)) for flow in flows)}" if flows else "it has no flow at all"
    raise NoSuchFlow(f"there is no flow {name!r} in {place or getattr(module, '__file__', module.__name__)}; {found}")
