"""An engine that falls silent in the middle of an answer."""

from __future__ import annotations

import io
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from flow_agent.engine import client, containers, images
from flow_agent.engine.builds import Build, build
from flow_agent.engine.client import Address, Engine, connect
from flow_agent.engine.images import Access
from flow_agent.engine.progress import Progress
from flow_agent.errors import EngineError

SILENT = 0.3


class Handler(BaseHTTPRequestHandler):
    """Says one word of a pull or a build, and no other."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "/logs" in self.path:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\1\0\0\0\0\0\0\4line")
            self.close_connection = True
            return
        body = json.dumps({"ApiVersion": "1.44", "ID": "here", "Config": {"Tty": False}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        if "nothing" not in self.path:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            word = b'{"status": "Pulling"}\r\n'
            self.wfile.write(b"%x\r\n%s\r\n" % (len(word), word))
        self.close_connection = True
        self.server.over.wait(20)  # type: ignore[attr-defined]  # an attribute of our own on a server of the library

    def address_string(self) -> str:
        return "here"

    def log_message(self, *_: Any) -> None: ...


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class RemoteServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(client, "SILENT_FOR", SILENT)
    with Server(str(tmp_path / "s"), Handler) as server:
        server.over = threading.Event()  # type: ignore[attr-defined]  # an attribute of our own on a server of the library
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            found = connect(Address(url=f"unix://{tmp_path}/s"))
            yield found
            found.close()
        finally:
            server.over.set()  # type: ignore[attr-defined]  # an attribute of our own on a server of the library
            server.shutdown()
            thread.join()


@pytest.mark.timeout(15)
@pytest.mark.parametrize("name", ["something", "nothing"])
@pytest.mark.parametrize("doing", ["pull", "build"])
def test_a_silent_engine_ends_a_pull_and_a_build(engine: Engine, doing: str, name: str) -> None:
    progress = Progress(lambda _: None)
    begun = time.monotonic()
    image = f"{name}:1"
    work: Callable[[], Any] = partial(images.pull, engine, image, Access(), progress)
    if doing == "build":
        work = partial(build, engine, io.BytesIO(b""), image, "Dockerfile", {}, progress, Build())
    with pytest.raises(EngineError, match="does not answer") as raised:
        work()
    assert raised.value.transient
    assert SILENT <= time.monotonic() - begun < 10


@pytest.mark.timeout(15)
def test_a_connection_that_is_followed_is_kept_alive_where_routers_forget_quiet_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_on: list[int] = []
    real = containers._keep_alive

    def keep_alive(way: socket.socket) -> None:
        real(way)
        set_on.append(way.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        set_on.append(way.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))

    monkeypatch.setattr(containers, "_keep_alive", keep_alive)
    with RemoteServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            engine = connect(Address(url=f"tcp://127.0.0.1:{server.server_address[1]}"))
            output = containers.Output(engine, "abc")
            assert list(output) == [b"line"]
            output.close()
            engine.close()
        finally:
            server.shutdown()
            thread.join()
    assert set_on == [1, 30]
