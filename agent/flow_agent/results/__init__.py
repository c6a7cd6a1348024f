"""Where return values are kept: one module per kind, imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow_agent.results.azure import AzureResult
    from flow_agent.results.gcs import GCSResult
    from flow_agent.results.local import LocalResult
    from flow_agent.results.s3 import S3Result

__all__ = ["AzureResult", "GCSResult", "LocalResult", "S3Result"]

_MODULES = {"AzureResult": "azure", "GCSResult": "gcs", "LocalResult": "local", "S3Result": "s3"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"no result is called {name!r}; flow_agent.results has {', '.join(__all__)}")
    value: object = getattr(importlib.import_module(f"flow_agent.results.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
