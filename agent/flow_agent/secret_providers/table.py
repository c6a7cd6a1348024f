"""Secrets in the ``[secrets]`` table of the settings file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any


class TableSecrets:
    """Serves texts as they are, and tables as JSON."""

    where = "[secrets] of the settings file"

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`."""
        value = self._table.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value)


@asynccontextmanager
async def open_provider(table: Mapping[str, Any]) -> AsyncIterator[TableSecrets]:
    """Not by URL: the values are the settings' own."""
    yield TableSecrets(table)
