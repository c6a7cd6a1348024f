"""Flows that lie in a bucket or a repository already, registered where they are, and run."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import cloudpickle
import pytest

from command import Cli
from flow_agent.errors import RegistrationError
from flow_agent.hosts import github
from flow_agent.operations import register
from flow_agent.queues import memory
from flow_agent.storages import author
from servers.azure import Server as AzureServer
from servers.gcs import Server as GCSServer
from servers.git_hosts import Hosts, Work
from servers.s3 import Server

Put = Callable[[str, bytes], str]
SCRIPT = b"""
from flow_agent import flow
from flow_agent.storages import Local

@flow(name="one", labels=["mine"], storage=Local())
def one(n: int = 1):
    return n + ADDED

@flow
def two():
    return 2

ADDED = 10
"""


@pytest.fixture(params=["s3", "gs", "az"])
def put(
    request: pytest.FixtureRequest,
    cli: Cli,
    s3_server: Server,
    bucket: str,
    gcs_server: GCSServer,
    gcs_bucket: str,
    azure_server: AzureServer,
    container: str,
) -> Put:
    """Puts an object into a bucket of that cloud, and gives its address; ``cli`` may read it."""

    def s3(key: str, data: bytes) -> str:
        cli.env |= s3_server.environment | {"AWS_ENDPOINT_URL": s3_server.url}
        client = s3_server.client()
        client.put_object(Bucket=bucket, Key=key, Body=data)
        client.close()
        return f"s3://{bucket}/{key}"

    def gs(key: str, data: bytes) -> str:
        cli.env |= {"GCP_CREDENTIALS": gcs_server.account(), "STORAGE_EMULATOR_HOST": gcs_server.url}
        connection = http.client.HTTPConnection("127.0.0.1", gcs_server.upstream)
        connection.request("POST", f"/upload/storage/v1/b/{gcs_bucket}/o?uploadType=media&name={quote(key)}", data)
        assert connection.getresponse().status == 200
        connection.close()
        return f"gs://{gcs_bucket}/{key}"

    def az(key: str, data: bytes) -> str:
        cli.env["AZURE_STORAGE_CONNECTION_STRING"] = azure_server.connection_string()
        with azure_server.client() as client:
            client.get_blob_client(container, key).upload_blob(data, overwrite=True)
        return f"az://{container}/{key}"

    return {"s3": s3, "gs": gs, "az": az}[request.param]


LABELS = ("-l", "s3-flow-storage", "-l", "gcs-flow-storage", "-l", "azure-flow-storage", "-l", "mine")


def test_a_script_in_a_bucket_is_registered_where_it_is_and_followed(put: Put, cli: Cli) -> None:
    address = put("flows/etl.py", SCRIPT)
    (made,) = cli.json("register", f"{address}:one")
    assert (made["flow"], made["kind"], made["pinned"]) == ("one", "script", False)
    assert len(made["labels"]) == 2  # its own and that of the bucket, none of this machine
    assert len(cli.json("register", address)) == 2
    (before,) = cli.submit("one", "-p", "n=2")
    cli("start", "--until-empty", *LABELS)
    put("flows/etl.py", SCRIPT.replace(b"ADDED = 10", b"ADDED = 20"))
    (after,) = cli.submit("one", "-p", "n=2")
    cli("start", "--until-empty", *LABELS)
    assert (cli.json("result", before), cli.json("result", after)) == (12, 22)


def test_a_pickled_function_in_a_bucket_is_registered_where_it_is(put: Put, cli: Cli) -> None:
    def thrice(n: int = 1) -> int:
        return 3 * n

    address = put("stored/thrice", cloudpickle.dumps(thrice))
    (made,) = cli.json("register", address)
    assert (made["flow"], made["kind"], made["pinned"]) == ("thrice", "pickle", True)
    (run,) = cli.submit("thrice", "-p", "n=5")
    cli("start", "--until-empty", *LABELS)
    assert cli.json("result", run) == 15, cli.show(run)


def test_what_is_not_there_or_no_flow_is_said(put: Put, cli: Cli) -> None:
    address = put("a/list", cloudpickle.dumps([1, 2]))
    assert "holds a list, expected a flow or a function" in cli.error("register", address, code=1)
    assert "there is no flow" in cli.error("register", put("a/empty.py", b"x = 1\n"), code=1)
    assert "raises ValueError: no" in cli.run("register", put("a/bad.py", b"raise ValueError('no')\n")).stderr
    assert "a/none" in cli.error("register", address.replace("a/list", "a/none"), code=1)
    assert cli.json("flows") == []


@pytest.mark.anyio
async def test_a_script_in_a_repository_is_registered_where_it_is(
    git_hosts: Hosts, work: Work, own_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(github, "API", f"{git_hosts.url}/github")
    async with memory.open_queue("memory:") as queue:

        async def registered(target: str) -> Any:
            return await register(queue, [target], on_output=print, secrets_of=author.secrets)

        (made,) = await registered("https://github.com/owner/name/blob/trunk/alone.py")
        assert (made.flow, made.kind, made.storage["type"], made.storage["repo"]) == (
            "alone",
            "script",
            "GitHub",
            "owner/name",
        )
        assert (made.location["path"], made.location["ref"]) == ("alone.py", "trunk")
        with pytest.raises(RegistrationError, match=r"nope\.py"):
            await registered("https://github.com/owner/name/blob/trunk/nope.py")
        with pytest.raises(RegistrationError, match="no-such"):
            await registered("https://github.com/owner/name/blob/no-such/alone.py")
