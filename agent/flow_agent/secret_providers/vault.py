"""Secrets in HashiCorp Vault (or OpenBao), in its key-value store."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from flow_agent.errors import InvalidInput, SecretNotFound, SecretUnavailable
from flow_agent.secret_providers import http
from flow_agent.secret_providers.urls import parts

if TYPE_CHECKING:
    import httpx

OPTIONS = ("mount", "prefix", "version", "field", "auth", "role", "namespace", "auth_mount", "ca")
KUBERNETES_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - its place


class VaultSecrets:
    """Serves what lies at ``<mount>/<prefix><name>``: its ``field``, else its only value, else all of it as JSON."""

    def __init__(self, client: httpx.AsyncClient, address: str, options: Mapping[str, str]) -> None:
        self._client, self._options = client, options
        self._mount, self._prefix = options.get("mount", "secret"), options.get("prefix", "")
        self._token: str | None = None
        self._logging_in = anyio.Lock()
        self.where = f"Vault at {address}, {self._mount}/{self._prefix}"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`.

        Raises SecretNotFound: this agent may not read it. SecretUnavailable: there was no answer, or it is sealed.
        """
        if ".." in name or name.startswith("/"):
            return None
        middle = "data/" if self._options.get("version", "2") == "2" else ""
        path = f"/v1/{self._mount}/{middle}{self._prefix}{name}"
        answer = await self._asked(path, await self._current(None))
        if answer.status_code == 403 and self._options.get("auth", "token") != "token":
            # The token may have ended: another one is asked for once.
            answer = await self._asked(path, await self._current(self._token))
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise SecretNotFound(
                f"{self.where} answers {answer.status_code} for {name}",
                hint="let this agent's policy read it, and see that its token is still good",
            )
        data = http.fields(answer, self.where).get("data")
        if middle and isinstance(data, dict):
            data = data.get("data")
        return self._value(name, data)

    def _value(self, name: str, data: Any) -> str | None:
        if not isinstance(data, dict):
            return None  # its newest version was deleted
        field = self._options.get("field")
        if field is None and len(data) == 1:
            (field,) = data
        value = data if field is None else data.get(field)
        if value is None:
            raise SecretNotFound(f"{self.where}, {name} has no field {field!r}, it has {', '.join(sorted(data))}")
        return value if isinstance(value, str) else json.dumps(value)

    async def _asked(self, path: str, token: str) -> httpx.Response:
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        return await http.ask(self._client, self.where, "GET", path, headers=headers)

    async def _current(self, refused: str | None) -> str:
        """The token; another one than ``refused``."""
        async with self._logging_in:
            if self._token is None or self._token == refused:
                self._token = await self._login()
            return self._token

    async def _login(self) -> str:
        way = self._options.get("auth", "token")
        if way == "token":
            return await anyio.to_thread.run_sync(_own_token)
        mount = self._options.get("auth_mount", way)
        if way == "approle":
            body = {"role_id": os.environ.get("VAULT_ROLE_ID", ""), "secret_id": os.environ.get("VAULT_SECRET_ID", "")}
        else:
            body = {"role": self._options["role"], "jwt": await anyio.to_thread.run_sync(_jwt)}
        answer = await http.ask(self._client, self.where, "POST", f"/v1/auth/{mount}/login", json=body)
        if answer.status_code != 200:
            raise SecretNotFound(
                f"{self.where} answers {answer.status_code} to a login by {way}",
                hint="see the role, and for approle VAULT_ROLE_ID and VAULT_SECRET_ID",
            )
        try:
            return str(http.fields(answer, self.where)["auth"]["client_token"])
        except (KeyError, TypeError):
            raise SecretUnavailable(f"{self.where} answers a login without a token") from None


def _own_token() -> str:
    if token := os.environ.get("VAULT_TOKEN"):
        return token
    try:
        return Path("~/.vault-token").expanduser().read_text(encoding="utf-8").strip()
    except OSError:
        raise SecretNotFound(
            "there is no token for Vault", hint="set VAULT_TOKEN, or choose another way: vault:...?auth=kubernetes"
        ) from None


def _jwt() -> str:
    path = os.environ.get("VAULT_KUBERNETES_TOKEN_FILE", KUBERNETES_TOKEN)
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SecretNotFound(f"the token of the service account cannot be read: {error}") from error


@asynccontextmanager
async def open_provider(rest: str) -> AsyncIterator[VaultSecrets]:
    """``vault:https://vault:8200?mount=secret&prefix=flows/&auth=approle``.

    ``version`` is 1 or 2 (the default) of the key-value store, ``field`` the one to take, ``auth`` one of token,
    approle and kubernetes (with ``role``), ``auth_mount`` where that is mounted, ``ca`` a file with the authority's
    certificate. Without an address ``VAULT_ADDR`` is used, without a namespace ``VAULT_NAMESPACE``.

    Raises InvalidInput.
    """
    address, options = parts("vault", rest, OPTIONS)
    address = address or os.environ.get("VAULT_ADDR", "")
    if not address.startswith(("http://", "https://")):
        raise InvalidInput("secrets provider vault: names no address, expected vault:https://HOST:8200, or VAULT_ADDR")
    if options.get("version", "2") not in ("1", "2"):
        raise InvalidInput("secrets provider vault: version is neither 1 nor 2")
    if options.get("auth", "token") not in ("token", "approle", "kubernetes"):
        raise InvalidInput("secrets provider vault: auth is none of token, approle, kubernetes")
    if options.get("auth") == "kubernetes" and "role" not in options:
        raise InvalidInput("secrets provider vault: auth=kubernetes needs a role")
    namespace = options.get("namespace") or os.environ.get("VAULT_NAMESPACE")
    headers = {"X-Vault-Namespace": namespace} if namespace else {}
    ca = options.get("ca") or os.environ.get("VAULT_CACERT")
    verify = {"verify": _context(ca)} if ca else {}
    async with http.client(base_url=address.rstrip("/"), headers=headers, **verify) as client:
        yield VaultSecrets(client, address, options)


def _context(ca: str) -> Any:
    import ssl  # noqa: PLC0415 - only where an authority is named

    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise InvalidInput(f"secrets provider vault: certificate {ca} cannot be read: {error.strerror}") from error
