"""Makes flows of ours of what others wrote: flows of Prefect 1, of Prefect 2 and 3, and plain functions.

Runs where a file is registered, in the process that loads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from flow_agent import prefect1
from flow_agent.flow import Flow
from flow_agent.runner import foreign
from flow_agent.storages.base import Storage


def adopted(found: Any, file: str | None, module: str | None) -> Flow:
    """``found`` as a flow of ours, to be registered; one that is ours already stays itself.

    ``file`` and ``module`` are where it was loaded from. What names no storage is pickled, with the author's modules.

    Raises RegistrationError, TypeError, ValueError: what it says of itself cannot be ours.
    """
    if isinstance(found, Flow):
        return found
    kind = foreign.framework(found)
    if kind is None:
        flow = Flow(found.__name__, found)
    elif kind == "prefect1":
        flow = _of_prefect1(found, file)
    else:
        flow = Flow(str(found.name), foreign.Callee(found))
    flow.file, flow.module = file, module
    return flow


def _of_prefect1(found: Any, file: str | None, storage: Storage | None = None) -> Flow:
    def warn(text: str) -> None:
        warnings.warn_explicit(text, UserWarning, file or "the stored flow", 1)

    said = prefect1.translated(found, warn)
    flow = Flow(
        str(found.name),
        foreign.Callee(found),
        storage=storage or said.storage,
        run_config=said.run_config,
        secrets=said.secrets,
    )
    if storage is not None:
        flow.labels = said.labels
    return flow


def placed(found: Any, storage: Storage, file: str | None) -> Flow:
    """``found``, which lies in ``storage`` already, as a flow of ours; what it says of its own storage is left out.

    Raises as :func:`adopted`.
    """
    if isinstance(found, Flow):
        found.storage = storage
        return found
    if foreign.framework(found) == "prefect1":
        flow = _of_prefect1(found, file, storage)
    elif foreign.framework(found) is not None:
        flow = Flow(str(found.name), foreign.Callee(found), storage=storage)
    else:
        flow = Flow(_name(found), found, storage=storage)
    flow.file = file
    return flow


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
