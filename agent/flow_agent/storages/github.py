"""Flows in repositories of GitHub."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flow_agent.checks import secret_name, texts
from flow_agent.storages.repository import RepositoryStorage, checked_host

if TYPE_CHECKING:
    from flow_agent.flow import Described
    from flow_agent.hosts.base import Repository
    from flow_agent.model import Json
    from flow_agent.ports import SecretResolver


class GitHub(RepositoryStorage):
    """Reads a flow from ``path`` of the GitHub repository ``repo`` (``owner/name``).

    ``base_url`` is the address of the API of a GitHub Enterprise (``https://github.example.org/api/v3``). The token is
    the secret ``access_token_secret``, else the secret ``GITHUB_ACCESS_TOKEN`` if there is one (only for github.com and
    hosts in the setting ``secrets.hosts``), else none. The other arguments are those of ``RepositoryStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "github-flow-storage"

    def __init__(
        self,
        repo: str,
        path: str | None = None,
        ref: str | None = None,
        access_token_secret: str | None = None,
        base_url: str | None = None,
        *,
        root: str | None = None,
        pin: bool = False,
        stored_as_script: bool = True,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        super().__init__(
            path=path,
            ref=ref,
            root=root,
            pin=pin,
            stored_as_script=stored_as_script,
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
        )
        (self.repo,) = texts([repo], what="GitHub: repo")
        if self.repo.count("/") != 1 or {"", ".", ".."} & set(self.repo.split("/")):
            raise ValueError(f"GitHub: repo is {repo!r}, expected 'owner/name'")
        self.access_token_secret = secret_name(access_token_secret, what="GitHub: access_token_secret")
        self.base_url = base_url and checked_host("GitHub", "base_url", base_url, "https://github.example.org/api/v3")

    def repository_options(self) -> dict[str, Json]:
        """See :meth:`RepositoryStorage.repository_options`."""
        return {"repo": self.repo, "access_token_secret": self.access_token_secret, "base_url": self.base_url}

    @asynccontextmanager
    async def connect(self, secrets: SecretResolver) -> AsyncIterator[Repository]:
        """See :meth:`RepositoryStorage.connect`."""
        from flow_agent.hosts import github, http, tokens

        api = self.base_url or github.API
        own = api == github.API
        token, source = await tokens.token(secrets, self.access_token_secret, "GITHUB_ACCESS_TOKEN", api, own=own)
        async with http.client() as client:
            yield github.GitHubRepository(client, api, self.repo, token, source)
