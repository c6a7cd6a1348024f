"""The hosts of a page under their own names, with TLS, by way of a proxy: behind each stands a server of the tests.

All of GitHub, GitLab, Bitbucket, CodeCommit and the git server show one repository, which is empty at first. Who
writes flows reaches it by SSH, whatever the host is called.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import shlex
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from servers.dropbox import DropBox, file_service
from servers.git_hosts import TOKEN, Hosts, playing
from servers.git_servers import http_backend, ssh_server
from servers.secret_services import certificate, serving


@dataclass(frozen=True)
class Internet:
    """``environment`` are the variables that lead there; ``token`` is good everywhere, and nowhere is it needless."""

    environment: dict[str, str]
    hosts: Hosts
    box: DropBox
    token: str = TOKEN


@dataclass(frozen=True)
class Route:
    """Where a host is: the port of a server, what is put before a path there, what of it is something else there."""

    port: int
    before: str = ""
    renamed: tuple[str, str] = ("", "")
    needs: str | None = None
    """The only Authorization that is let through; None: the server sees to it."""


class Front(BaseHTTPRequestHandler):
    """Ends the TLS of a CONNECT itself, and hands the requests in it on."""

    protocol_version = "HTTP/1.1"
    server: FrontServer
    route: Route

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_CONNECT(self) -> None:
        route = self.server.routes.get(self.path.removesuffix(":443"))
        if route is None:
            self.send_error(502)
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        self.request = self.connection
        self.route = route
        self.setup()
        self.close_connection = False

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.route.needs is not None and self.headers.get("Authorization") != self.route.needs:
            self._say(401, [], b"")
            return
        path = self.route.before + self.path.replace(*self.route.renamed, 1)
        there = http.client.HTTPConnection("127.0.0.1", self.route.port)
        with contextlib.closing(there):
            there.request(self.command, path, body=body, headers=dict(self.headers.items()))
            answer = there.getresponse()
            self._say(answer.status, answer.getheaders(), answer.read())

    do_GET = do_POST = do_PUT = _hand_on

    def _say(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        """As of the class above, and the TLS socket is closed: the server knows only the one below it."""
        super().finish()
        self.connection.close()


class FrontServer(ThreadingHTTPServer):
    daemon_threads = True
    routes: dict[str, Route]
    context: ssl.SSLContext

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


def _author(folder: Path, port: int, client: str) -> dict[str, str]:
    """The variables of somebody who commits, and whose key opens every git server by SSH."""
    config = folder / "gitconfig"
    config.write_text("[user]\n\tname = author\n\temail = author@example.org\n")
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    # The user that such an address names is not one of this machine.
    program.write_text(
        "#!/bin/sh\nfor word; do shift; case $word in git@*) word="
        f'{getpass.getuser()}@127.0.0.1;; esac; set -- "$@" "$word"; done\nexec /usr/bin/env {client} -p {port} "$@"\n'
    )
    program.chmod(0o755)
    return {
        "GIT_SSH_COMMAND": shlex.quote(str(program)),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def _forced(folder: Path, repository: Path) -> str:
    """The command of an SSH server that has one repository, whatever it is called."""
    program = folder / "serve"
    program.write_text(
        "#!/bin/sh\nset -f\nset -- $SSH_ORIGINAL_COMMAND\ncase $1 in\n"
        f"git-upload-pack|git-receive-pack) exec $1 {shlex.quote(str(repository))};;\nesac\nexit 1\n"
    )
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    folder = tmp_path_factory.mktemp("internet")
    repository = folder / "repository.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", repository], check=True)
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(playing(repository))
        hosts.private, hosts.codeload = True, "https://codeload.github.com"
        box = stack.enter_context(file_service())
        backend = stack.enter_context(http_backend(folder))
        backend.login = f"owner:{TOKEN}"
        port, client = stack.enter_context(ssh_server(folder / "ssh", _forced(folder, repository)))
        routes = {
            "api.github.com": Route(hosts.port, "/github"),
            "codeload.github.com": Route(hosts.port, "/codeload"),
            "gitlab.com": Route(hosts.port),
            "api.bitbucket.org": Route(hosts.port),
            "bitbucket.org": Route(hosts.port),
            "bitbucket.example.org": Route(hosts.port),
            "git.example.org": Route(backend.port, renamed=("/owner/name.git/", "/repository.git/")),
            "files.example.org": Route(box.port, "/plain", needs=f"Bearer {TOKEN}"),
        }
        shown, kept = certificate(folder, *routes)
        front = FrontServer(("127.0.0.1", 0), Front)
        front.routes, front.context = routes, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.context.load_cert_chain(shown, kept)
        stack.enter_context(serving(front))
        environment = {
            **_author(folder, port, client),
            "HTTPS_PROXY": f"http://127.0.0.1:{front.server_port}",
            "NO_PROXY": "127.0.0.1",
            "SSL_CERT_FILE": str(shown),
            "GIT_SSL_CAINFO": str(shown),
            "AWS_ENDPOINT_URL_CODECOMMIT": hosts.url,
        }
        yield Internet(environment, hosts, box)
