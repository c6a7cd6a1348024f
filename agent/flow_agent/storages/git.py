"""Flows in any repository that the program git can reach."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flow_agent.checks import secret_name
from flow_agent.storages.repository import RepositoryStorage, checked_ref

if TYPE_CHECKING:
    from flow_agent.flow import Described
    from flow_agent.hosts.base import Repository
    from flow_agent.model import Json
    from flow_agent.ports import SecretResolver

_URL = re.compile(r"(https?|ssh)://[^\s]+")
_SCP = re.compile(r"[\w.-]+@[\w.-]+:[^\s:][^\s]*")
_HOST = re.compile(r"[\w.-]+(:\d+)?")


class Git(RepositoryStorage):
    """Reads a flow from ``flow_path`` of a repository, over HTTPS or SSH.

    ``repo`` is ``owner/name`` on ``repo_host``, or a whole address (``https://...``, ``ssh://...``, ``git@host:...``);
    or the secret ``git_clone_url_secret_name`` holds the address. One of ``branch_name``, ``tag`` and ``commit`` may
    say what is fetched; else the default branch is. With ``use_ssh`` the agent's user needs a key. Over HTTPS, the
    secret ``git_token_secret_name`` is a token, for the user ``git_token_username`` (``owner`` unless given);
    ``format_access_token=False`` gives the token alone, as some hosts want it. ``clone_depth`` is the number of commits
    that are fetched (None: all). With ``root``, submodules come along. The other arguments are those of
    ``RepositoryStorage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    default_label = "git-flow-storage"
    path_name = "flow_path"

    def __init__(  # noqa: PLR0917 - the order of the older system
        self,
        flow_path: str,
        repo: str | None = None,
        repo_host: str = "github.com",
        flow_name: str | None = None,
        git_token_secret_name: str | None = None,
        git_token_username: str | None = None,
        git_clone_url_secret_name: str | None = None,
        branch_name: str | None = None,
        tag: str | None = None,
        commit: str | None = None,
        clone_depth: int | None = 1,
        use_ssh: bool = False,
        format_access_token: bool = True,
        *,
        root: str | None = None,
        pin: bool = False,
        stored_as_script: bool = True,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        refs = {"branch_name": branch_name, "tag": tag, "commit": commit}
        given = {name: checked_ref("Git", name, value) for name, value in refs.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"Git: {' and '.join(given)} are given, expected one of branch_name, tag and commit")
        prefix = {"branch_name": "refs/heads/", "tag": "refs/tags/"}
        ref = next((f"{prefix.get(name, '')}{value}" for name, value in given.items()), None)
        super().__init__(
            path=flow_path,
            ref=ref,
            root=root,
            pin=pin,
            stored_as_script=stored_as_script,
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
        )
        self.repo, self.repo_host, self.flow_name = repo, repo_host, flow_name
        self.branch_name, self.tag, self.commit = branch_name, tag, commit
        self.git_token_secret_name = secret_name(git_token_secret_name, what="Git: git_token_secret_name")
        self.git_token_username = git_token_username
        self.git_clone_url_secret_name = secret_name(git_clone_url_secret_name, what="Git: git_clone_url_secret_name")
        self.clone_depth, self.use_ssh, self.format_access_token = clone_depth, use_ssh, format_access_token
        self._check_place()

    def _check_place(self) -> None:
        if (self.repo is None) == (self.git_clone_url_secret_name is None):
            raise ValueError("Git: give either repo, or git_clone_url_secret_name, a secret with the whole address")
        if not _HOST.fullmatch(self.repo_host):
            raise ValueError(f"Git: repo_host is {self.repo_host!r}, expected the name of a host")
        if self.clone_depth is not None and (isinstance(self.clone_depth, bool) or self.clone_depth < 1):
            raise ValueError(f"Git: clone_depth is {self.clone_depth!r}, expected a number of commits, or None for all")
        if self.repo is None:
            return
        whole = _URL.fullmatch(self.repo) or _SCP.fullmatch(self.repo)
        if whole and re.match(r"https?://[^/]*@|[a-z]+://[^/]*:[^/@]*@", self.repo):
            raise ValueError(
                "Git: repo holds credentials, which would stand in the registration; name a secret with"
                " git_token_secret_name, or with git_clone_url_secret_name"
            )
        if not whole and not re.fullmatch(r"(?![-/.])[\w.-]+(/(?![-.])[\w.-]+)+", self.repo):
            raise ValueError(f"Git: repo is {self.repo!r}, expected 'owner/name', or an address with https or ssh")

    def repository_options(self) -> dict[str, Json]:
        """See :meth:`RepositoryStorage.repository_options`."""
        return {
            name: getattr(self, name)
            for name in (
                "repo",
                "repo_host",
                "flow_name",
                "git_token_secret_name",
                "git_token_username",
                "git_clone_url_secret_name",
                "branch_name",
                "tag",
                "commit",
                "clone_depth",
                "use_ssh",
                "format_access_token",
            )
        }

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`."""
        return {name: value for name, value in super().options().items() if name != "ref"}

    @asynccontextmanager
    async def connect(self, secrets: SecretResolver) -> AsyncIterator[Repository]:
        """See :meth:`RepositoryStorage.connect`."""
        from flow_agent.errors import StoreError
        from flow_agent.hosts import git
        from flow_agent.redact import known as redacted

        login, source = None, "none"
        if self.git_clone_url_secret_name is not None:
            secret = (await secrets.get(self.git_clone_url_secret_name)).strip()
            url, login = git.separated(secret)
            redacted.add(url)
            source = f"secret {self.git_clone_url_secret_name}"
            if not (_URL.fullmatch(url) or _SCP.fullmatch(url)):
                raise StoreError(f"{source} is no address with https or ssh", transient=False)
        else:
            url = self._address()
        if self.git_token_secret_name is not None:
            token = (await secrets.get(self.git_token_secret_name)).strip()
            user = self.git_token_username or url.partition("://")[2].partition("/")[2].partition("/")[0]
            login = (user, token) if self.format_access_token else (token, "")
            source = f"secret {self.git_token_secret_name}"
        yield git.GitRepository(url, login, source, self.clone_depth)

    def _address(self) -> str:
        repo = self.repo or ""
        if _URL.fullmatch(repo) or _SCP.fullmatch(repo):
            return repo
        name = repo.removesuffix(".git")
        return f"git@{self.repo_host}:{name}.git" if self.use_ssh else f"https://{self.repo_host}/{name}.git"
