"""Flows in repositories of Bitbucket, Cloud or Server."""
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


class Bitbucket(RepositoryStorage):
    """Reads a flow from ``path`` of the Bitbucket repository ``repo``.

    With ``workspace`` it lies in Bitbucket Cloud; with ``host`` in project ``project`` of a Bitbucket Server or Data
    Center. Credentials are a token, the secret ``access_token_secret``; in Cloud also a user, or the address of one,
    and an app password or API token, the secrets ``cloud_username_secret`` and ``cloud_app_password_secret``. Without
    names, ``BITBUCKET_CLOUD_USERNAME`` with ``BITBUCKET_CLOUD_APP_PASSWORD``, else ``BITBUCKET_ACCESS_TOKEN``, are used
    if they are there (for a ``host`` only the last one, and only if the setting ``secrets.hosts`` has it), else none.
    The other arguments are those of ``RepositoryStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "bitbucket-flow-storage"

    def __init__(  # noqa: PLR0917 - the order of the older system
        self,
        project: str | None = None,
        repo: str | None = None,
        workspace: str | None = None,
        host: str | None = None,
        path: str | None = None,
        ref: str | None = None,
        access_token_secret: str | None = None,
        cloud_username_secret: str | None = None,
        cloud_app_password_secret: str | None = None,
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
        (self.repo,) = texts([repo or ""], what="Bitbucket: repo")
        self.project, self.workspace = project, workspace
        self.host = host and checked_host("Bitbucket", "host", host, "https://bitbucket.example.org")
        self.access_token_secret = secret_name(access_token_secret, what="Bitbucket: access_token_secret")
        self.cloud_username_secret = secret_name(cloud_username_secret, what="Bitbucket: cloud_username_secret")
        self.cloud_app_password_secret = secret_name(
            cloud_app_password_secret, what="Bitbucket: cloud_app_password_secret"
        )
        self._check_place()

    def _check_place(self) -> None:
        if bool(self.workspace) == bool(self.host):
            raise ValueError(
                "Bitbucket: give either workspace, for Bitbucket Cloud, or host, for a Bitbucket Server"
                f"; workspace is {self.workspace!r}, host is {self.host!r}"
            )
        if self.host and not self.project:
            raise ValueError("Bitbucket: a Bitbucket Server has its repositories in projects; give project")
        user = (self.cloud_username_secret, self.cloud_app_password_secret)
        if any(user) and (not all(user) or self.host or self.access_token_secret):
            raise ValueError(
                "Bitbucket: cloud_username_secret and cloud_app_password_secret go together, for Bitbucket Cloud, and"
                " without access_token_secret"
            )

    def repository_options(self) -> dict[str, Json]:
        """See :meth:`RepositoryStorage.repository_options`."""
        return {
            "project": self.project,
            "repo": self.repo,
            "workspace": self.workspace,
            "host": self.host,
            "access_token_secret": self.access_token_secret,
            "cloud_username_secret": self.cloud_username_secret,
            "cloud_app_password_secret": self.cloud_app_password_secret,
        }

    @asynccontextmanager
    async def connect(self, secrets: SecretResolver) -> AsyncIterator[Repository]:
        """See :meth:`RepositoryStorage.connect`."""
        from flow_agent.hosts import bitbucket, http, tokens

        async with http.client() as client:
            if self.workspace:
                headers, source = await tokens.user_or_token(
                    secrets,
                    self.access_token_secret,
                    (self.cloud_username_secret, self.cloud_app_password_secret),
                )
                yield bitbucket.CloudRepository(client, self.workspace, self.repo, headers, source)
                return
            host = self.host or ""
            token, source = await tokens.token(
                secrets, self.access_token_secret, "BITBUCKET_ACCESS_TOKEN", host, own=False
            )
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            yield bitbucket.ServerRepository(client, host, self.project or "", self.repo, headers, source)
