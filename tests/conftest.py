"""What all tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Cli
from disks import disk  # noqa: F401 - fixture
from servers.azure import azure_server, container  # noqa: F401 - fixtures
from servers.docker_engine import docker_engine, docker_engine_server  # noqa: F401 - fixtures
from servers.dropbox import dropbox, secure_dropbox  # noqa: F401 - fixtures
from servers.ecs import ecs, moto_server  # noqa: F401 - fixtures
from servers.gcs import gcs_bucket, gcs_server  # noqa: F401 - fixtures
from servers.git_hosts import git_hosts, work, work_template  # noqa: F401 - fixtures
from servers.git_servers import git_http, git_ssh  # noqa: F401 - fixtures
from servers.internet import internet  # noqa: F401 - fixture
from servers.kubernetes_api import kubernetes  # noqa: F401 - fixture
from servers.pgbouncer import pooled_url  # noqa: F401 - fixture
from servers.postgres import postgres_server, postgres_url  # noqa: F401 - fixtures
from servers.registry import private_registry, registry  # noqa: F401 - fixtures
from servers.s3 import bucket, rclone_server, s3_server  # noqa: F401 - fixtures
from servers.secret_services import secret_services  # noqa: F401 - fixture

# In the background of a shell script it is ignored, and so it would be in all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("flow_agent.testing.queue_contract")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a test has to say also where it passed, such as the seed of what it did at random."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture
def own_home(tmp_path, monkeypatch) -> Path:
    """A home for settings read in this process, and no other setting from the variables of who runs the tests."""
    for name in [name for name in os.environ if name.startswith("FLOW_AGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOW_AGENT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The installed command, in a home of its own."""
    cli = Cli(tmp_path)
    yield cli
    cli.close()
