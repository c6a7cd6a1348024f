"""Loads a flow's script as a module and finds flows in it. Standard library only."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from flow_agent.flow import Flow, loading


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
        with loading():
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


def flow_of_module(name: str, attribute: str | None, flow: str) -> Flow:
    """The flow called ``flow`` of the installed module ``name``: one of its flows, or what ``attribute`` is or makes.

    Raises LookupError: there is no such module, attribute or flow. Whatever the module raises.
    """
    try:
        with loading():
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise LookupError(f"there is no module {name} in {sys.executable}: {error}") from None
    if attribute is None:
        return find_flow(module, flow)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise LookupError(f"module {name} has no {attribute}")
        found = getattr(found, part)
    if not isinstance(found, Flow) and callable(found):
        found = found()
    if isinstance(found, Flow) and found.name == flow:
        return found
    what = f"the flow {found.name!r}" if isinstance(found, Flow) else f"a {type(found).__name__}"
    raise LookupError(f"{name}:{attribute} is {what}, expected the flow {flow!r}, or a function that makes it")


def flows_of(module: ModuleType) -> list[Flow]:
    """The flows among the module's names, each once, in the order in which they were made."""
    found = {id(value): value for value in vars(module).values() if isinstance(value, Flow)}
    return sorted(found.values(), key=lambda flow: flow.number)


def find_flow(module: ModuleType, name: str) -> Flow:
    """The flow called ``name`` in ``module``.

    Raises LookupError: there is none; the message lists those that were found.
    """
    flows = flows_of(module)
    for flow in flows:
        if flow.name == name:
            return flow
    found = f"found: {', '.join(repr(flow.name) for flow in flows)}" if flows else "it has no flow at all"
    raise LookupError(f"there is no flow {name!r} in {getattr(module, '__file__', module.__name__)}; {found}")
