"""An engine that falls silent in the middle of an answer."""

from __future__ import annotations

import io
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from flow_agent.engine import client, images
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
        body = json.dumps({"ApiVersion": "1.44", "ID": "here"}).encode()
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
