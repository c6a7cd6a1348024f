"""A stand-in of the API of a Kubernetes cluster, for tests; its pods run as processes of this machine.

It shows what the launcher relies on: selectors, versions and watches (410, bookmarks, time limits), 409 and 422, what
is deleted with what, suspended Jobs, pods, their output, and faults. The contract of the launcher is also tested
against a real cluster (``FLOW_AGENT_TEST_KUBECONFIG``), so that it cannot drift from one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers.process import free_port, running
from servers.secret_services import certificate

TOKEN = "good"
TESTS = Path(__file__).parents[1]


class Kubernetes:
    """The stand-in at ``url``, whose process group is ``pid``; ``kubeconfig`` is a file that leads to it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.kubeconfig = folder / "kubeconfig"
        self.write_kubeconfig({"token": TOKEN})

    def write_kubeconfig(self, user: dict[str, Any], authority: str = "") -> None:
        cluster = {"server": self.url, **({"certificate-authority-data": authority} if authority else {})}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stand-in",
            "contexts": [{"name": "stand-in", "context": {"cluster": "here", "user": "me", "namespace": "flows"}}],
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "me", "user": user}],
        }
        self.kubeconfig.write_text(json.dumps(config))

    def tell(self, what: str, body: Any = None) -> Any:
        """Order a fault, or ask what only a test may."""
        with httpx.Client(timeout=10) as client:
            return client.post(f"{self.url}/_{what}", json=body if body is not None else {}).raise_for_status().json()

    def fault(self, match: str, code: int = 0, **how: Any) -> None:
        self.tell("fault", {"match": match, "code": code, **how})

    def objects(self, kind: str) -> list[dict[str, Any]]:
        return [found for its_kind, found in self.tell("objects") if its_kind == kind]

    def calls(self) -> dict[str, int]:
        found: dict[str, int] = self.tell("calls")
        return found

    def freeze(self, *, on: bool) -> None:
        os.kill(self.pid, signal.SIGSTOP if on else signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process that listens."""
        port = f"{int(self.url.rpartition(':')[2])}"
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"servers.kubernetes_server" in words and port.encode() in words:
                    return int(entry.name)
        raise AssertionError("the stand-in does not run")


@contextlib.contextmanager
def secure_kubernetes(folder: Path) -> Iterator[Path]:
    """A kubeconfig for a cluster that knows its clients by their certificates."""
    folder.mkdir()
    chain, key = certificate(folder, "localhost")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "servers.kubernetes_server", str(port), str(chain), str(key)]
    with running(command, port, folder / "server.log", {"PYTHONPATH": str(TESTS)}, tidies_within=10):
        stand_in = Kubernetes(f"https://localhost:{port}", folder)
        shown = {"client-certificate-data": _encoded(chain), "client-key": str(key)}
        stand_in.write_kubeconfig(shown, authority=_encoded(chain))
        yield stand_in.kubeconfig


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[Kubernetes]:
    """A cluster with nothing in it."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "servers.kubernetes_server", str(port)]
    with running(command, port, folder / "server.log", {"PYTHONPATH": str(TESTS)}, tidies_within=10) as url:
        yield Kubernetes(url, folder)
