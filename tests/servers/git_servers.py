"""Real servers of git: git http-backend behind a small HTTP server that asks for a login, and sshd."""

from __future__ import annotations

import base64
import getpass
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from command import unless_all_is_required
from servers.git_hosts import Work
from servers.process import free_port, running


@dataclass
class GitHTTP:
    """Serves the bare repositories in ``folder``; ``login``: only to who has it.

    ``seen`` are headers of requests, ``lfs`` contents by their SHA-256.
    """

    folder: Path
    port: int = 0
    login: str | None = None
    seen: list[str | None] = field(default_factory=list)
    fail: int = 0
    lfs: dict[str, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Backend(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        state = self.server.state
        given = self.headers.get("Authorization")
        state.seen.append(given)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if state.fail:
            self.send_error(state.fail)
            return
        if state.login is not None and given != f"Basic {base64.b64encode(state.login.encode()).decode()}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        if path.startswith("/lfs/") or path.endswith("/info/lfs/objects/batch"):
            self._lfs(path, body)
            return
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            stdout=subprocess.PIPE,
            check=False,  # what it refuses is said in its answer
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(state.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
            },
        )
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _lfs(self, path: str, body: bytes) -> None:
        """The batch API of LFS, and its downloads."""
        state = self.server.state
        if path.startswith("/lfs/"):
            data, kind = state.lfs[path.removeprefix("/lfs/")], "application/octet-stream"
        else:
            objects = [
                {**each, "actions": {"download": {"href": f"{state.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            data = json.dumps({"transfer": "basic", "objects": objects, "hash_algo": "sha256"}).encode()
            kind = "application/vnd.git-lfs+json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _handle


class Server(ThreadingHTTPServer):
    daemon_threads = True
    state: GitHTTP

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


@contextmanager
def http_backend(folder: Path) -> Iterator[GitHTTP]:
    """Serves the bare repositories in ``folder``."""
    server = Server(("127.0.0.1", 0), Backend)
    server.state = GitHTTP(folder, server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield server.state
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def git_http(work: Work) -> Iterator[GitHTTP]:
    with http_backend(work.bare.parent) as state:
        yield state


@dataclass(frozen=True)
class GitSSH:
    """``command`` is what GIT_SSH_COMMAND must be to get in."""

    url: str
    command: str


@pytest.fixture
def git_ssh(work: Work, tmp_path: Path) -> Iterator[GitSSH]:
    with ssh_server(tmp_path / "ssh") as (port, client):
        yield GitSSH(f"ssh://{getpass.getuser()}@127.0.0.1:{port}{work.bare}", client)


@contextmanager
def ssh_server(folder: Path, command: str | None = None) -> Iterator[tuple[int, str]]:
    """Port of an sshd, and the client's command that gets in; ``command``: what runs there, whatever is asked for."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        unless_all_is_required("there is no sshd here (package openssh-server)")
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    port = free_port()
    kind, key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        + (f"ForceCommand {command}\n" if command else "")
    )
    Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
    with running([program, "-D", "-e", "-f", folder / "config"], port, folder / "log"):
        client = f"ssh -oBatchMode=yes -oUserKnownHostsFile={folder}/known -oIdentitiesOnly=yes -i {folder}/user"
        yield port, client
