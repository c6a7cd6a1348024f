"""Two servers of S3: ministack, which checks signatures and keeps versions, and rclone, which is another program."""

import contextlib
import functools
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from servers.process import free_port, installed, running

ROOT = {"ACCESS_KEY": "test", "SECRET_ACCESS_KEY": "test"}
READS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject*", "s3:PutObject*", "s3:DeleteObject*"], "Resource": "*"}
    ],
}


@functools.cache
def _session() -> boto3.session.Session:
    """One for all tests: it takes a second to read what it knows of the services."""
    return boto3.session.Session()


@dataclass(frozen=True)
class Server:
    """Where it listens, and the secret AWS_CREDENTIALS that it takes."""

    url: str
    credentials: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 itself looks for."""
        return {
            "AWS_ACCESS_KEY_ID": self.credentials["ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": self.credentials["SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def secret(self) -> str:
        return json.dumps(self.credentials)

    def client(self, service: str = "s3", credentials: dict[str, str] | None = None) -> Any:
        """A plain client of boto3; the caller closes it."""
        keys = credentials or self.credentials
        return _session().client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=keys["ACCESS_KEY"],
            aws_secret_access_key=keys["SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 3}),
        )


@contextmanager
def ministack(folder: Path) -> Iterator[Server]:
    """Ministack with users; ``credentials`` are those of one who may not list."""
    port = free_port()
    command = [installed("python"), "-m", "hypercorn", "ministack.app:app", "--bind", f"127.0.0.1:{port}"]
    env = {
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",
        "AUTH": "true",
    }
    with running(command, port, folder / "ministack.log", env) as url:
        root = Server(url, ROOT)
        iam = root.client("iam")
        iam.create_user(UserName="flows")
        iam.put_user_policy(UserName="flows", PolicyName="objects", PolicyDocument=json.dumps(READS))
        key = iam.create_access_key(UserName="flows")["AccessKey"]
        iam.close()
        yield Server(url, {"ACCESS_KEY": key["AccessKeyId"], "SECRET_ACCESS_KEY": key["SecretAccessKey"]})


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """Rclone's server over a folder; a bucket is a folder in it."""
    port, place = free_port(), folder / "rclone"
    place.mkdir()
    keys = {"ACCESS_KEY": "rclone-key", "SECRET_ACCESS_KEY": "rclone-secret"}
    command = [
        installed("rclone"),
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        ",".join(keys.values()),
        place,
    ]
    with running(command, port, folder / "rclone.log") as url:
        yield Server(url, keys)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ministack(tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: Server) -> str:
    """An empty bucket with versions."""
    name = f"flows-{uuid.uuid4().hex[:12]}"
    make_bucket(s3_server, name)
    return name


def make_bucket(server: Server, name: str) -> None:
    """A bucket with versions; one that is there stays."""
    with contextlib.closing(server.client(credentials=ROOT)) as root:
        root.create_bucket(Bucket=name)
        root.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
