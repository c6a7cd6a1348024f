"""Flows in repositories of AWS CodeCommit."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from flow_agent.checks import secret_name, texts
from flow_agent.results.s3 import checked_client
from flow_agent.storages.repository import RepositoryStorage

if TYPE_CHECKING:
    from flow_agent.flow import Described
    from flow_agent.hosts.base import Repository
    from flow_agent.model import Json
    from flow_agent.ports import SecretResolver


class CodeCommit(RepositoryStorage):
    """Reads a flow from ``path`` of the CodeCommit repository ``repo``.

    ``commit`` is a branch, a tag or a commit. ``client_options`` are arguments of ``boto3.client`` and hold no
    credentials: these are those of the secret ``credentials_secret``, else ``AWS_CREDENTIALS``, else what boto3 finds.
    The other arguments are those of ``RepositoryStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "codecommit-flow-storage"
    ref_name = "commit"

    def __init__(
        self,
        repo: str,
        path: str | None = None,
        commit: str | None = None,
        client_options: dict[str, Any] | None = None,
        *,
        credentials_secret: str | None = None,
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
            ref=commit,
            root=root,
            pin=pin,
            stored_as_script=stored_as_script,
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
        )
        (self.repo,) = texts([repo], what="CodeCommit: repo")
        self.client_options = checked_client("CodeCommit", client_options)
        self.credentials_secret = secret_name(credentials_secret, what="CodeCommit: credentials_secret")

    def repository_options(self) -> dict[str, Json]:
        """See :meth:`RepositoryStorage.repository_options`."""
        return {
            "repo": self.repo,
            "client_options": self.client_options,
            "credentials_secret": self.credentials_secret,
        }

    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[Repository]:
        """See :meth:`RepositoryStorage.connect`."""
        from flow_agent.hosts import codecommit

        return codecommit.connect(self.repo, self.client_options, self.credentials_secret, secrets)
