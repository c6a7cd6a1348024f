"""flow-agent gets Python flows from wherever they are stored to wherever they should run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# `flow` is a decorator and a module. Importing the module here, once, and binding the decorator over it settles
# which of the two `from flow_agent import flow` gives; it is small and needs only the standard library.
from flow_agent.flow import Flow, current_run, flow

if TYPE_CHECKING:
    from flow_agent.client import Handle, submit
    from flow_agent.results import LocalResult
    from flow_agent.run_configs import DockerRun, LocalRun, Secret, UniversalRun
    from flow_agent.version import __version__

__all__ = [
    "DockerRun",
    "Flow",
    "Handle",
    "LocalResult",
    "LocalRun",
    "Secret",
    "UniversalRun",
    "__version__",
    "current_run",
    "flow",
    "submit",
]

_LATER = {
    "DockerRun": "run_configs",
    "Handle": "client",
    "LocalResult": "results",
    "LocalRun": "run_configs",
    "Secret": "run_configs",
    "UniversalRun": "run_configs",
    "__version__": "version",
    "submit": "client",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'flow_agent' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"flow_agent.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
