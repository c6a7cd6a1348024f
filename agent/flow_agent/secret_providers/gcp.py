"""Secrets in Google Secret Manager, by its REST API."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flow_agent.errors import InvalidInput, SecretNotFound, SecretUnavailable, StoreError
from flow_agent.objects import google
from flow_agent.secret_providers import http
from flow_agent.secret_providers.urls import parts

if TYPE_CHECKING:
    import httpx

ADDRESS = "https://secretmanager.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
OPTIONS = ("prefix", "endpoint", "location")


class _None:
    """The agent's own credentials are Google's application default ones: a secret that unlocks secrets goes round."""

    async def get(self, name: str) -> str:
        raise SecretNotFound(f"secret {name!r} is not used here")


class GcpSecrets:
    """Serves the newest versions of the secrets of ``project`` whose names begin with ``prefix``."""

    def __init__(self, client: httpx.AsyncClient, project: str, prefix: str, address: str) -> None:
        self._client, self._project, self._prefix, self._address = client, project, prefix, address
        self.where = f"Google Secret Manager of {project}"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`.

        Raises SecretNotFound: this agent may not read it, or it is no text. SecretUnavailable: there was no answer.
        """
        if not name.replace("-", "").replace("_", "").isalnum():
            return None  # it could not be called so there
        try:
            account, source = await google.account(_None(), None, SCOPE)
            headers = await account.headers(self.where)
        except (StoreError, TimeoutError) as error:
            transient = getattr(error, "transient", True)
            raise (SecretUnavailable if transient else SecretNotFound)(
                str(error), hint=getattr(error, "hint", None)
            ) from error
        url = f"{self._address}/projects/{self._project}/secrets/{self._prefix}{name}/versions/latest:access"
        answer = await http.ask(self._client, self.where, "GET", url, headers=headers)
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise SecretNotFound(
                f"{self.where} answers {answer.status_code} for {name}; credentials: {source}",
                hint="give this account the role Secret Manager Secret Accessor, and see that the version is enabled",
            )
        try:
            data = base64.b64decode(http.fields(answer, self.where)["payload"]["data"], validate=True)
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise SecretNotFound(f"{self.where}, {name} is binary, expected text", hint="store it as text") from None
        except (KeyError, TypeError, ValueError):
            raise SecretUnavailable(f"{self.where} answers for {name} with something that is no secret") from None


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[GcpSecrets]:
    """``gcp:PROJECT?prefix=flows-``; ``location`` asks the service of that region, ``endpoint`` is another address.

    Raises InvalidInput.
    """
    project, options = parts("gcp", rest, OPTIONS)
    if not project:
        raise InvalidInput("secrets provider gcp: names no project, expected gcp:PROJECT")
    location = options.get("location")
    address = options.get("endpoint") or (
        f"https://secretmanager.{location}.rep.googleapis.com" if location else ADDRESS
    )
    if location:
        project = f"{project}/locations/{location}"
    async with http.client() as client:
        yield GcpSecrets(client, project, options.get("prefix", ""), f"{address}/v1")
