"""Repositories of AWS CodeCommit, through boto3."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.hosts.base import Commit, Repository
from flow_agent.objects import aws_errors
from flow_agent.objects.aws import AwsClient, aws_client
from flow_agent.objects.base import ANSWER_WITHIN
from flow_agent.ports import SecretResolver

AT_ONCE = 8
"""Files of a folder that are fetched at a time."""
MOST_FILES = 10_000
MISSING = ("DoesNotExistException", "NameRequiredException", "InvalidCommitException", "InvalidPathException")


@asynccontextmanager
async def connect(
    repo: str, client_options: Mapping[str, Any], credentials_secret: str | None, secrets: SecretResolver
) -> AsyncIterator[Repository]:
    """The repository, with credentials as for S3."""
    async with aws_client("codecommit", client_options, secrets, credentials_secret, needs="CodeCommit") as client:
        yield CodeCommitRepository(client, repo)


class CodeCommitRepository(Repository):
    """One repository."""

    gives_folders = True

    def __init__(self, client: AwsClient, repo: str) -> None:
        self._client, self._repo = client, repo
        self.where = f"codecommit://{repo}"
        self.credentials = client.credentials

    async def _call(self, what: str, verb: str, field: str, **arguments: Any) -> Mapping[str, Any]:
        """The answer to ``verb``, which has ``field``: one that is cut off comes from boto3 as success without any."""
        work = partial(getattr(self._client.sdk, verb), **arguments)
        try:
            answer: Mapping[str, Any] = await self._client.call(what, ANSWER_WITHIN, work)
        except StoreError as error:
            if aws_errors.code(error.__cause__).endswith(MISSING):
                raise StoreError(
                    str(error), transient=False, missing=True, hint="see repository, commit and path"
                ) from (error.__cause__)
            raise
        if field not in answer:
            raise StoreError(f"{what}: the answer has no {field}; is this CodeCommit?", transient=True)
        return answer

    async def commit(self, ref: str | None, known: Commit | None = None) -> Commit | None:
        """See :meth:`Repository.commit`."""
        what = f"{self.where}, {ref or 'default branch'}"
        branch = ref
        if ref is None:
            facts = await self._call(what, "get_repository", "repositoryMetadata", repositoryName=self._repo)
            branch = facts["repositoryMetadata"].get("defaultBranch")
            if branch is None:
                raise StoreError(f"{what}: the repository is empty", transient=False, missing=True)
        name = await self._branch(what, str(branch)) or await self._other(what, str(branch))
        return None if known is not None and known.name == name else Commit(name)

    async def _branch(self, what: str, name: str) -> str | None:
        try:
            found = await self._call(
                what, "get_branch", "branch", repositoryName=self._repo, branchName=name.removeprefix("refs/heads/")
            )
        except StoreError as error:
            if aws_errors.code(error.__cause__) not in ("BranchDoesNotExistException", "InvalidBranchNameException"):
                raise
            return None
        return str(found["branch"]["commitId"])

    async def _other(self, what: str, name: str) -> str:
        """A tag, or a commit: nothing but reading a folder takes both."""
        arguments = {"repositoryName": self._repo, "commitSpecifier": name, "folderPath": "/"}
        found = await self._call(what, "get_folder", "commitId", **arguments)
        return str(found["commitId"])

    async def file(self, commit: str, path: str, into: Path) -> str:
        """See :meth:`Repository.file`; CodeCommit gives files of at most 6 MB."""
        what = f"{self.where}, {path} at {commit[:12]}"
        arguments = {"repositoryName": self._repo, "commitSpecifier": commit, "filePath": path}
        found = await self._call(what, "get_file", "fileContent", **arguments)
        data: bytes = found["fileContent"]

        def write() -> str:
            into.unlink(missing_ok=True)
            into.write_bytes(data)
            return hashlib.sha256(data).hexdigest()

        return await anyio.to_thread.run_sync(write)

    async def folder(self, commit: str, path: str, into: Path) -> None:
        """See :meth:`Repository.folder`; there are no archives, so it is fetched file by file."""
        await anyio.Path(into).mkdir(mode=0o700, parents=True, exist_ok=True)
        what = f"{self.where}, {path or 'repository'} at {commit[:12]}"
        files: list[tuple[str, bool]] = []
        left = [path]
        while left:
            arguments = {"repositoryName": self._repo, "commitSpecifier": commit, "folderPath": left.pop() or "/"}
            found = await self._call(what, "get_folder", "commitId", **arguments)
            left += [each["absolutePath"] for each in found.get("subFolders", ())]
            found_here = found.get("files", ())
            files += [(each["absolutePath"], each.get("fileMode") == "EXECUTABLE") for each in found_here]
            if len(files) > MOST_FILES:
                raise StoreError(f"{what} holds more than {MOST_FILES} files", transient=False)
        limit, failed = anyio.CapacityLimiter(AT_ONCE), list[StoreError | OSError]()

        async def take(key: str, runs: bool) -> None:
            target = into / posixpath.relpath(key, path or ".")
            try:
                async with limit:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    await self.file(commit, key, target)
                    target.chmod(0o700 if runs else 0o600)
            except (StoreError, OSError) as error:
                failed.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for key, runs in files:
                tasks.start_soon(take, key, runs, name=f"fetch {key}")
        if failed:
            raise failed[0]

    async def check(self) -> None:
        """See :meth:`Repository.check`."""
        await self._call(self.where, "get_repository", "repositoryMetadata", repositoryName=self._repo)
