"""Repositories of GitHub, and of GitHub Enterprise, by the REST API.

Conditional requests are free there: an answer of 304 does not count for the rate limit. So the ref is resolved with the
ETag of the last time, and only what has changed is fetched.
"""

from __future__ import annotations

import json
import time
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

API = "https://api.github.com"
VERSION = "2022-11-28"
LOGIN = (
    "let the token read the repository's contents (fine-grained: Contents, read); for an organization with single"
    " sign-on it must be authorized there"
)
OF_A_COMMIT = ("branches-where-head", "check-runs", "check-suites", "comments", "pulls", "status", "statuses")
"""What GitHub has below a commit: asked for the commit ``x/status``, it would give the status of ``x``."""


class GitHubRepository(Repository):
    """One repository, ``owner/name``; ``api`` is the address of the API without a slash at its end."""

    def __init__(self, client: httpx.AsyncClient, api: str, repo: str, token: str | None, source: str) -> None:
        self._client, self._token = client, token
        self._base = f"{api}/repos/{quote(repo)}"
        self._repo = repo
        self.where = f"{'github.com' if api == API else api.partition('://')[2]}/{repo}"
        self.credentials = source

    @asynccontextmanager
    async def _asked(
        self, what: str, path: str, accept: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        request = http.Request(
            what=what,
            url=f"{self._base}{path}",
            headers={"Accept": accept, "X-GitHub-Api-Version": VERSION, **(headers or {})},
            private={"Authorization": f"Bearer {self._token}"} if self._token else {},
        )
        async with http.answer(self._client, request) as response:
            if response.status_code not in (200, 304):
                raise self._refused(what, response, await http.said(response))
            yield response

    def _refused(self, what: str, response: httpx.Response, body: bytes) -> StoreError:
        status = response.status_code
        text = f"{what}: {status}{_message(body)}"
        if status in (403, 429) and (wait := _limited(response, body)) is not None:
            hint = None if self._token else "with a token (secret GITHUB_ACCESS_TOKEN) the limit is higher"
            return StoreError(f"{text}; the rate limit is reached", transient=True, retry_after=wait, hint=hint)
        if (error := http.busy(response, what, text)) is not None:
            return error
        if status == 404:
            hint = "without a token GitHub says so for a private repository too" if not self._token else LOGIN
            return StoreError(f"{text}; credentials: {self.credentials}", transient=False, missing=True, hint=hint)
        if status in (409, 422):
            return StoreError(text, transient=False, missing=True, hint="see branch, tag or commit")
        hint = LOGIN if status in (401, 403) else None
        return StoreError(f"{text}; credentials: {self.credentials}", transient=False, hint=hint)

    async def commit(self, ref: str | None, known: Commit | None = None) -> Commit | None:
        """See :meth:`Repository.commit`."""
        headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        what = f"{self.where}, {ref or 'default branch'}"
        path, accept = f"/commits/{quote(ref or 'HEAD')}", "application/vnd.github.sha"
        if listed := ref is not None and "/" in ref and ref.rpartition("/")[2] in OF_A_COMMIT:
            path, accept = f"/commits?sha={quote(ref, safe='')}&per_page=1", "application/vnd.github+json"
        async with self._asked(what, path, accept, headers) as response:
            if response.status_code == 304:
                return None
            name = _first(await response.aread()) if listed else _line(await http.said(response))
            if len(name) not in (40, 64):
                raise StoreError(f"{what}: the answer is no commit; is this the API of GitHub?", transient=True)
            found = Commit(name, response.headers.get("ETag", ""))
        return None if known is not None and known.name == found.name else found

    async def file(self, commit: str, path: str, into: Path) -> str:
        """See :meth:`Repository.file`."""
        what = f"{self.where}, {path} at {commit[:12]}"
        place = f"/contents/{quote(path)}?ref={quote(commit)}"
        async with self._asked(what, place, "application/vnd.github.raw+json") as response:
            if "application/json" in response.headers.get("Content-Type", ""):
                found = "a folder, a submodule or a link that leads out of the repository, expected a file"
                raise StoreError(f"{what} is {found}", transient=False, missing=True)
            digest, _ = await http.save(response, into, what)
        return digest

    async def folder(self, commit: str, path: str, into: Path) -> None:  # noqa: ARG002 - there is no part of it
        """See :meth:`Repository.folder`."""
        what = f"{self.where} at {commit[:12]}"
        async with self._asked(what, f"/tarball/{quote(commit)}", "application/vnd.github+json") as response:
            await http.save(response, into, what)

    async def check(self) -> None:
        """See :meth:`Repository.check`."""
        async with self._asked(self.where, "", "application/vnd.github+json"):
            pass


def _message(body: bytes) -> str:
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({str(message)[:300]})"


def _line(body: bytes) -> str:
    return body.decode("ascii", "replace").strip()


def _first(body: bytes) -> str:
    """The name of the first commit of a list; empty: there is none."""
    try:
        return str(json.loads(body)[0]["sha"])
    except (ValueError, LookupError, TypeError):
        return ""


def _limited(response: httpx.Response, body: bytes) -> float | None:
    """Seconds to wait where an answer is about a rate limit, the secondary one too; None: it is not."""
    headers = response.headers
    if (wait := http.retry_after(headers)) is not None:
        return wait
    if headers.get("X-RateLimit-Remaining") == "0":
        try:
            return max(1.0, float(headers.get("X-RateLimit-Reset", "")) - time.time())
        except ValueError:
            return 60.0
    # The secondary limit often tells no time; GitHub asks for a minute then.
    return 60.0 if response.status_code == 429 or b"rate limit" in body.lower() else None
