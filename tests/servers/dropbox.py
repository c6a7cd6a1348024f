"""Plays the two endpoints of DropBox that the storage document uses, and a few of no service in particular."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from servers.secret_services import certificate

TOKEN = "dropbox-token-9876"


@dataclass
class DropBox:
    """``files`` by their paths; ``replies`` come before all else.

    ``seen`` are the headers of each request, with its method and path. Over TLS, ``ca`` and ``key`` are the
    certificate that the server has, and ``context`` is its own.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    ca: Path = Path()
    key: Path = Path()
    context: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.context else f"http://127.0.0.1:{self.port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        box = self.server.box
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        box.seen.append({"method": self.command, "path": self.path, **dict(self.headers.items())})
        self.path = "/" + self.path.split("/", 3)[-1] if "://" in self.path else self.path  # as to a proxy
        box.bodies.append(body)
        if box.replies:
            self._say(*box.replies.pop(0))
            return
        if self.path.startswith("/2/files/"):
            self._dropbox(body)
        elif self.path.startswith("/plain/"):
            self._plain(body)
        else:
            self._say(404, {}, b"nothing here")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _dropbox(self, body: bytes) -> None:
        box = self.server.box
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(401, {}, b'{"error_summary": "invalid_access_token/.."}')
            return
        asked = json.loads(self.headers["Dropbox-API-Arg"])
        if self.path == "/2/files/upload":
            assert self.headers["Content-Type"] == "application/octet-stream"
            box.files[asked["path"]] = body
            self._say(200, {}, json.dumps({"path_display": asked["path"], "id": "id:1", "size": len(body)}).encode())
        elif asked["path"] in box.files:
            self._say(200, {"Content-Type": "application/octet-stream"}, box.files[asked["path"]])
        else:
            self._say(409, {}, b'{"error_summary": "path/not_found/.."}')

    def _plain(self, body: bytes) -> None:
        """Files by PUT and GET, with ETags, and by POST under an id of the server's own."""
        box = self.server.box
        if self.command == "POST":
            name = f"/plain/{len(box.files)}-of-the-server"
            box.files[name] = body
            self._say(201, {}, json.dumps({"id": name}).encode())
            return
        if self.command == "PUT":
            box.files[self.path] = body
            self._say(204, {}, b"")
            return
        if self.path not in box.files:
            self._say(404, {}, b"no such file")
            return
        data = box.files[self.path]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        if self.headers.get("If-None-Match") == etag:
            self._say(304, {"ETag": etag}, b"")
        else:
            self._say(200, {"ETag": etag}, data)

    def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    box: DropBox

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


@contextmanager
def file_service() -> Iterator[DropBox]:
    """It plays as long as the block lasts."""
    server = Server(("127.0.0.1", 0), Answers)
    server.box = DropBox(server.server_port)
    with serving(server) as box:
        yield box


@contextmanager
def serving(server: Server) -> Iterator[DropBox]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield server.box
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def dropbox() -> Iterator[DropBox]:
    with file_service() as box:
        yield box


@pytest.fixture
def secure_dropbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DropBox]:
    """The same over TLS, with a certificate that nobody trusts unasked."""
    ca, key = certificate(tmp_path_factory.mktemp("certificate"), "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, key)
    context.load_verify_locations(ca)
    server = Server(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.box = DropBox(server.server_port, ca=ca, key=key, context=context)
    with serving(server) as box:
        yield box
