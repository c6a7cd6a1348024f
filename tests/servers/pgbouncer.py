"""pgbouncer in transaction mode: each transaction of a client gets another connection of the server."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from command import unless_all_is_required
from servers.postgres import NOBODY, PostgresServer
from servers.process import free_port

SETTINGS = """
[databases]
* = host=127.0.0.1 port={upstream} user=tester

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
server_check_delay = 0
"""


@contextmanager
def pgbouncer_running(server: PostgresServer, database: str) -> Iterator[str]:
    """The URL of ``database`` through a pgbouncer with four connections to ``server``."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        unless_all_is_required("pgbouncer is not installed: Debian's package is `pgbouncer`")
    port = free_port()
    user = NOBODY if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir="/tmp") as folder:
        file = Path(folder, "pgbouncer.ini")
        file.write_text(SETTINGS.format(upstream=server.port, port=port))
        Path(folder).chmod(0o755)
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen([str(program), str(file)], user=user, stdout=log, stderr=log, cwd="/")
        url = f"postgresql://tester@127.0.0.1:{port}/{database}"
        try:
            end = time.monotonic() + 30
            while True:
                try:
                    psycopg.connect(url, connect_timeout=2).close()
                    break
                except psycopg.OperationalError:
                    assert process.poll() is None, Path(folder, "log").read_text()
                    assert time.monotonic() < end, Path(folder, "log").read_text()
                    time.sleep(0.05)
            yield url
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def pooled_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database through pgbouncer: it takes no ``options``, so no schema either."""
    name = f"pooled{free_port()}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"create database {name} encoding 'UTF8' template template0")
    with pgbouncer_running(postgres_server, name) as url:
        yield url
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")
