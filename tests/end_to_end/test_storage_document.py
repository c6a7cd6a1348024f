"""The snippets of the older system's page on storage options, with only their imports changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from command import Cli
from flow_agent.storages.dockerfile import default_base
from images import without_further_images
from servers.azure import Server as AzureServer
from servers.azure import make_container
from servers.docker_engine import docker_running, shared
from servers.docker_image import IMAGE
from servers.gcs import Server as GCSServer
from servers.gcs import make_bucket as make_gcs_bucket
from servers.registry import registry_running
from servers.s3 import ROOT, Server, make_bucket

SNIPPETS = {
    "s3": """
from flow_agent import Flow
from flow_agent.storages import S3

flow = Flow("s3-flow", storage=S3(bucket="my-bucket"))

flow.storage.build()
""",
    "gcs": """
from flow_agent import Flow
from flow_agent.storages import GCS

flow = Flow("gcs-flow", storage=GCS(bucket="my-bucket"))

flow.storage.build()
""",
    "azure": """
from flow_agent import Flow
from flow_agent.storages import Azure

flow = Flow("azure-flow", storage=Azure(container="my-container", connection_string_secret="my-connection-string"))

flow.storage.build()
""",
    "docker": """
from flow_agent import Flow
from flow_agent.storages import Docker

flow = Flow("gcs-flow", storage=Docker(registry_url="<my-registry.io>", image_name="my_flow"))

flow.storage.build()
""",
    "containers": """
from flow_agent import Flow
from flow_agent.environments import LocalEnvironment
from flow_agent.storages import S3

flow = Flow("example")

# set flow storage
flow.storage = S3(bucket="my-bucket", secrets=["AWS_CREDENTIALS"])

# set flow environment
flow.environment = LocalEnvironment(metadata={"image": "repo/name:tag"})
""",
}


@pytest.fixture
def clouds(cli: Cli, s3_server: Server, gcs_server: GCSServer, azure_server: AzureServer) -> Cli:
    key = cli.write("key.json", gcs_server.account())
    make_bucket(s3_server, "my-bucket")
    make_gcs_bucket(gcs_server, "my-bucket")
    make_container(azure_server, "my-container")
    cli.env |= {
        "AWS_ENDPOINT_URL_S3": s3_server.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": gcs_server.url,
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
    }
    cli("secrets", "set", "AWS_CREDENTIALS", stdin=s3_server.secret)
    cli("secrets", "set", "my-connection-string", stdin=azure_server.connection_string())
    return cli


def test_s3(clouds: Cli, s3_server: Server) -> None:
    clouds.write("s3.py", SNIPPETS["s3"])
    subprocess.run([sys.executable, "s3.py"], cwd=clouds.folder, env=clouds.env, check=True)
    client = s3_server.client(credentials=ROOT)
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="my-bucket", Prefix="s3-flow/")["Contents"]]
    client.close()
    assert len(keys) == 1


def test_gcs(clouds: Cli) -> None:
    clouds.write("gcs.py", SNIPPETS["gcs"] + '\nprint(flow.storage.stored["gcs-flow"].location["key"])\n')
    done = subprocess.run(
        [sys.executable, "gcs.py"], cwd=clouds.folder, env=clouds.env, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("gcs-flow/20")


def test_azure(clouds: Cli, azure_server: AzureServer) -> None:
    clouds.write("azure_flow.py", SNIPPETS["azure"])
    subprocess.run([sys.executable, "azure_flow.py"], cwd=clouds.folder, env=clouds.env, check=True)
    with BlobServiceClient.from_connection_string(azure_server.connection_string()) as client:
        names = [blob.name for blob in client.get_container_client("my-container").list_blobs("azure-flow/")]
    assert len(names) == 1


@pytest.mark.timeout(300)
def test_docker(cli: Cli, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The default base image is pulled from a mirror of the public registry, which few machines of tests reach."""
    base = default_base()
    with (
        docker_running(shared(tmp_path_factory)) as server,
        registry_running(server, tmp_path_factory.mktemp("mirror")) as registry,
    ):
        with without_further_images(server) as engine:
            mirrored = f"{registry.address}/library/{base}"
            engine.sdk.tag(IMAGE, *mirrored.rsplit(":", 1))
            engine.sdk.push(mirrored)
        server.stop()
        server.start(f"--registry-mirror=http://{registry.address}")
        cli.env |= {"DOCKER_HOST": server.url}
        cli.write("docker_flow.py", SNIPPETS["docker"].replace("<my-registry.io>", registry.address))
        done = subprocess.run(
            [sys.executable, "docker_flow.py"], cwd=cli.folder, env=cli.env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert f"pulled {base}" in done.stderr
        (tag,) = registry.tags("my_flow")
        assert tag.startswith("20")


def test_the_flow_of_an_agent_in_containers_asks_for_the_label_of_s3(clouds: Cli) -> None:
    clouds.env["PYTHONWARNINGS"] = "default"  # an environment is deprecated, and says so
    clouds("register", str(clouds.write("example.py", SNIPPETS["containers"])))
    (run,) = clouds.submit("example")
    assert clouds.show(run)["labels"] == ["s3-flow-storage"]
    clouds("start", "--until-empty", "-l", "s3-flow-storage")
    assert clouds.state(run) == "succeeded"
