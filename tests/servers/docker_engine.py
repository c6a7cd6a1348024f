"""A Docker engine of the tests' own, in its own namespaces, so that nothing of it meets the machine's or outlives it.

Its processes (containers too) live in a PID namespace whose end is theirs; its mounts, its bridge and its published
ports in others. Its socket is a file, which any process of this machine may use. It needs root and ``dockerd``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from command import unless_all_is_required
from flow_agent.engine.client import Address, Engine, connect
from flow_agent.errors import EngineError
from servers.docker_image import IMAGE, MINOR, OLD, archive_of, python_image

HOLD = """
import fcntl, signal, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running
print("ready", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    signal.pause()
"""
"""Holds the namespaces: process 1 of them, with the loopback interface up."""

PROGRAMS = ("dockerd", "containerd", "runc", "unshare", "nsenter", "setpriv")


@contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Inside, what ``process``, an nsenter, has started does nothing, and its connections stay open."""
    (inside,) = psutil.Process(process.pid).children()
    inside.suspend()
    try:
        yield
    finally:
        inside.resume()
        process.send_signal(signal.SIGCONT)  # nsenter stops along with what it started


class DockerEngine:
    """One engine; ``kill``, ``stop`` and ``start`` do so to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self._mark = f"flow-agent-tests-{uuid.uuid4().hex[:12]}"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", "--propagation", "private", sys.executable, "-c", HOLD),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=folder,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` where the engine is: its network, its mounts, its processes."""
        (first,) = psutil.Process(self._holder.pid).children()
        return ["nsenter", f"--target={first.pid}", "--net", "--mount", "--pid", *command]

    def start(self, *options: str) -> None:
        """Start it, or start it again on what it had."""
        (self.folder / "pid").unlink(missing_ok=True)
        command = [
            *("dockerd", "--host", self.url, "--data-root", str(self.folder / "data")),
            *("--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")),
            *("--storage-driver=overlay2", "--iptables=false", "--ip6tables=false", "--bip=172.31.0.1/24"),
            *(f"--cgroup-parent=/{self._mark}", "--shutdown-timeout=5", "--log-level=warn", *options),
        ]
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.inside(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 60
        while True:
            try:
                connect(Address(url=self.url)).close()
                return
            except EngineError:
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                assert self._daemon.poll() is None, said
                assert time.monotonic() < end, said
                time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the engine: in order, with its containers; with SIGKILL, so that containers go on without it."""
        assert self._daemon is not None
        for dockerd in psutil.Process(self._daemon.pid).children():
            dockerd.send_signal(number)
        self._daemon.wait(60)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, the engine says nothing, and its connections stay open. Its containers go on."""
        assert self._daemon is not None
        with frozen(self._daemon):
            yield

    def connect(self) -> Engine:
        return connect(Address(url=self.url))

    def containers(self) -> list[dict[str, Any]]:
        """All containers that there are, running or not."""
        engine = self.connect()
        try:
            found: list[dict[str, Any]] = engine.sdk.containers(all=True)
            return found
        finally:
            engine.close()

    def volumes(self) -> list[str]:
        """The names of all volumes."""
        engine = self.connect()
        try:
            return [volume["Name"] for volume in engine.sdk.volumes()["Volumes"] or []]
        finally:
            engine.close()

    def clear(self) -> None:
        """Remove what tests left."""
        engine = self.connect()
        try:
            for container in engine.sdk.containers(all=True):
                with contextlib.suppress(Exception):  # it is being removed already
                    engine.sdk.remove_container(container["Id"], force=True, v=True)
            for volume in engine.sdk.volumes()["Volumes"] or []:
                engine.sdk.remove_volume(volume["Name"], force=True)
        finally:
            engine.close()

    def load_images(self, archive: Path) -> None:
        """The images of the tests: one with our Python, one with none, one with an old one."""
        engine = self.connect()
        changes = ["ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV OF_IMAGE=yes", 'CMD ["python3"]']
        try:
            engine.sdk.import_image_from_file(str(archive), repository=IMAGE, changes=changes)
            nothing = archive_of({"etc/empty": ("", 0o644)})
            engine.sdk.import_image_from_data(nothing, repository="without-python:1", changes=changes)
            engine.sdk.create_container(IMAGE, ["python3"], name="old", host_config=engine.sdk.create_host_config())
            old = archive_of({"usr/local/bin/python3": (OLD, 0o755)})
            engine.sdk.put_archive("old", "/", old)
            engine.sdk.commit("old", repository="old-python", tag="1")
            engine.sdk.remove_container("old", v=True)
        finally:
            engine.close()

    def close(self) -> None:
        """End it with all that it started."""
        if self._daemon is not None:
            with contextlib.suppress(Exception):
                self.clear()
                self.stop()
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self._holder.pid).children():
                each.kill()
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        if self._daemon is not None:
            self._daemon.wait(20)
        for parent in Path("/sys/fs/cgroup").glob(f"**/{self._mark}"):
            for folder in [*sorted(parent.glob("**/"), reverse=True), parent]:
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextmanager
def docker_running(images: Path) -> Iterator[DockerEngine]:
    """An engine of its own, for tests that do it harm; ``images`` is where the archive of the image may be kept."""
    path = os.environ.get("PATH", "")
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{path}:/usr/sbin:/sbin") is None]
    if os.geteuid() != 0 or missing:
        what = f"{', '.join(missing)} not installed" if missing else "not root"
        unless_all_is_required(f"there is no Docker engine for the tests: {what}")
    folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))
    engine = None
    try:
        engine = DockerEngine(folder)
        engine.start()
        engine.load_images(python_image(images / f"{MINOR}.tar"))
        yield engine
    finally:
        if engine is not None:
            engine.close()
        shutil.rmtree(folder, ignore_errors=sys.exc_info()[0] is not None)


@pytest.fixture(scope="session")
def docker_engine_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """One engine for all tests of this process that only use it."""
    with docker_running(shared(tmp_path_factory)) as engine:
        yield engine


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture
def docker_engine(docker_engine_server: DockerEngine) -> Iterator[DockerEngine]:
    """That engine, with nothing left on it afterwards."""
    yield docker_engine_server
    left = docker_engine_server.containers(), docker_engine_server.volumes()
    docker_engine_server.clear()
    assert left == ([], [])
