"""Registries of images where the tests' engine is: Debian's docker-registry, with and without authentication."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from command import unless_all_is_required
from flow_agent.testing.storage_contract import SECRET
from servers.docker_engine import DockerEngine, frozen
from servers.process import free_port

USER = "tester"
PASSWORD = SECRET
HASHED = "$2b$05$Y8ezaZXhrLQToo/fVC/eOeKwIFvg15jq2gAGULZYRrKTeqdt6ViG6"
"""PASSWORD as htpasswd wants it."""
ASK = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[2]), method=sys.argv[3])
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        print(json.dumps([answer.status, dict(answer.headers), answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, {}, ""]))
except OSError as error:
    print(json.dumps([0, {}, str(error)]))
"""


class Registry:
    """One registry, at ``address`` for the engine; what it keeps outlives ``stop``."""

    def __init__(self, engine: DockerEngine, folder: Path, *, private: bool) -> None:
        self._engine, self._folder, self.private = engine, folder, private
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.address},
        }
        if private:
            (folder / "users").write_text(f"{USER}:{HASHED}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "users")}}
        (folder / "config.yml").write_text(json.dumps(config))

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._engine.inside("docker-registry", "serve", str(self._folder / "config.yml")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 30
        while self.ask("/v2/")[0] not in {200, 401}:
            said = (self._folder / "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.05)

    def stop(self) -> None:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self._process.pid).children():
                each.send_signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, it says nothing, and its connections stay open."""
        assert self._process is not None
        with frozen(self._process):
            yield

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of its answer; 0 without one."""
        if self.private:
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        accept = "application/vnd.docker.distribution.manifest.v2+json"
        command = [sys.executable, "-c", ASK, f"http://{self.address}{path}", json.dumps({"Accept": accept, **headers})]
        done = subprocess.run(self._engine.inside(*command, method), capture_output=True, check=True)
        status, found, text = json.loads(done.stdout)
        return status, found, text

    def digest(self, name: str, tag: str) -> str | None:
        """The digest that ``name:tag`` has there."""
        status, headers, _ = self.ask(f"/v2/{name}/manifests/{tag}", method="HEAD")
        return (
            {key.lower(): value for key, value in headers.items()}.get("docker-content-digest")
            if status == 200
            else None
        )

    def tags(self, name: str) -> list[str]:
        """The tags of ``name`` there."""
        status, _, text = self.ask(f"/v2/{name}/tags/list")
        return sorted(json.loads(text)["tags"] or []) if status == 200 else []

    @property
    def secret(self) -> str:
        """Its credentials as a secret has them."""
        return json.dumps({"username": USER, "password": PASSWORD})

    @property
    def login(self) -> str:
        """What ``docker login`` would write into its configuration."""
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return json.dumps({"auths": {self.address: {"auth": pair}}})


@contextmanager
def registry_running(engine: DockerEngine, folder: Path, *, private: bool = False) -> Iterator[Registry]:
    """A registry of its own, where ``engine`` reaches it."""
    if shutil.which("docker-registry") is None:
        unless_all_is_required("there is no registry of images for the tests: docker-registry is not installed")
    registry = Registry(engine, folder, private=private)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


@pytest.fixture(scope="session")
def registry(docker_engine_server: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that anybody may use."""
    with registry_running(docker_engine_server, tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="session")
def private_registry(
    docker_engine_server: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry that wants a password."""
    with registry_running(docker_engine_server, tmp_path_factory.mktemp("private"), private=True) as found:
        yield found
