"""Any repository by the program git, over HTTPS or SSH: one commit is fetched, as shallow as the server lets it.

What git is given: no terminal, no hooks, no protocol but https, http and ssh, addresses and refs behind ``--``. A token
reaches it by its environment, as a header for one address; it stands in no address, no argument and no file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread

from flow_agent.errors import StoreError
from flow_agent.hosts.base import Commit, Repository
from flow_agent.redact import known as redacted

FETCH_WITHIN = 600.0
"""Seconds for one command of git that moves content."""
ASK_WITHIN = 30.0
"""Seconds for one that asks for a ref."""
INHERITED = frozenset(
    {"PATH", "HOME", "LANG", "SSH_AUTH_SOCK", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
    | {"GIT_SSH_COMMAND", "GIT_CONFIG_GLOBAL"}
)
"""Variables of the agent's environment that git needs to find its way."""
GIVEN = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_ALLOW_PROTOCOL": "https:http:ssh", "LC_ALL": "C"}
SETTINGS = {"core.hooksPath": "/dev/null", "protocol.file.allow": "never", "advice.detachedHead": "false"}
FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SHORT = re.compile(r"[0-9a-f]{4,39}")
POINTER = b"version https://git-lfs.github.com/spec/"
LASTING: tuple[tuple[str, ...], ...] = (
    (
        *("could not be found", "not found", "does not exist", "does not appear to be a git repository"),
        *("reference is not a tree", "unable to read tree"),
    ),
    (
        *("authentication failed", "permission denied", "could not read username", "access denied"),
        *("returned error: 403", "returned error: 401"),
    ),
    ("host key verification failed", "certificate", "self-signed"),
)
"""What git says of what stays as it is: of a repository, of credentials, of trust."""
HINTS = (
    "see the address of the repository, and the commit; without credentials a private one is not found either",
    "name a secret with a token (git_token_secret_name), or for SSH give the agent's user a key",
    "make the host known to the agent's user (~/.ssh/known_hosts), or its authority (SSL_CERT_FILE)",
)


