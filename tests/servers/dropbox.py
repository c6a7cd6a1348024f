"""Plays the two endpoints of DropBox that the storage document uses, and a few of no service in particular."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "dropbox-token-9876"


@dataclass
class DropBox:
    """``files`` by their paths; ``seen`` are the headers of each request; ``replies`` come before all else."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        box = self.server.box
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        box.seen.append({"path": self.path, **dict(self.headers.items())})
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


@pytest.fixture
def dropbox() -> Iterator[DropBox]:
    server = Server(("127.0.0.1", 0), Answers)
    server.box = DropBox(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield server.box
        finally:
            server.shutdown()
            thread.join()
