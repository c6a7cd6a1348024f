"""Where flows are stored: one module per storage, imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow_agent.storages.azure import Azure
    from flow_agent.storages.base import Storage
    from flow_agent.storages.gcs import GCS
    from flow_agent.storages.local import Local
    from flow_agent.storages.s3 import S3

__all__ = ["GCS", "S3", "Azure", "Local", "Storage"]

_MODULES = {"Azure": "azure", "GCS": "gcs", "Local": "local", "S3": "s3", "Storage": "base"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"no storage is called {name!r}; flow_agent.storages has {', '.join(__all__)}")
    from importlib import import_module  # noqa: PLC0415 - not before it is needed

    value: object = getattr(import_module(f"flow_agent.storages.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
