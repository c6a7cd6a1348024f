"""Stand-ins for services of secrets that no package index has a server of: they answer as the published APIs do.

HashiCorp Vault's key-value store with its ways to log in, Google Secret Manager, Azure Key Vault with a managed
identity. Key Vault is reached by its own name, with TLS, through a proxy.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

KEY_VAULT = "flows.vault.azure.net"


@dataclass
class Services:
    """What they hold and whom they know; all of it may be changed at any time.

    ``values`` are secrets by name (for Vault a table of fields); ``tokens`` those that are good; ``sealed``: the
    answer is 503.
    """

    port: int = 0
    proxy: int = 0
    ca: Path = Path()
    values: dict[str, Any] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)
    sealed: bool = False
    logins: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def login(self) -> str:
        self.logins += 1
        token = f"token-{self.logins}-{time.monotonic_ns()}"
        self.tokens.add(token)
        return token


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        services, path = self.server.services, urlsplit(self.path).path
        if services.sealed:
            self.say(503, {"errors": ["Vault is sealed"]})
        elif path.startswith("/v1/auth/"):
            self._vault_login(path, json.loads(body))
        elif path.startswith("/v1/projects/"):
            self._google(path)
        elif path.startswith("/v1/"):
            self._vault(path)
        elif path == "/identity":
            self._identity()
        elif path.startswith("/secrets/"):
            self._key_vault(path)
        else:
            self.say(404, {})

    do_GET = do_POST = _handle

    def say(self, status: int, table: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(table).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    # HashiCorp Vault

    def _vault_login(self, path: str, body: dict[str, str]) -> None:
        good = {
            "/v1/auth/approle/login": {"role_id": "flows", "secret_id": "of-the-role"},
            "/v1/auth/kubernetes/login": {"role": "flows", "jwt": "of-the-pod"},
        }
        if good.get(path) != body:
            self.say(400, {"errors": ["invalid role or secret ID"]})
            return
        self.say(200, {"auth": {"client_token": self.server.services.login(), "lease_duration": 3600}})

    def _vault(self, path: str) -> None:
        services = self.server.services
        if self.headers.get("X-Vault-Token") not in services.tokens:
            self.say(403, {"errors": ["permission denied"]})
            return
        _, _, rest = path.removeprefix("/v1/").partition("/")
        name = rest.removeprefix("data/").removeprefix("flows/")
        found = services.values.get(name)
        if name in services.forbidden:
            self.say(403, {"errors": ["1 error occurred: permission denied"]})
        elif found is None:
            self.say(404, {"errors": []})
        elif rest.startswith("data/"):
            self.say(200, {"data": {"data": found, "metadata": {"version": 3, "destroyed": False}}})
        else:
            self.say(200, {"data": found})

    # Google Secret Manager

    def _google(self, path: str) -> None:
        services = self.server.services
        if (self.headers.get("Authorization") or "").removeprefix("Bearer ") not in services.tokens:
            self.say(401, {"error": {"code": 401, "status": "UNAUTHENTICATED"}})
            return
        name = path.split("/")[5]
        found = services.values.get(name)
        if name in services.forbidden:
            self.say(403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}})
        elif found is None:
            self.say(404, {"error": {"code": 404, "status": "NOT_FOUND"}})
        else:
            data = base64.b64encode(found if isinstance(found, bytes) else found.encode()).decode()
            self.say(200, {"name": path.removeprefix("/v1/"), "payload": {"data": data, "dataCrc32c": "1"}})

    # Azure

    def _identity(self) -> None:
        asked = parse_qs(urlsplit(self.path).query).get("resource")
        if self.headers.get("X-IDENTITY-HEADER") != "of-the-machine" or asked != ["https://vault.azure.net"]:
            self.say(400, {"error": "invalid_request"})
            return
        table = {"access_token": self.server.services.login(), "expires_on": str(int(time.time()) + 3600)}
        self.say(200, {**table, "resource": "https://vault.azure.net", "token_type": "Bearer"})

    def _key_vault(self, path: str) -> None:
        services = self.server.services
        if (self.headers.get("Authorization") or "").removeprefix("Bearer ") not in services.tokens:
            challenge = 'Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"'
            self.say(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge})
            return
        name = path.split("/")[2]
        found = services.values.get(name)
        if name in services.forbidden:
            self.say(403, {"error": {"code": "Forbidden", "message": "does not have secrets get permission"}})
        elif found is None:
            self.say(
                404, {"error": {"code": "SecretNotFound", "message": f"A secret with (name/id) {name} was not found"}}
            )
        else:
            self.say(
                200, {"value": found, "id": f"https://{KEY_VAULT}/secrets/{name}/1", "attributes": {"enabled": True}}
            )


class Server(ThreadingHTTPServer):
    daemon_threads = True
    services: Services

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is part of the tests."""


class Connecting(BaseHTTPRequestHandler):
    """A proxy that knows one way: every CONNECT leads to Key Vault."""

    target: int

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_CONNECT(self) -> None:
        if self.path != f"{KEY_VAULT}:443":
            self.send_error(502)
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.target)) as there:
            pair = [self.connection, there]
            while True:
                for ready in select.select(pair, [], [], 30)[0]:
                    data = ready.recv(65_536)
                    if not data:
                        return
                    (there if ready is self.connection else self.connection).sendall(data)


def certificate(folder: Path, *hosts: str) -> tuple[Path, Path]:
    """A certificate for ``hosts`` that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    shown, kept = folder / "shown.pem", folder / "kept.key"
    shown.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kept.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return shown, kept


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    with server:
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def secret_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    shown, kept = certificate(tmp_path_factory.mktemp("key-vault"), KEY_VAULT)
    plain, secure = Server(("127.0.0.1", 0), Answers), Server(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, kept)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    handler = type("ToKeyVault", (Connecting,), {"target": secure.server_port})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.daemon_threads = True
    services = Services(port=plain.server_port, proxy=proxy.server_port, ca=shown)
    plain.services = secure.services = services
    with contextlib.ExitStack() as stack:
        for server in (plain, secure, proxy):
            stack.enter_context(serving(server))
        yield services
