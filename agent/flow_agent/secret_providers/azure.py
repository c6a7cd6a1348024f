"""Secrets in Azure Key Vault."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from flow_agent.errors import InvalidInput, SecretNotFound, SecretUnavailable, StoreError
from flow_agent.objects.base import sdk
from flow_agent.secret_providers.urls import parts

WITHIN = 15.0
"""Seconds for one secret, with the token that it may need."""


class AzureSecrets:
    """Serves the secrets of one vault; names there have no ``_``, so ``API_TOKEN`` is looked for as ``API-TOKEN``."""

    def __init__(self, address: str, prefix: str) -> None:
        self._address, self._prefix = address, prefix
        self._client: Any = None
        self._credential: Any = None
        self.where = f"Azure Key Vault {address}"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`.

        Raises SecretNotFound: this agent may not read it, or has no identity. SecretUnavailable: there was no answer.
        """
        wanted = self._prefix + name.replace("_", "-")
        if not wanted.replace("-", "").isalnum():
            return None  # it could not be called so there
        client = await self._opened()
        try:
            with anyio.fail_after(WITHIN):
                found = await client.get_secret(wanted)
        except TimeoutError:
            raise SecretUnavailable(f"{self.where} does not answer within {WITHIN:g} s") from None
        except Exception as error:
            if getattr(error, "status_code", None) == 404:
                return None
            raise self._explained(name, error) from error
        return None if found.value is None else str(found.value)

    async def _opened(self) -> Any:
        if self._client is None:
            try:
                secrets = await sdk("azure.keyvault.secrets.aio", "azure", self.where)
                identity = await sdk("azure.identity.aio", "azure", self.where)
            except StoreError as error:
                raise SecretNotFound(str(error), hint=error.hint) from error
            self._credential = identity.DefaultAzureCredential()
            self._client = secrets.SecretClient(self._address, self._credential, retry_total=0)
        return self._client

    def _explained(self, name: str, error: Exception) -> SecretNotFound | SecretUnavailable:
        status = getattr(error, "status_code", None)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        said = " ".join(str(error).split())[:600]  # that of an identity lists the ways that were tried
        if status is None and kinds & {"ClientAuthenticationError", "CredentialUnavailableError"}:
            return SecretNotFound(
                f"{self.where}, {name}: there is no token for it: {said}",
                hint="give this machine an identity, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
            )
        if status in (401, 403):
            return SecretNotFound(
                f"{self.where} does not let this agent read {name}: {said}",
                hint="give its identity the role Key Vault Secrets User",
            )
        return SecretUnavailable(f"{self.where} does not answer: {type(error).__name__}: {said}")

    async def close(self) -> None:
        """Close what was opened."""
        for each in (self._client, self._credential):
            if each is not None:
                await each.close()


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[AzureSecrets]:
    """``azure:https://NAME.vault.azure.net?prefix=flows-``.

    Raises InvalidInput.
    """
    address, options = parts("azure", rest, ("prefix",))
    if not address.startswith("https://"):
        raise InvalidInput("secrets provider azure: names no vault, expected azure:https://NAME.vault.azure.net")
    provider = AzureSecrets(address, options.get("prefix", ""))
    try:
        yield provider
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await provider.close()
