"""Secrets from the agent's own environment variables."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping

from flow_agent.errors import SecretNotFound

NEVER_SERVED = (
    "FLOW_AGENT_*",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN*",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_*",
    "AZURE_FEDERATED_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "VAULT_TOKEN",
)
"""Names that no run gets, whoever asks: the agent's own settings and credentials."""


class EnvironmentSecrets:
    """Serves variables of ``environment`` as they were when the agent started."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)

    async def get(self, name: str) -> str:
        """The variable's value, as it is.

        Raises SecretNotFound: there is none, or it is one that is never served.
        """
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in NEVER_SERVED):
            raise SecretNotFound(
                f"secret {name!r} is one of the agent's own settings or credentials, which no run gets",
                hint="keep the value under another name",
            )
        if (value := self._environment.get(name)) is None:
            raise SecretNotFound(
                f"secret {name!r} was not found; looked in: environment of the agent",
                hint=f"set the variable {name} where the agent is started",
            )
        return value
