"""Where flows are stored: one module per storage, imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow_agent.storages.azure import Azure
    from flow_agent.storages.base import Storage
    from flow_agent.storages.bitbucket import Bitbucket
    from flow_agent.storages.codecommit import CodeCommit
    from flow_agent.storages.docker import Docker
    from flow_agent.storages.gcs import GCS
    from flow_agent.storages.git import Git
    from flow_agent.storages.github import GitHub
    from flow_agent.storages.gitlab import GitLab
    from flow_agent.storages.local import Local
    from flow_agent.storages.module import Module
    from flow_agent.storages.s3 import S3
    from flow_agent.storages.webhook import Webhook

__all__ = [
    "GCS",
    "S3",
    "Azure",
    "Bitbucket",
    "CodeCommit",
    "Docker",
    "Git",
    "GitHub",
    "GitLab",
    "Local",
    "Module",
    "Storage",
    "Webhook",
]

_MODULES = {name: "base" if name == "Storage" else name.lower() for name in __all__}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"no storage is called {name!r}; flow_agent.storages has {', '.join(__all__)}")
    value: object = getattr(importlib.import_module(f"flow_agent.storages.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
