"""Plays the APIs of GitHub, GitLab, Bitbucket and CodeCommit over a real repository of git, as they are described.

One server for all: GitHub at ``/github`` (as an Enterprise: ``/api/v3`` is in front of its paths), GitLab at
``/api/v4``, Bitbucket Cloud at ``/2.0`` with archives at ``/<workspace>``, Bitbucket Server at ``/rest/api/1.0``.
What GitHub is asked and answers is held against its own description when a test ends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from servers import github_documents
from servers.github_description import Exchange, description
from servers.github_documents import problem

TOKEN = "good-token-1234"
BASIC = "Basic dGVhbUBleGFtcGxlLm9yZzphcGktdG9rZW4="  # team@example.org:api-token
BEARER = (f"Bearer {TOKEN}",)
# What a name such as `x/status` asks of GitHub: the status of x, and no commit.
OF_A_COMMIT = ("branches-where-head", "check-runs", "check-suites", "comments", "pulls", "status", "statuses")


@dataclass
class Hosts:
    """``repository`` is the bare repository that all of them show; ``private``: only to those who may."""

    repository: Path
    port: int = 0
    private: bool = False
    codeload: str = ""
    """Where GitHub's archives are, if not at this server under another name."""
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    sessions: list[str | None] = field(default_factory=list)
    replies: list[tuple[int, dict[str, str], object]] = field(default_factory=list)
    """Answers in place of the next ones: status, headers, JSON."""
    github: list[Exchange] = field(default_factory=list)
    """What GitHub was asked and has answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def git(self, *arguments: str) -> bytes:
        command = ["git", "-C", str(self.repository), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    @property
    def default_branch(self) -> str:
        return self.git("symbolic-ref", "--short", "HEAD").decode().strip()

    def named(self, ref: str) -> str | None:
        """The commit of a ref; None: there is none."""
        command = ["git", "-C", str(self.repository), "rev-parse", "--verify", "--quiet", "--end-of-options"]
        found = subprocess.run([*command, f"{ref}^{{commit}}"], capture_output=True, text=True, check=False)
        return found.stdout.strip() if found.returncode == 0 else None

    def content(self, commit: str, path: str) -> bytes | None:
        found = subprocess.run(
            ["git", "-C", str(self.repository), "cat-file", "blob", f"{commit}:{path}"],
            capture_output=True,
            check=False,
        )
        return found.stdout if found.returncode == 0 else None

    def followed(self, commit: str, path: str) -> bytes | None:
        """The file that a path leads to, by links inside the repository too."""
        command = ["git", "-C", str(self.repository), "cat-file", "--batch", "--follow-symlinks"]
        found = subprocess.run(command, input=f"{commit}:{path}\n".encode(), check=True, capture_output=True).stdout
        head, _, data = found.partition(b"\n")
        return data[:-1] if head.split()[1:2] == [b"blob"] else None

    def archive(self, commit: str, path: str = "") -> bytes:
        return self.git("archive", "--format=tar.gz", "--prefix=owner-name-1234567/", commit, *([path] if path else []))


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        hosts, parts = self.server.hosts, urlsplit(self.path)
        hosts.asked.append(self.path)
        hosts.tokens.append(self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN"))
        if hosts.replies:
            self.say(*hosts.replies.pop(0))
            return
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for prefix, play in (
            ("/github/repos/owner/name", self._github),
            ("/codeload/", self._codeload),
            ("/api/v4/projects/", self._gitlab),
            ("/2.0/repositories/team/name", self._cloud),
            ("/team/name/get/", self._cloud_archive),
            ("/rest/api/1.0/projects/PRJ/repos/name", self._server),
        ):
            if parts.path.startswith(prefix):
                play(parts.path.removeprefix(prefix))
                return
        self.say(404, {}, {"message": "Not Found"})

    def say(self, status: int, headers: dict[str, str], body: object = None) -> None:
        data = b"" if status == 304 else body if isinstance(body, bytes) else json.dumps(body).encode()
        if not isinstance(body, bytes) and status != 304:
            headers = {"Content-Type": "application/json; charset=utf-8", **headers}
        if self.path.startswith("/github/"):
            target, asked = self.path.removeprefix("/github"), httpx.Headers(dict(self.headers))
            self.server.hosts.github.append(
                Exchange(self.command, target, asked, status, httpx.Headers(headers), data),
            )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _may(self, good: tuple[str, ...], bad: object, hidden: object, hidden_status: int = 404) -> bool:
        """Whether who asks may see it: with credentials among ``good``, or without any where it is public."""
        given = self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN") or ""
        if given and given not in good:
            self.say(401, {}, bad)
        elif self.server.hosts.private and not given:
            self.say(hidden_status, {}, hidden)
        else:
            return True
        return False

    def _changed(self, etag: str) -> bool:
        if self.headers.get("If-None-Match") == etag:
            self.say(304, {"ETag": etag})
            return False
        return True

    # CodeCommit

    def do_POST(self) -> None:
        """The JSON protocol of AWS; signatures are not looked at."""
        hosts = self.server.hosts
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        hosts.asked.append(self.headers["X-Amz-Target"])
        hosts.tokens.append(self.headers["Authorization"])
        hosts.sessions.append(self.headers["X-Amz-Security-Token"])
        if hosts.replies:
            status, headers, body = hosts.replies.pop(0)
            self.say(status, headers, body)
            return
        if asked["repositoryName"] != "name":
            self._no("RepositoryDoesNotExistException")
            return
        match self.headers["X-Amz-Target"].partition(".")[2]:
            case "GetRepository":
                self.say(
                    200, {}, {"repositoryMetadata": {"repositoryName": "name", "defaultBranch": hosts.default_branch}}
                )
            case "GetBranch":
                commit = hosts.named(f"refs/heads/{asked['branchName']}")
                branch = {"branchName": asked["branchName"], "commitId": commit}
                self.say(200, {}, {"branch": branch}) if commit else self._no("BranchDoesNotExistException")
            case "GetFile":
                self._file(hosts.named(asked["commitSpecifier"]), asked["filePath"])
            case "GetFolder":
                self._folder(hosts.named(asked["commitSpecifier"]), asked["folderPath"].strip("/"))

    def _no(self, kind: str) -> None:
        self.say(400, {"x-amzn-ErrorType": kind}, {"__type": kind, "message": "because"})

    def _file(self, commit: str | None, path: str) -> None:
        data = self.server.hosts.content(commit, path) if commit else None
        if data is None:
            self._no("FileDoesNotExistException" if commit else "CommitDoesNotExistException")
            return
        content = base64.b64encode(data).decode()
        facts = {"commitId": commit, "blobId": "0" * 40, "filePath": path, "fileMode": "NORMAL", "fileSize": len(data)}
        self.say(200, {}, {**facts, "fileContent": content})

    def _folder(self, commit: str | None, path: str) -> None:
        hosts = self.server.hosts
        if commit is None or (path and not hosts.git("ls-tree", commit, path)):
            self._no("FolderDoesNotExistException" if commit else "CommitDoesNotExistException")
            return
        listed = hosts.git("ls-tree", commit, f"{path}/" if path else ".").decode().splitlines()
        folders, files = [], []
        for line in listed:
            (mode, kind, name), _, place = line.partition("\t")[0].split(), "", line.partition("\t")[2]
            if kind == "tree":
                folders.append({"treeId": name, "absolutePath": place, "relativePath": place})
            elif mode != "120000":
                files.append({"blobId": name, "absolutePath": place, "relativePath": place, "fileMode": "NORMAL"})
        self.say(200, {}, {"commitId": commit, "folderPath": path, "subFolders": folders, "files": files})

    # GitHub

    def _github(self, path: str) -> None:
        hosts = self.server.hosts
        if not self._may(BEARER, problem(401, "Bad credentials"), problem(404, "Not Found")):
            return
        api = f"{hosts.url}/github"
        if path == "":
            self._limited(200, {}, github_documents.repository(api, hosts.url, hosts.private, hosts.default_branch))
        elif path == "/commits":
            self._commits(self.query.get("sha", "HEAD"), int(self.query.get("per_page", 30)))
        elif path.startswith("/commits/"):
            self._commit(unquote(path.removeprefix("/commits/")))
        elif path.startswith("/contents/"):
            self._contents(self.query["ref"], unquote(path.removeprefix("/contents/")))
        elif path.startswith("/tarball/") and hosts.named(path.removeprefix("/tarball/")):
            commit = path.removeprefix("/tarball/")
            there = hosts.codeload or f"http://localhost:{hosts.port}/codeload"
            self._limited(302, {"Location": f"{there}/{commit}?token=short-lived"}, b"")
        else:
            self._limited(404, {}, problem(404, "Not Found"))

    def _limited(self, status: int, headers: dict[str, str], body: object = None) -> None:
        """Say it with what is left of the rate limit, which each answer of GitHub tells."""
        facts = {"Limit": "60", "Remaining": "59", "Used": "1", "Reset": "4102444800", "Resource": "core"}
        self.say(status, {**headers, **{f"X-RateLimit-{name}": value for name, value in facts.items()}}, body)

    def _commit(self, ref: str) -> None:
        hosts, section = self.server.hosts, "/commits/commits#get-a-commit"
        commit = hosts.named(ref)
        if "/" in ref and ref.rpartition("/")[2] in OF_A_COMMIT:
            self._limited(404, {}, problem(404, "Not Found"))
        elif hosts.named("HEAD") is None:
            self._limited(409, {}, problem(409, "Git Repository is empty.", section))
        elif commit is None:
            self._limited(422, {}, problem(422, f"No commit found for SHA: {ref}", section))
        elif self._changed(etag := f'"{hashlib.sha256(commit.encode()).hexdigest()}"'):
            sha = "application/vnd.github.sha"
            if self.headers["Accept"] == sha:
                self._limited(200, {"ETag": etag, "Content-Type": f"{sha}; charset=utf-8"}, commit.encode())
            else:
                self._limited(200, {"ETag": etag}, self._shown(commit))

    def _commits(self, ref: str, most: int) -> None:
        hosts = self.server.hosts
        commit = hosts.named(ref)
        if commit is None:
            self._limited(404, {}, problem(404, "Not Found", "/commits/commits#list-commits"))
        elif self._changed(etag := f'"{hashlib.sha256(f"{commit} {most}".encode()).hexdigest()}"'):
            names = hosts.git("rev-list", f"--max-count={most}", commit).decode().split()
            self._limited(200, {"ETag": etag}, [self._shown(name) for name in names])

    def _shown(self, commit: str) -> dict[str, Any]:
        hosts = self.server.hosts
        shown = hosts.git("show", "--no-patch", f"--format={github_documents.SHOWN}", commit).decode()
        return github_documents.commit(f"{hosts.url}/github", hosts.url, commit, shown)

    def _contents(self, ref: str, name: str) -> None:
        hosts = self.server.hosts
        if (commit := hosts.named(ref)) is None:
            self._limited(404, {}, problem(404, f"No commit found for the ref {ref}"))
            return
        if (data := hosts.followed(commit, name)) is not None:
            raw = "application/vnd.github.raw+json"
            assert self.headers["Accept"] == raw
            self._limited(200, {"Content-Type": f"{raw}; charset=utf-8"}, data)
            return
        entries = [self._entry(ref, line) for line in self._listed(commit, f"{name}/")]
        if entries:
            self._limited(200, {}, entries)
        elif found := self._listed(commit, name):
            # A link to no file of the repository; there are no submodules here.
            target = (hosts.content(commit, name) or b"").decode()
            self._limited(200, {}, {**self._entry(ref, found[0]), "target": target})
        else:
            self._limited(404, {}, problem(404, "Not Found", "/repos/contents#get-repository-content"))

    def _listed(self, commit: str, path: str) -> list[str]:
        return self.server.hosts.git("ls-tree", "--long", commit, path).decode().splitlines()

    def _entry(self, ref: str, line: str) -> dict[str, Any]:
        hosts = self.server.hosts
        return github_documents.entry(f"{hosts.url}/github", hosts.url, ref, line)

    def _codeload(self, commit: str) -> None:
        """Another host: what is private must not come along."""
        assert self.headers.get("Authorization") is None
        self.say(200, {"Content-Type": "application/x-gzip"}, self.server.hosts.archive(commit))

    # GitLab

    def _gitlab(self, path: str) -> None:
        hosts = self.server.hosts
        if not self._may((TOKEN, *BEARER), {"message": "401 Unauthorized"}, {"message": "404 Project Not Found"}):
            return
        project, _, rest = path.partition("/")
        if unquote(project) not in ("group/sub/name", "42"):
            self.say(404, {}, {"message": "404 Project Not Found"})
        elif rest == "":
            facts = {"path": "name", "path_with_namespace": "group/sub/name", "empty_repo": False}
            self.say(200, {}, {"id": 42, **facts, "default_branch": hosts.default_branch})
        elif rest.startswith("repository/commits/"):
            commit = hosts.named(unquote(rest.removeprefix("repository/commits/")))
            if commit is None:
                self.say(404, {}, {"message": "404 Commit Not Found"})
            elif self._changed(f'W/"{commit[:8]}"'):
                self.say(200, {"ETag": f'W/"{commit[:8]}"'}, {"id": commit, "short_id": commit[:8]})
        elif found := re.fullmatch(r"repository/files/([^/]+)/raw", rest):
            data = hosts.content(self.query["ref"], unquote(found[1]))
            if data is None:
                self.say(404, {}, {"message": "404 File Not Found"})
            else:
                self.say(200, {"Content-Type": "text/plain"}, data)
        elif rest == "repository/archive.tar.gz":
            data = hosts.archive(self.query["sha"], self.query.get("path", ""))
            self.say(200, {"Content-Type": "application/octet-stream"}, data)

    # Bitbucket Cloud

    def _may_cloud(self) -> bool:
        bad = "Token is invalid, expired, or not supported for this endpoint."
        hidden = "You may not have access to this repository or it no longer exists in this workspace."
        return self._may((*BEARER, BASIC), self._cloud_error(bad), self._cloud_error(hidden))

    @staticmethod
    def _cloud_error(message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"message": message}}

    def _cloud(self, path: str) -> None:
        hosts = self.server.hosts
        if not self._may_cloud():
            return
        if path == "":
            facts = {"type": "repository", "full_name": "team/name", "slug": "name", "scm": "git"}
            self.say(200, {}, {**facts, "mainbranch": {"name": hosts.default_branch, "type": "branch"}})
            return
        for prefix, place in (("/refs/branches/", "refs/heads/"), ("/refs/tags/", "refs/tags/"), ("/commit/", "")):
            if path.startswith(prefix):
                name = unquote(path.removeprefix(prefix))
                commit = hosts.named(place + name)
                target = {"type": "commit", "hash": commit}
                if commit is None:
                    self.say(404, {}, self._cloud_error("No such ref"))
                elif place:
                    self.say(200, {}, {"type": "tag" if "tags" in place else "branch", "name": name, "target": target})
                else:
                    self.say(200, {}, target)
                return
        commit, _, name = path.removeprefix("/src/").partition("/")
        data = hosts.content(commit, unquote(name))
        if data is not None:
            self.say(200, {"Content-Type": "text/plain; charset=utf-8"}, data)
        elif hosts.named(commit) is None:
            self.say(404, {}, self._cloud_error("Commit not found"))
        elif found := hosts.git("ls-tree", "--name-only", commit, f"{unquote(name)}/").decode().splitlines():
            # A folder is no error: the answer is a page of what it holds.
            of = {"type": "commit", "hash": commit}
            entries = [{"type": "commit_file", "path": path, "commit": of} for path in found[:10]]
            self.say(200, {}, {"pagelen": 10, "page": 1, "values": entries})
        else:
            self.say(404, {}, self._cloud_error(f"No such file or directory: {name}"))

    def _cloud_archive(self, name: str) -> None:
        if self._may_cloud():
            data = self.server.hosts.archive(name.removesuffix(".tar.gz"))
            self.say(200, {"Content-Type": "application/x-gzip"}, data)

    # Bitbucket Server

    def _server(self, path: str) -> None:
        hosts = self.server.hosts
        bad = self._server_error("Authentication failed.", "auth.IncorrectPasswordAuthenticationException")
        hidden = self._server_error("You are not permitted to access this resource", "AuthorisationException")
        if not self._may(BEARER, bad, hidden, 401):
            return
        if path == "":
            self.say(200, {}, {"slug": "name", "id": 1, "scmId": "git", "project": {"key": "PRJ", "id": 1}})
        elif path == "/commits":
            until = self.query.get("until", "HEAD")
            commit = hosts.named(until)
            if commit is None:
                said = f"Commit '{until}' does not exist in repository 'name'."
                self.say(404, {}, self._server_error(said, "commit.NoSuchCommitException"))
            else:
                found = {"id": commit, "displayId": commit[:11]}
                page = {"size": 1, "limit": 1, "start": 0, "isLastPage": False, "nextPageStart": 1}
                self.say(200, {}, {"values": [found], **page})
        elif path.startswith("/raw/"):
            data = hosts.content(self.query["at"], unquote(path.removeprefix("/raw/")))
            if data is None:
                said = "The path does not exist at this revision."
                self.say(404, {}, self._server_error(said, "content.NoSuchPathException"))
            else:
                self.say(200, {"Content-Type": "text/plain;charset=UTF-8"}, data)
        elif path == "/archive":
            data = hosts.archive(self.query["at"], self.query.get("path", ""))
            self.say(200, {"Content-Type": "application/octet-stream"}, data)

    @staticmethod
    def _server_error(message: str, name: str) -> dict[str, Any]:
        return {"errors": [{"context": None, "message": message, "exceptionName": f"com.atlassian.bitbucket.{name}"}]}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hosts: Hosts

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


FILES = {
    "flows/etl.py": "from flow_agent import flow\n\nfrom lib.steps import double\n\n\n@flow(name='etl')\n"
    "def etl(n: int = 2):\n    return double(n)\n",
    "flows/lib/__init__.py": "",
    "flows/lib/steps.py": "def double(n):\n    return 2 * n\n",
    "alone.py": "from flow_agent import flow\n\n\n@flow(name='alone')\ndef alone():\n    return 'first'\n",
    "docs/readme.md": "# Flows\n",
}


@dataclass
class Work:
    """A clone that somebody works in."""

    folder: Path
    bare: Path

    def git(self, *arguments: str) -> str:
        config = ["-c", "user.name=author", "-c", "user.email=author@example.org", "-c", "init.defaultBranch=trunk"]
        command = ["git", *config, "-C", str(self.folder), *arguments]
        # Where git-lfs is installed for all, it would want its server's word.
        env = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.strip()

    def write(self, **files: str) -> None:
        """Files by their paths, with ``__`` for ``/`` and ``_py`` for ``.py``."""
        for name, text in files.items():
            (self.folder / name.replace("__", "/").replace("_py", ".py")).write_text(text)

    def push(self, message: str = "change") -> str:
        """The commit of all that has changed, now in the bare repository."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        self.git("push", "-q", "origin", "HEAD")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def work(tmp_path: Path, work_template: Path) -> Work:
    """A repository with branch trunk (the default), branch feature/x, and tag v1.0."""
    shutil.copytree(work_template, tmp_path / "git")
    return Work(tmp_path / "git" / "clone", tmp_path / "git" / "repository.git")