class GitRepository(Repository):
    """The repository at ``url``, which holds no credentials; ``login`` is a user and a token for it."""

    gives_folders = True

    def __init__(self, url: str, login: tuple[str, str] | None, source: str, depth: int | None) -> None:
        self._url, self._depth = url, depth
        self._config = _header(url, login) if login is not None else {}
        self.where, self.credentials = url, source

    async def commit(self, ref: str | None, known: Commit | None = None) -> Commit | None:
        """See :meth:`Repository.commit`; ``refs/heads/`` or ``refs/tags/`` in front says which one it is."""
        name = await self._name(ref)
        return None if known is not None and known.name == name else Commit(name)

    async def _name(self, ref: str | None) -> str:
        if ref is not None and FULL.fullmatch(ref):
            return ref
        what = f"{self.where}, {ref or 'default branch'}"
        wanted = [ref, f"{ref}^{{}}"] if ref is not None else ["HEAD"]
        said = await self._git(what, ASK_WITHIN, "ls-remote", "--quiet", "--", self._url, *wanted)
        pairs = [line.split("\t", 1) for line in said.splitlines() if "\t" in line]
        found = {place: name for name, place in pairs}
        # A tag with a message is an object of its own; what it leads to stands beside it with ^{}.
        for place in (f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"{ref}^{{}}", ref or "HEAD"):
            if place in found:
                return found[place]
        if ref is not None and SHORT.fullmatch(ref):
            async with _Clone(self) as clone:
                return await clone.whole(what, ref)
        # An answer that is cut off looks to git like a repository without any branch.
        if not found and not await self._git(what, ASK_WITHIN, "ls-remote", "--quiet", "--", self._url):
            raise StoreError(f"{what}: the repository has no branch at all, or its answer was cut off", transient=True)
        raise StoreError(
            f"{what}: there is no such branch, tag or commit",
            transient=False,
            missing=True,
            hint="see branch, tag or commit",
        )

    async def file(self, commit: str, path: str, into: Path) -> str:
        """See :meth:`Repository.file`."""
        what = f"{self.where}, {path} at {commit[:12]}"
        async with _Clone(self, into.parent) as clone:
            await clone.check_out(what, commit, path, alone=True)
            source = clone.folder / path

            def take() -> str:
                if not source.is_file() or source.is_symlink() or not clone.holds(source):
                    raise StoreError(f"{what}: there is no such file", transient=False, missing=True)
                source.replace(into)
                with into.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()

            return await anyio.to_thread.run_sync(take)

    async def folder(self, commit: str, path: str, into: Path) -> None:
        """See :meth:`Repository.folder`; submodules come along."""
        what = f"{self.where}, {path or 'repository'} at {commit[:12]}"
        async with _Clone(self, into.parent) as clone:
            await clone.check_out(what, commit, path or ".")
            await clone.submodules(what, path)
            source = clone.folder / path if path else clone.folder

            def take() -> None:
                if not source.is_dir() or not clone.holds(source):
                    raise StoreError(f"{what}: there is no such folder", transient=False, missing=True)
                _without_git(source.resolve()).rename(into)  # copying many files takes longer than all of the above

            await anyio.to_thread.run_sync(take)

    async def check(self) -> None:
        """See :meth:`Repository.check`."""
        await self._git(self.where, ASK_WITHIN, "ls-remote", "--quiet", "--", self._url, "HEAD")

    async def _git(self, what: str, seconds: float, *arguments: str, cwd: Path | None = None) -> str:
        """What git prints.

        Raises StoreError: it fails, or takes longer than ``seconds``.
        """
        env = {name: os.environ[name] for name in INHERITED if name in os.environ}
        env |= GIVEN
        env.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=10")
        env |= _environment({**SETTINGS, **self._config})
        try:
            with anyio.fail_after(seconds):
                done = await anyio.run_process(
                    ["git", *arguments], stdin=DEVNULL, stdout=PIPE, stderr=PIPE, cwd=cwd, env=env, check=False
                )
        except TimeoutError:
            raise StoreError(f"{what}: git {arguments[0]} takes longer than {seconds:g} s", transient=True) from None
        except FileNotFoundError:
            raise StoreError(
                f"{what}: the program git is not there", transient=False, hint="install git on the agent's machine"
            ) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise _explained(f"{what}: git {arguments[0]}", said, self._url, self.credentials)
        return done.stdout.decode(errors="surrogateescape")


