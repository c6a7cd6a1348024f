"""Secrets from the agent's own environment variables."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager


class EnvironmentSecrets:
    """Serves variables of ``environment`` as they were when the agent started; those that fit ``allow``, if given."""

    where = "environment of the agent"

    def __init__(self, allow: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._allow = tuple(allow)
        self._environment = dict(os.environ if environment is None else environment)

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`."""
        if self._allow and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._allow):
            return None
        return self._environment.get(name)


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[EnvironmentSecrets]:
    """``environment:PATTERN,PATTERN``."""
    yield EnvironmentSecrets([pattern for pattern in rest.split(",") if pattern])
