"""Repositories of Bitbucket, by two APIs that share their name only: Cloud (2.0), and Server or Data Center (1.0)."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flow_agent.errors import StoreError
from flow_agent.hosts import http
from flow_agent.hosts.base import Commit, Repository

if TYPE_CHECKING:
    import httpx

CLOUD = "https://api.bitbucket.org"
CLOUD_WEB = "https://bitbucket.org"
"""Where Cloud gives archives: its API has none."""
LOGIN = "let the token or user read the repository (scope read:repository:bitbucket, or repository:read)"
_FULL = re.compile(r"[0-9a-f]{40}")


class _Repository(Repository):
    """What both share: requests, and what refused ones mean."""

    def __init__(self, client: httpx.AsyncClient, headers: Mapping[str, str], source: str) -> None:
        self._client, self._headers = client, headers
        self.credentials = source

    @asynccontextmanager
    async def _asked(self, what: str, url: str) -> AsyncIterator[httpx.Response]:
        request = http.Request(what=what, url=url, private=self._headers)
        async with http.answer(self._client, request) as response:
            if response.status_code != 200:
                raise self._refused(what, response, await http.said(response))
            yield response

    def _refused(self, what: str, response: httpx.Response, body: bytes) -> StoreError:
        text = f"{what}: {response.status_code}{_message(body)}"
        if (error := http.busy(response, what, text)) is not None:
            return error
        if response.status_code == 404:
            hint = LOGIN if self._headers else "without credentials Bitbucket may say so for a private repository too"
            return StoreError(f"{text}; credentials: {self.credentials}", transient=False, missing=True, hint=hint)
        login = LOGIN if self._headers else "a private repository needs credentials: name their secret on the storage"
        refused = login if response.status_code in (401, 403) else None
        return StoreError(f"{text}; credentials: {self.credentials}", transient=False, hint=refused)

    async def _table(self, what: str, url: str) -> dict[str, Any]:
        async with self._asked(what, url) as response:
            try:
                table = json.loads(await response.aread())
            except ValueError:
                table = None
        if not isinstance(table, dict):
            raise StoreError(f"{what}: the answer is no JSON table; is this Bitbucket?", transient=True)
        return table

    async def _save(self, what: str, url: str, into: Path) -> str:
        async with self._asked(what, url) as response:
            digest, _ = await http.save(response, into, what)
        return digest

    async def commit(self, ref: str | None, known: Commit | None = None) -> Commit | None:
        """See :meth:`Repository.commit`."""
        name = await self._name(ref)
        return None if known is not None and known.name == name else Commit(name)

    @abstractmethod
    async def _name(self, ref: str | None) -> str:
        """The full name of the commit that ``ref`` leads to."""


class CloudRepository(_Repository):
    """One repository of Bitbucket Cloud."""

    def __init__(
        self, client: httpx.AsyncClient, workspace: str, repo: str, headers: Mapping[str, str], source: str
    ) -> None:
        super().__init__(client, headers, source)
        place = f"{quote(workspace, safe='')}/{quote(repo, safe='')}"
        self._api, self._web = f"{CLOUD}/2.0/repositories/{place}", f"{CLOUD_WEB}/{place}"
        self.where = f"bitbucket.org/{workspace}/{repo}"

    async def _name(self, ref: str | None) -> str:
        """One request for each kind of ref: lists of refs have pages, and the one that is wanted may be on the last."""
        what = f"{self.where}, {ref or 'default branch'}"
        if ref is not None and _FULL.fullmatch(ref):
            return ref
        if ref is None:
            branch = (await self._table(what, self._api)).get("mainbranch")
            if not isinstance(branch, dict):
                raise StoreError(f"{what}: the repository is empty", transient=False, missing=True)
            ref = str(branch["name"])
        for path, field in (("refs/branches/", "target"), ("refs/tags/", "target"), ("commit/", None)):
            try:
                table = await self._table(what, f"{self._api}/{path}{quote(ref)}")
            except StoreError as error:
                if not error.missing:
                    raise
                continue
            found = table.get(field) if field else table
            if isinstance(found, dict) and isinstance(found.get("hash"), str):
                return str(found["hash"])
        raise StoreError(
            f"{what}: there is no branch, tag or commit {ref!r}; credentials: {self.credentials}",
            transient=False,
            missing=True,
            hint=None if self._headers else "without credentials Bitbucket may say so for a private repository too",
        )

    async def file(self, commit: str, path: str, into: Path) -> str:
        """See :meth:`Repository.file`."""
        what = f"{self.where}, {path} at {commit[:12]}"
        async with self._asked(what, f"{self._api}/src/{quote(commit)}/{quote(path)}") as response:
            # A folder is answered with a list of what it holds, as if all were well.
            if "application/json" in response.headers.get("Content-Type", "") and not path.endswith(".json"):
                raise StoreError(f"{what} is a folder, expected a file", transient=False, missing=True)
            digest, _ = await http.save(response, into, what)
        return digest

    async def folder(self, commit: str, path: str, into: Path) -> None:  # noqa: ARG002 - there is no part of it
        """See :meth:`Repository.folder`."""
        await self._save(f"{self.where} at {commit[:12]}", f"{self._web}/get/{quote(commit)}.tar.gz", into)

    async def check(self) -> None:
        """See :meth:`Repository.check`."""
        await self._table(self.where, self._api)


class ServerRepository(_Repository):
    """One repository of Bitbucket Server or Data Center; ``host`` is its address without a slash at its end."""

    def __init__(  # noqa: PLR0917 - as the other one, with its host
        self, client: httpx.AsyncClient, host: str, project: str, repo: str, headers: Mapping[str, str], source: str
    ) -> None:
        super().__init__(client, headers, source)
        self._api = f"{host}/rest/api/1.0/projects/{quote(project, safe='')}/repos/{quote(repo, safe='')}"
        self.where = f"{host.partition('://')[2]}/{project}/{repo}"

    async def _name(self, ref: str | None) -> str:
        what = f"{self.where}, {ref or 'default branch'}"
        if ref is not None and _FULL.fullmatch(ref):
            return ref
        until = f"&until={quote(ref, safe='')}" if ref is not None else ""
        table = await self._table(what, f"{self._api}/commits?limit=1{until}")
        try:
            return str(table["values"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise StoreError(f"{what}: there is no commit", transient=False, missing=True) from None

    async def file(self, commit: str, path: str, into: Path) -> str:
        """See :meth:`Repository.file`."""
        what = f"{self.where}, {path} at {commit[:12]}"
        return await self._save(what, f"{self._api}/raw/{quote(path)}?at={quote(commit)}", into)

    async def folder(self, commit: str, path: str, into: Path) -> None:
        """See :meth:`Repository.folder`."""
        what = f"{self.where}, {path or 'repository'} at {commit[:12]}"
        below = f"&path={quote(path, safe='')}" if path else ""
        url = f"{self._api}/archive?at={quote(commit)}&format=tar.gz&prefix=top/{below}"
        await self._save(what, url, into)

    async def check(self) -> None:
        """See :meth:`Repository.check`."""
        await self._table(self.where, self._api)


def _message(body: bytes) -> str:
    """What an error says: Cloud has ``error``, Server a list of ``errors``."""
    try:
        table = json.loads(body)
        message = table["error"]["message"] if "error" in table else table["errors"][0]["message"]
    except (ValueError, KeyError, TypeError, IndexError):
        return ""
    return f" ({str(message)[:300]})"