class _Clone:
    """A clone that holds what is needed of one commit, for as long as it is open.

    It lies in the folder ``beside``, so that files can be moved there, else among the temporary ones.
    """

    def __init__(self, repository: GitRepository, beside: Path | None = None) -> None:
        self._repository, self._beside = repository, beside
        self._git = repository._git

    async def __aenter__(self) -> _Clone:
        make = partial(tempfile.mkdtemp, prefix=".flow-agent-git-", dir=self._beside)
        self.folder = Path(await anyio.to_thread.run_sync(make))
        await self._git(self._repository.where, ASK_WITHIN, "init", "-q", str(self.folder))
        # Addresses of submodules may be relative to it.
        await self._git("remote", ASK_WITHIN, "remote", "add", "origin", self._repository._url, cwd=self.folder)
        return self

    async def __aexit__(self, *caught: object) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(30):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(self.folder, ignore_errors=True))

    def holds(self, path: Path) -> bool:
        """Whether ``path`` lies in the clone, wherever links on the way lead."""
        return path.resolve().is_relative_to(self.folder.resolve())

    async def whole(self, what: str, short: str) -> str:
        """The whole name of a commit."""
        await self._everything(what)
        name = await self._git(what, ASK_WITHIN, "rev-parse", "--verify", "-q", f"{short}^{{commit}}", cwd=self.folder)
        return name.strip()

    async def _everything(self, what: str) -> None:
        refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        await self._git(what, FETCH_WITHIN, "fetch", "-q", "--no-tags", "origin", *refs, cwd=self.folder)

    async def check_out(self, what: str, commit: str, path: str, *, alone: bool = False) -> None:
        """Put ``path`` of ``commit`` into the folder, and all the rest too unless it stands ``alone``."""
        depth = [f"--depth={self._repository._depth}"] if self._repository._depth else []
        try:
            await self._git(what, FETCH_WITHIN, "fetch", "-q", "--no-tags", *depth, "origin", commit, cwd=self.folder)
        except StoreError as error:
            if error.transient and "unadvertised" not in str(error) and "not our ref" not in str(error):
                raise
            await self._everything(what)  # a server that gives no commit by its name
        if not (alone and await self._only(what, commit, path)):
            await self._git(what, FETCH_WITHIN, "checkout", "-qf", commit, cwd=self.folder)
        await self._content_of_lfs(what, path)

    async def _only(self, what: str, commit: str, path: str) -> bool:
        """Put one file into the folder, as the whole commit's attributes say; whether that can be, behind a link."""
        try:
            await self._git(what, FETCH_WITHIN, "reset", "-q", commit, cwd=self.folder)
            await self._git(what, FETCH_WITHIN, "checkout", "-q", "--", path, cwd=self.folder)
        except StoreError:
            return False
        return True

    async def _content_of_lfs(self, what: str, path: str) -> None:
        pointers = await anyio.to_thread.run_sync(self._pointers, path)
        if not pointers:
            return
        try:
            await self._git(what, FETCH_WITHIN, "lfs", "pull", "--include", ",".join(pointers), cwd=self.folder)
        except StoreError as error:
            if "is not a git command" not in str(error):
                raise
            raise StoreError(
                f"{what}: {pointers[0]} lies in LFS", transient=False, hint="install git-lfs on the agent's machine"
            ) from None

    def _pointers(self, path: str) -> list[str]:
        top = self.folder / path
        found: list[str] = []
        for each in () if not self.holds(top) else [top] if top.is_file() else top.rglob("*"):
            if each.is_file() and not each.is_symlink() and each.stat().st_size < 1024 and ".git" not in each.parts:
                with each.open("rb") as file:
                    if file.read(len(POINTER)) == POINTER:
                        found.append(each.relative_to(self.folder).as_posix())
        return found

    async def submodules(self, what: str, path: str) -> None:
        """Fetch the submodules below ``path``."""
        if (self.folder / ".gitmodules").is_file():
            below = ["--", path] if path else []
            arguments = ("submodule", "update", "-q", "--init", "--recursive", "--depth=1", *below)
            await self._git(what, FETCH_WITHIN, *arguments, cwd=self.folder)


def _without_git(folder: Path) -> Path:
    """``folder``, now without what git keeps in it and in the submodules below it."""
    for place, folders, files in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
            shutil.rmtree(Path(place, ".git"))
        elif ".git" in files:
            Path(place, ".git").unlink()
    return folder


def _header(url: str, login: tuple[str, str]) -> dict[str, str]:
    """The configuration that sends a login to the host of ``url``, and to no other."""
    pair = b64encode(":".join(login).encode()).decode()
    redacted.add(pair)
    parts = urlsplit(url)
    return {f"http.{parts.scheme}://{parts.netloc}/.extraHeader": f"Authorization: Basic {pair}"}


def _environment(config: Mapping[str, str]) -> dict[str, str]:
    found = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _explained(what: str, said: str, url: str, credentials: str) -> StoreError:
    """What git's words mean: it has no other way to say it. The address itself may hold any of them."""
    text = redacted.text(" ".join(said.split())[-600:])
    low = text.lower().replace(url.lower(), "")
    for number, words in enumerate(LASTING):
        if any(word in low for word in words):
            return StoreError(
                f"{what}: {text}; credentials: {credentials}",
                transient=False,
                missing=number == 0,
                hint=HINTS[number],
            )
    return StoreError(f"{what}: {text}", transient=True)


def separated(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address without the login that it may hold, and that login."""
    parts = urlsplit(url)
    if not parts.password and not (parts.username and parts.scheme in ("http", "https")):
        return url, None
    login = (unquote(parts.username or ""), unquote(parts.password or ""))
    redacted.add(login[1] or login[0])
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), login
