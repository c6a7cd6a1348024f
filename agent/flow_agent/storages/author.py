"""The secrets of the registering machine, for storages that need some to store or to look."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flow_agent.ports import SecretResolver


def secrets() -> AbstractAsyncContextManager[SecretResolver]:
    """What this machine has: its environment, its files of secrets, its settings."""
    from flow_agent.client import own_secrets

    return own_secrets()
