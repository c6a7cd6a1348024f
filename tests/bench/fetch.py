"""What does it cost to fetch flows from an object store?

1,000 small pickles from S3, 16 at a time: for the first time, then from the cache, and 1,000 scripts of which the store
is asked whether they have changed. Beside each the bare call of boto3 in as many threads, or the bare copy. One object
of 500 MB: seconds and peak memory, beside boto3's own download. The store is rclone over a folder of this machine.
Then the memory of an agent that has run a flow of each of S3, GCS and Azure, beside one that has run local flows only.
Budget: the event loop is free, a large payload is not held in memory; the rest is shown beside the bare call.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import harness
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from flow_agent import Flow
from flow_agent.cache import Cache
from flow_agent.client import submit
from flow_agent.model import Registration
from flow_agent.objects.pool import clients
from flow_agent.registration import build_registrations
from flow_agent.resolver import Resolver
from flow_agent.storages import S3
from servers.azure import azurite, make_container
from servers.gcs import fake_gcs
from servers.gcs import make_bucket as make_gcs_bucket
from servers.s3 import Server, rclone

COUNT, AT_ONCE, ROUNDS = 1_000, 16, 3
LARGE = 500_000_000
NOBODY = Resolver(())
LOCAL = """
from flow_agent import flow

@flow(name="local")
def local():
    return None
"""
CLOUDS = """
from flow_agent import Flow
from flow_agent.storages import Azure, GCS, S3

def nothing():
    return None

s3 = Flow("S3", nothing, storage=S3("my-flows", add_default_labels=False))
gcs = Flow("GCS", nothing, storage=GCS("my-flows", add_default_labels=False))
azure = Flow("Azure", nothing, storage=Azure("my-flows", add_default_labels=False))
"""


def storage(server: Server, **given: Any) -> S3:
    options = {"endpoint_url": server.url, "region_name": "us-east-1", "config": {"s3": {"addressing_style": "path"}}}
    return S3("flows", client_options=options, **given)


async def fetch_all(server: Server, made: Sequence[Registration], cache: Cache, into: Path) -> float:
    """Seconds to fetch all of ``made``."""
    shutil.rmtree(into, ignore_errors=True)
    limit, source = anyio.CapacityLimiter(AT_ONCE), storage(server)

    async def one(number: int, registration: Registration) -> None:
        async with limit:
            folder = into / str(number)
            folder.mkdir(parents=True)
            await cache.fetch(source, registration, folder, NOBODY)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number, registration in enumerate(made):
            tasks.start_soon(one, number, registration)
    return time.perf_counter() - began


def threads(work: Callable[[int], object]) -> float:
    """Seconds for ``COUNT`` calls in ``AT_ONCE`` threads."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, range(COUNT)))
    return time.perf_counter() - began


async def small(server: Server, folder: Path) -> None:
    pickles = build_registrations([Flow(f"flow-{n}", print, storage=storage(server)) for n in range(COUNT)])
    script = folder / "flow.py"
    script.write_text("from flow_agent import flow\n\n@flow\ndef one():\n    return 1\n")
    options = {"stored_as_script": True, "local_script_path": script}
    scripts = build_registrations(
        [Flow(f"script-{n}", print, storage=storage(server, **options)) for n in range(COUNT)]
    )
    client, found = server.client(), {name: [] for name in ("cold", "bare", "cached", "copy", "asked", "bare asked")}
    tags = [client.head_object(Bucket="flows", Key=each.location["key"])["ETag"] for each in scripts]

    def get(number: int) -> None:
        body = client.get_object(Bucket="flows", Key=pickles[number].location["key"])["Body"].read()
        (folder / "bare").write_bytes(body)

    def ask(number: int) -> None:
        with contextlib.suppress(client.exceptions.ClientError):  # 304
            client.get_object(Bucket="flows", Key=scripts[number].location["key"], IfNoneMatch=tags[number])

    def copy(number: int) -> None:
        shutil.copy(script, folder / f"copy{number}")

    async with clients():
        for number in range(ROUNDS):
            cache = Cache(folder / f"cache{number}", 10**9)
            found["bare"].append(await anyio.to_thread.run_sync(threads, get))
            found["cold"].append(await fetch_all(server, pickles, cache, folder / "into"))
            found["cached"].append(await fetch_all(server, pickles, cache, folder / "into"))
            found["copy"].append(await anyio.to_thread.run_sync(threads, copy))
            await fetch_all(server, scripts, cache, folder / "into")
            found["bare asked"].append(await anyio.to_thread.run_sync(threads, ask))
            found["asked"].append(await fetch_all(server, scripts, cache, folder / "into"))
    client.close()
    middle = {name: statistics.median(values) for name, values in found.items()}
    harness.table(
        ["1,000 small flows", "seconds", "beside it", "seconds", "ratio"],
        [
            [
                "for the first time, kept on the disk",
                middle["cold"],
                "boto3 get_object",
                middle["bare"],
                middle["cold"] / middle["bare"],
            ],
            ["from the cache", middle["cached"], "shutil.copy", middle["copy"], middle["cached"] / middle["copy"]],
            [
                "asked whether they have changed",
                middle["asked"],
                "boto3 get_object, 304",
                middle["bare asked"],
                middle["asked"] / middle["bare asked"],
            ],
        ],
    )