@pytest.fixture(scope="session")
def work_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``work`` is a copy of."""
    top = tmp_path_factory.mktemp("git")
    bare, folder = top / "repository.git", top / "clone"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "trunk", bare], check=True)
    folder.mkdir()
    made = Work(folder, bare)
    made.git("init", "-q")
    made.git("remote", "add", "origin", "../repository.git")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    made.push("first")
    made.git("tag", "-a", "v1.0", "-m", "first version")
    made.git("push", "-q", "origin", "v1.0")
    made.git("checkout", "-q", "-b", "feature/x")
    made.write(alone_py=FILES["alone.py"].replace("first", "feature"))
    made.push("feature")
    made.git("checkout", "-q", "trunk")
    return top


@contextmanager
def playing(repository: Path) -> Iterator[Hosts]:
    """All hosts over a bare repository."""
    server = Server(("127.0.0.1", 0), Answers)
    server.hosts = Hosts(repository, server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield server.hosts
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def git_hosts(work: Work) -> Iterator[Hosts]:
    """What GitHub was asked and how it answered is held against its description when the test ends."""
    with playing(work.bare) as hosts:
        yield hosts
    if hosts.github:
        wrong = [text for exchange in hosts.github for text in description().wrong(exchange)]
        if wrong:
            pytest.fail("GitHub does not describe it so:\n" + "\n".join(wrong))
