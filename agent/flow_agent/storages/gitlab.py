"""Flows in repositories of GitLab."""
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

_HOST = "https://gitlab.com"


class GitLab(RepositoryStorage):
    """Reads a flow from ``path`` of the GitLab project ``repo`` (``group/name``, or its number).

    ``host`` is the address of an installation of one's own. The token is the secret ``access_token_secret``, else the
    secret ``GITLAB_ACCESS_TOKEN`` if there is one (only for gitlab.com and hosts in the setting ``secrets.hosts``),
    else none. The other arguments are those of ``RepositoryStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "gitlab-flow-storage"

    def __init__(
        self,
        repo: str | int,
        host: str | None = None,
        path: str | None = None,
        ref: str | None = None,
        access_token_secret: str | None = None,
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
        (self.repo,) = texts([str(repo)], what="GitLab: repo")
        if not self.repo.isdigit() and ("/" not in self.repo or {"", ".", ".."} & set(self.repo.split("/"))):
            raise ValueError(f"GitLab: repo is {repo!r}, expected 'group/name', or the number of the project")
        self.host = host and checked_host("GitLab", "host", host, _HOST)
        self.access_token_secret = secret_name(access_token_secret, what="GitLab: access_token_secret")

    def repository_options(self) -> dict[str, Json]:
        """See :meth:`RepositoryStorage.repository_options`."""
        return {"repo": self.repo, "host": self.host, "access_token_secret": self.access_token_secret}

    @asynccontextmanager
    async def connect(self, secrets: SecretResolver) -> AsyncIterator[Repository]:
        """See :meth:`RepositoryStorage.connect`."""
        from flow_agent.hosts import gitlab, http, tokens

        host = self.host or _HOST
        own = host == _HOST
        token, source = await tokens.token(secrets, self.access_token_secret, "GITLAB_ACCESS_TOKEN", host, own=own)
        async with http.client() as client:
            yield gitlab.GitLabRepository(client, host, self.repo, token, source)
