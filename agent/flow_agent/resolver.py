"""Finds the values of secrets: asks each provider in turn, and keeps what must not be served from runs."""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from flow_agent import plugins
from flow_agent.errors import SecretNotFound
from flow_agent.model import Registration
from flow_agent.ports import SecretProvider
from flow_agent.redact import known

NEVER_SERVED = (
    "FLOW_AGENT_*",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN*",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_*",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "VAULT_TOKEN",
    "VAULT_SECRET_ID",
)
"""Names that nobody gets, whoever asks: the agent's own settings and credentials."""


class _Literals:
    """The values that a run config gives in its ``env``."""

    where = "env of the run config"

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    async def get(self, name: str) -> str | None:
        return self._values.get(name)


class Resolver:
    """Asks ``providers`` in their order; the first is the agent's environment, behind which a run config's stands.

    ``hosts`` are those of git and webhooks that default secrets may be sent to, beside the ones they are made for.
    """

    def __init__(self, providers: Sequence[SecretProvider], hosts: Iterable[str] = ()) -> None:
        self._providers = tuple(providers)
        self.hosts = frozenset(hosts)

    @property
    def providers(self) -> tuple[SecretProvider, ...]:
        """Those that are asked, in order."""
        return self._providers

    def for_run(self, registration: Registration) -> Resolver:
        """The resolver for a run: the literal values in its run config's ``env`` are looked at too."""
        env = registration.run_config.get("env") or {}
        literals = {name: value for name, value in env.items() if isinstance(value, str)}
        if not literals:
            return self
        return Resolver((*self._providers[:1], _Literals(literals), *self._providers[1:]), self.hosts)

    async def get(self, name: str) -> str:
        """The value of ``name``, which is kept out of logs and details from now on.

        Raises SecretNotFound: no provider has it (names each), or it is one that is never served. SecretUnavailable:
        a provider did not answer, and none before it had it.
        """
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in NEVER_SERVED):
            raise SecretNotFound(
                f"secret {name!r} is one of the agent's own settings or credentials, which no run gets",
                hint="keep the value under another name",
            )
        for provider in self._providers:
            if (value := await provider.get(name)) is not None:
                known.add(value)
                return value
        raise SecretNotFound(
            f"secret {name!r} was not found; looked in: {', '.join(each.where for each in self._providers)}",
            hint=f"`flow-agent secrets set {name}` on the agent's machine, or set the variable where it is started",
        )


@asynccontextmanager
async def opened(
    home: Path,
    *,
    folder: Path | None,
    allow: Sequence[str],
    table: Mapping[str, Any],
    providers: Sequence[str],
    hosts: Sequence[str] = (),
) -> AsyncIterator[Resolver]:
    """The resolver of the settings: environment, files in ``folder``, the home's own file, ``table``, ``providers``.

    ``allow`` are patterns of variables that may be served (empty: all); ``providers`` are URLs, such as
    ``vault:https://vault:8200?mount=kv``, whose scheme is the name of a plugin.

    Raises InvalidInput: there is no such provider, or its URL does not fit.
    """
    urls = [f"environment:{','.join(allow)}"]
    if folder is not None:
        urls.append(f"files:{folder}")
    urls.append(f"home:{home}")
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(_open(url)) for url in urls]
        if table:
            make = plugins.load("secret_providers", "table")
            found.append(await stack.enter_async_context(make(table)))
        found += [await stack.enter_async_context(_open(url)) for url in providers]
        yield Resolver(found, hosts)


def _open(url: str) -> Any:
    scheme, _, rest = url.partition(":")
    return plugins.load("secret_providers", scheme)(rest)
