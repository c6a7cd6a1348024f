"""Repositories of GitLab, its own service or an installation, by the REST API (v4)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from flow_agent.errors import StoreError
from flow_agent.hosts import http
from flow_agent.hosts.base import Commit, Repository

if TYPE_CHECKING:
    import httpx

HOST = "https://gitlab.com"
LOGIN = "let the token read the repository (scope read_api, or read_repository and read_api for a project token)"


class GitLabRepository(Repository):
    """One project, by its path or its number; ``host`` is the address without a slash at its end."""

    def __init__(self, client: httpx.AsyncClient, host: str, repo: str, token: str | None, source: str) -> None:
        self._client, self._token = client, token
        self._project = f"{host}/api/v4/projects/{quote(repo, safe='')}"
        self.where = f"{host.partition('://')[2]}/{repo}"
        self.credentials = source

    @asynccontextmanager
    async def _asked(
        self, what: str, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        request = http.Request(
            what=what,
            url=f"{self._project}{path}",
            headers=headers or {},
            private={"PRIVATE-TOKEN": self._token} if self._token else {},
        )
        async with http.answer(self._client, request) as response:
            if response.status_code not in (200, 304):
                raise self._refused(what, response, await http.said(response))
            yield response

    def _refused(self, what: str, response: httpx.Response, body: bytes) -> StoreError:
        text = f"{what}: {response.status_code}{_message(body)}"
        if (error := http.busy(response, what, text)) is not None:
            return error
        if response.status_code == 404:
            hint = LOGIN if self._token else "without a token GitLab says so for a private project too"
            return StoreError(f"{text}; credentials: {self.credentials}", transient=False, missing=True, hint=hint)
        refused = LOGIN if response.status_code in (401, 403) else None
        return StoreError(f"{text}; credentials: {self.credentials}", transient=False, hint=refused)

    async def commit(self, ref: str | None, known: Commit | None = None) -> Commit | None:
        """See :meth:`Repository.commit`."""
        headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        what = f"{self.where}, {ref or 'default branch'}"
        path = f"/repository/commits/{quote(ref or 'HEAD', safe='')}?stats=false"
        async with self._asked(what, path, headers) as response:
            if response.status_code == 304:
                return None
            found = Commit(_text(what, await response.aread(), "id"), response.headers.get("ETag", ""))
        return None if known is not None and known.name == found.name else found

    async def file(self, commit: str, path: str, into: Path) -> str:
        """See :meth:`Repository.file`; what lies in LFS comes as its content."""
        what = f"{self.where}, {path} at {commit[:12]}"
        place = f"/repository/files/{quote(path, safe='')}/raw?ref={quote(commit)}&lfs=true"
        async with self._asked(what, place) as response:
            digest, _ = await http.save(response, into, what)
        return digest

    async def folder(self, commit: str, path: str, into: Path) -> None:
        """See :meth:`Repository.folder`."""
        what = f"{self.where}, {path or 'repository'} at {commit[:12]}"
        below = f"&path={quote(path, safe='')}" if path else ""
        async with self._asked(what, f"/repository/archive.tar.gz?sha={quote(commit)}{below}") as response:
            await http.save(response, into, what)

    async def check(self) -> None:
        """See :meth:`Repository.check`."""
        async with self._asked(self.where, ""):
            pass


def _message(body: bytes) -> str:
    try:
        table = json.loads(body)
        message = table.get("message") or table.get("error_description") or table["error"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({str(message)[:300]})"


def _text(what: str, body: bytes, name: str) -> str:
    try:
        found = json.loads(body)[name]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise StoreError(f"{what}: the answer has no {name}; is this the API of GitLab?", transient=True)
    return found