# One large payload, each time in a process of its own: peak memory is that of a process


def once(how: str, url: str, folder: str) -> None:
    """Fetch the large object, and print seconds and peak memory in MB."""
    server = Server(url, {"ACCESS_KEY": "rclone-key", "SECRET_ACCESS_KEY": "rclone-secret"})
    if how == "fetched":
        made = Registration(
            flow="large", kind="script", storage={"type": "S3"}, location={"key": "large", "script": "x"}
        )

        async def fetch() -> float:
            async with clients():
                return await fetch_all(server, [made], Cache(Path(folder) / "cache", 0), Path(folder) / "into")

        seconds = anyio.run(fetch)
    else:
        client = server.client()
        seconds = harness.timed(lambda: client.download_file("flows", "large", f"{folder}/bare"))
    print(seconds, peak())


def large(server: Server, folder: Path) -> None:
    file = folder / "large"
    with file.open("wb") as opened:
        for _ in range(LARGE // 1_000_000):
            opened.write(os.urandom(1_000_000))
    client = server.client()
    client.upload_file(str(file), "flows", "large")
    client.close()
    rows = []
    for how in ("fetched", "boto3 download_file"):
        runs = []
        for _ in range(ROUNDS):
            command = [sys.executable, __file__, how, server.url, str(folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append([float(word) for word in done.stdout.split()])
        rows.append([how, *(statistics.median(values) for values in zip(*runs, strict=True))])
    harness.table(["500 MB", "seconds", "peak MB"], rows)


def peak() -> float:
    """MB that this process has held at most; getrusage would count what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


# Memory of an agent


def memory(flows: str, names: Sequence[str]) -> float:
    """MB (PSS) of an agent that has run ``names``."""
    with harness.new_home(flows) as home, harness.agent(home) as agent:
        for name in names:
            submit(name).wait(60)
        time.sleep(3)
        return psutil.Process(agent.pid).memory_full_info().pss / 1e6


def agents(folder: Path) -> None:
    with rclone(folder / "rclone-two") as s3, fake_gcs(folder) as gcs, azurite(folder) as azure:
        client = s3.client()
        client.create_bucket(Bucket="my-flows")
        client.close()
        make_gcs_bucket(gcs, "my-flows")
        make_container(azure, "my-flows")
        key = folder / "key.json"
        key.write_text(gcs.account())
        os.environ |= {
            **s3.environment,
            "AWS_ENDPOINT_URL_S3": s3.url,
            "STORAGE_EMULATOR_HOST": gcs.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "AZURE_STORAGE_CONNECTION_STRING": azure.connection_string(),
        }
        rows = [
            ["local flows only", memory(LOCAL, ["local"])],
            ["flows from S3, GCS and Azure", memory(CLOUDS, ["S3", "GCS", "Azure"])],
        ]
    harness.table(["agent that has run", "MB (PSS)"], rows)


def main() -> None:
    harness.title("What does it cost to fetch flows from an object store?")
    with tempfile.TemporaryDirectory(prefix="flow-agent-bench-") as name:
        folder = Path(name)
        (folder / "rclone-two").mkdir()
        with rclone(folder) as server:
            os.environ |= server.environment | {"FLOW_AGENT_HOME": str(folder / "home")}
            client = server.client()
            client.create_bucket(Bucket="flows")
            client.close()
            anyio.run(small, server, folder)
            large(server, folder)
        agents(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        once(*sys.argv[1:])
    else:
        main()
