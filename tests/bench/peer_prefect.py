"""Driver for Prefect 3: ``peer_prefect.py LIMIT``, run by the environment that `make frameworks` makes.

A server of its own with SQLite, a process work pool, and one worker that asks for work every second, where its
default is ten: the best that it is made for. Nothing is reported to anybody.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import rate
from serving import PYTHON, serve, wait_until

COMMAND = str(Path(sys.executable).with_name("prefect"))
POOL = "bench"
FLOWS = """
import time
from prefect import flow

@flow
def first_line(path: str):
    found = time.time()
    with open(path, "w") as file:
        file.write(repr(found))

@flow
def nothing(path: str):
    return None
"""


class Prefect:
    """A worker that waits for work."""

    version = f"Prefect {version('prefect')}, {PYTHON}"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._deployments = {name: self._deployed(name) for name in ("first_line", "nothing")}

    def first_line(self) -> tuple[float, float]:
        path = self._folder / uuid.uuid4().hex
        called = time.time()
        (run,) = self._ended([self._run("first_line", path)])
        found = float(path.read_text())
        return found - run.created.timestamp(), found - called

    def rate(self, jobs: int) -> float:
        runs = self._ended([self._run("nothing", self._folder) for _ in range(jobs)])
        # From the first one's creation: what a worker does before the flow's process says "running" is its work too.
        return rate([run.created.timestamp() for run in runs], [run.end_time.timestamp() for run in runs])

    def _deployed(self, name: str) -> Any:
        flow = self._client.create_flow_from_name(name)
        return self._client.create_deployment(
            flow, name, work_pool_name=POOL, path=str(self._folder), entrypoint=f"flows.py:{name}"
        )

    def _run(self, name: str, path: Path) -> Any:
        run = self._client.create_flow_run_from_deployment(self._deployments[name], parameters={"path": str(path)})
        return run.id

    def _ended(self, ids: list[Any]) -> list[Any]:
        def ended() -> bool:
            return all((state := self._client.read_flow_run(run).state) and state.is_final() for run in ids)

        wait_until(ended, 180, 0.1)
        runs = [self._client.read_flow_run(run) for run in ids]
        well = [run for run in runs if run.state.is_completed()]
        if len(well) != len(ids):
            raise RuntimeError(f"{len(well)} of {len(ids)} flow runs completed: {[run.state for run in runs]}")
        return well

    @property
    def _client(self) -> Any:
        if not hasattr(self, "_opened"):
            from prefect.client.orchestration import get_client

            self._opened = get_client(sync_client=True)
        return self._opened


@contextmanager
def opened(limit: int) -> Iterator[Prefect]:
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "flows.py").write_text(FLOWS)
        port = _free_port()
        os.environ |= {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        log = stack.enter_context((folder / "log").open("w"))
        stack.enter_context(_program(log, "server", "start", "--host", "127.0.0.1", "--port", str(port)))
        wait_until(lambda: _healthy(port), 120, 0.2)
        subprocess.run(
            [COMMAND, "work-pool", "create", POOL, "--type", "process"], check=True, stdout=log, stderr=log, timeout=60
        )
        prefect = Prefect(folder)
        stack.enter_context(_program(log, "worker", "start", "--pool", POOL, "--limit", str(limit)))
        yield prefect


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def _program(log: Any, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    serve(opened(int(sys.argv[1])))
