"""Flows and results in buckets: from registering to reading the result, with outages and kills in between."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import COMMAND, Cli
from servers.azure import Server as AzureServer
from servers.gcs import Server as GCSServer
from servers.proxy import FaultProxy
from servers.s3 import ROOT, Server

FLOWS = """
import os
from flow_agent import current_run, flow
from flow_agent.results import S3Result
from flow_agent.storages import S3

OPTIONS = {{"endpoint_url": "{url}", "region_name": "us-east-1", "config": {{"s3": {{"addressing_style": "path"}}}}}}
RESULTS = {{**OPTIONS, "endpoint_url": "{results}"}}

@flow(name="etl", storage=S3("{bucket}", client_options=OPTIONS), result=S3Result("{bucket}", client_options=RESULTS))
def etl(n: int = 1):
    with open("{trace}", "a") as trace:
        print(current_run().id, file=trace)
    print("mine:", *sorted(name for name in os.environ if name.startswith("AWS")), flush=True)
    return {{"n": n, "rows": list(range(n))}}
"""


@pytest.fixture
def s3(cli: Cli, s3_server: Server) -> Cli:
    cli.env |= s3_server.environment
    return cli


@pytest.fixture
def proxy(s3_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


def flows(cli: Cli, bucket: str, url: str, results: str = "") -> str:
    text = FLOWS.format(url=url, results=results or url, bucket=bucket, trace=cli.folder / "trace")
    return str(cli.write("flows.py", text))


def test_an_agent_with_the_label_takes_an_s3_flow_and_another_does_not(s3: Cli, s3_server: Server, bucket: str) -> None:
    s3("register", flows(s3, bucket, s3_server.url))
    (run,) = s3.submit("etl", "-p", "n=3")
    s3("start", "--until-empty")
    assert s3.state(run) == "queued"
    why = s3("why", run)
    assert "s3-flow-storage" in why
    s3("start", "--until-empty", "-l", "s3-flow-storage")
    shown = s3.show(run)
    assert (shown["state"], shown["reason"]) == ("succeeded", "completed")
    assert json.loads(s3("result", run)) == {"n": 3, "rows": [0, 1, 2]}
    assert set(s3("logs", run).split()) <= {"mine:", "AWS_CA_BUNDLE"}  # no credentials came along
    program = f"from flow_agent.client import handle; print(handle({run!r}).result()['n'])"
    done = s3.write("read.py", program)
    read = subprocess.run([sys.executable, done], env=s3.env, capture_output=True, text=True, check=True)
    assert read.stdout == "3\n"
    kept = s3.json("cache", "list")
    assert [(each["flow"], each["storage"]) for each in kept] == [("etl", "S3")]
    s3("cache", "clear")
    assert s3.json("cache", "list") == []


def test_credentials_stand_nowhere(s3: Cli, s3_server: Server, bucket: str) -> None:
    s3("register", flows(s3, bucket, s3_server.url))
    s3.submit("etl")
    s3("start", "--until-empty", "-l", "s3-flow-storage", "--log-level", "debug")
    value = s3_server.credentials["SECRET_ACCESS_KEY"].encode()
    read = [path for path in s3.home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert read
    assert [str(path) for path in read if value in path.read_bytes()] == []


def test_a_result_waits_for_its_store(s3: Cli, s3_server: Server, bucket: str, proxy: FaultProxy) -> None:
    s3("register", flows(s3, bucket, s3_server.url, proxy.url))
    proxy.reset = True
    (run,) = s3.submit("etl", "-p", "n=2")
    s3.start("-l", "s3-flow-storage")
    s3.until(lambda: "cannot be written yet" in s3("logs", run))
    assert s3.state(run) == "running"
    proxy.reset = False
    s3.until(lambda: s3.state(run) == "succeeded")
    assert json.loads(s3("result", run)) == {"n": 2, "rows": [0, 1]}
    assert (s3.folder / "trace").read_text().split() == [run]


def test_a_result_that_stays_unwritten_is_kept_and_recovered(
    s3: Cli, s3_server: Server, bucket: str, proxy: FaultProxy
) -> None:
    s3("register", flows(s3, bucket, s3_server.url, proxy.url))
    proxy.reset = True
    (run,) = s3.submit("etl", "-p", "n=2")
    s3("start", "--until-empty", "-l", "s3-flow-storage", "--result-seconds", "2")
    shown = s3.show(run)
    assert (shown["state"], shown["reason"]) == ("failed", "result_failed")
    said = s3.error("result", run, code=1)
    assert "--recover" in said
    s3.error("result", run, "--recover", code=1)
    proxy.reset = False
    s3("result", run, "--recover")
    assert json.loads(s3("result", run)) == {"n": 2, "rows": [0, 1]}
    assert (s3.folder / "trace").read_text().split() == [run]
    assert list((s3.home / "unwritten").iterdir()) == []


def test_a_run_that_is_cancelled_while_its_result_waits_ends_at_once_and_keeps_it(
    s3: Cli, s3_server: Server, bucket: str, proxy: FaultProxy
) -> None:
    s3("register", flows(s3, bucket, s3_server.url, proxy.url))
    proxy.hang = "head"  # in the middle of a try
    (run,) = s3.submit("etl", "-p", "n=2")
    s3.start("-l", "s3-flow-storage")
    s3.until(lambda: (s3.folder / "trace").exists() and proxy.requests)
    s3("cancel", run, "--wait")
    assert "cannot be written yet" not in s3("logs", run)  # the first try was not waited for
    shown = s3.show(run)
    assert (shown["state"], shown["reason"]) == ("cancelled", "cancelled")
    assert "before its result could be stored" in shown["detail"]
    proxy.hang = ""
    s3("result", run, "--recover")
    assert json.loads(s3("result", run)) == {"n": 2, "rows": [0, 1]}


def test_an_agent_that_is_killed_while_it_writes_a_result_loses_nothing(
    s3: Cli, s3_server: Server, bucket: str, proxy: FaultProxy
) -> None:
    s3("register", flows(s3, bucket, s3_server.url, proxy.url))
    proxy.reset = True
    (run,) = s3.submit("etl", "-p", "n=2")
    agent = s3.start("-l", "s3-flow-storage")
    s3.until(lambda: "cannot be written yet" in s3("logs", run))
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    proxy.reset = False
    s3.start("-l", "s3-flow-storage")
    s3.until(lambda: s3.state(run) == "succeeded")
    assert json.loads(s3("result", run)) == {"n": 2, "rows": [0, 1]}
    assert (s3.folder / "trace").read_text().split() == [run]


def test_a_store_that_hangs_does_not_delay_another(s3: Cli, s3_server: Server, bucket: str, proxy: FaultProxy) -> None:
    s3("register", flows(s3, bucket, s3_server.url))
    other = (s3.folder / "flows.py").read_text().replace(s3_server.url, proxy.url).replace("etl", "hanging")
    s3("register", str(s3.write("hanging.py", other)))
    proxy.hang = "head"
    hanging = [s3.submit("hanging", "-p", f"n={n}")[0] for n in range(20)]
    s3.start("-l", "s3-flow-storage", "--limit", "40")
    s3.until(lambda: proxy.requests >= 1)
    (run,) = s3.submit("etl")
    s3.until(lambda: s3.state(run) == "succeeded", 10)
    assert {s3.state(each) for each in hanging[:3]} == {"claimed"}


def test_a_flow_whose_object_is_gone_says_so(s3: Cli, s3_server: Server, bucket: str) -> None:
    s3("register", flows(s3, bucket, s3_server.url))
    client = s3_server.client(credentials=ROOT)
    for each in client.list_object_versions(Bucket=bucket)["Versions"]:
        client.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])
    client.close()
    (run,) = s3.submit("etl")
    s3("start", "--until-empty", "-l", "s3-flow-storage")
    shown = s3.show(run)
    assert (shown["state"], shown["reason"]) == ("failed", "flow_not_found")
    assert "register the flow again" in s3("why", run)


def test_doctor_says_whose_credentials_are_used(s3: Cli, s3_server: Server, bucket: str, proxy: FaultProxy) -> None:
    s3("register", flows(s3, bucket, s3_server.url, proxy.url))
    found = {check["name"]: check for check in s3.json("doctor")}
    assert found[f"S3 {bucket}"]["uses"] == "boto3: env"
    assert {check["state"] for check in found.values()} == {"ok"}
    assert s3_server.credentials["SECRET_ACCESS_KEY"] not in s3("doctor")
    proxy.replies = [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 45\r\n\r\n<Error><Code>AccessDenied</Code></Error>     "
    ]
    result = next(check for check in s3.json("doctor") if check["name"] == f"S3Result {bucket}")
    assert (result["state"], "may not list" in result["detail"]) == ("warning", True)
    proxy.refuse()
    done = s3.run("doctor")
    assert done.returncode == 1
    assert "failed" in done.stdout
    s3.env["AWS_SECRET_ACCESS_KEY"] = "not-the-right-one"
    done = s3.run("doctor")
    assert "SignatureDoesNotMatch" in done.stdout
    assert "not-the-right-one" not in done.stdout + done.stderr


CLOUDS = """
from flow_agent import flow
from flow_agent.storages import {kind}

@flow(name="cloudy", storage={kind}({arguments}))
def cloudy():
    return list(range(20_000))
"""


@pytest.mark.parametrize("kind", ["GCS", "Azure"])
def test_flows_and_results_of_the_other_clouds(
    kind: str, cli: Cli, gcs_server: GCSServer, gcs_bucket: str, azure_server: AzureServer, container: str
) -> None:
    """Without a result of its own, a flow's result goes where the flow lies."""
    if kind == "GCS":
        cli.env["GCP_KEY"] = gcs_server.account()
        options = f"client_options={{'endpoint_url': {gcs_server.url!r}}}, credentials_secret='GCP_KEY'"
        arguments, label = f"{gcs_bucket!r}, {options}", "gcs-flow-storage"
    else:
        cli.env["AZURE_STORAGE_CONNECTION_STRING"] = azure_server.connection_string()
        arguments, label = repr(container), "azure-flow-storage"
    cli("register", str(cli.write("clouds.py", CLOUDS.format(kind=kind, arguments=arguments))))
    runs = [cli.submit("cloudy")[0] for _ in range(2)]
    cli("start", "--until-empty", "-l", label)
    assert {cli.state(run) for run in runs} == {"succeeded"}
    assert json.loads(cli("result", runs[0]))[-1] == 19_999
    assert {check["state"] for check in cli.json("doctor")} == {"ok"}


SECRETIVE = """
import base64, json, sys, time, urllib.parse
from flow_agent import current_run, flow

@flow(name="secretive", secrets=["PLANTED", "KEY_FILE"])
def secretive():
    value = current_run().secret("PLANTED")
    print("plain", value)
    print("json", json.dumps({"password": value}))
    print("url", urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value))
    print("base64", base64.b64encode(value.encode()).decode(), base64.urlsafe_b64encode(value.encode()).decode())
    print("repr", [value])
    for part in (value[:7], value[7:]):
        sys.stdout.write(part)
        sys.stdout.flush()
        time.sleep(0.3)
    print()
    sys.stdout.write("x" * (65536 - 5) + value + "\\n")
    print(current_run().secret("KEY_FILE"))
    current_run().logger.warning("logged %s", value)
    raise ValueError(f"bad password {value} in {json.dumps(value)}")
"""


def test_a_planted_secret_is_seen_nowhere(cli: Cli) -> None:
    planted, lines = 'pa"ss wörd/+=1234', "-----BEGIN KEY-----\nMIIEvAIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----"
    cli("secrets", "set", "PLANTED", stdin=f"{planted}\n")
    cli("secrets", "set", "KEY_FILE", stdin=lines)
    kept = cli.home / "secrets.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [each["name"] for each in cli.json("secrets", "list")] == ["KEY_FILE", "PLANTED"]
    cli("register", str(cli.write("secretive.py", SECRETIVE)))
    (run,) = cli.submit("secretive")
    cli("start", "--until-empty", "--log-level", "debug")
    seen = cli("logs", run) + cli("show", run) + cli("show", run, "--json") + cli("why", run) + cli.log()
    assert "plain" in seen
    assert "logged" in seen
    forms = {
        planted,
        json.dumps(planted)[1:-1],
        urllib.parse.quote(planted, safe=""),
        urllib.parse.quote_plus(planted),
        base64.b64encode(planted.encode()).decode(),
        base64.urlsafe_b64encode(planted.encode()).decode(),
        "MIIEvAIBADANBg",
        "kqhkiG9w0BAQEF",
    }
    assert [form for form in forms if form in seen] == []
    for path in cli.home.rglob("*"):
        if path.is_file() and path != kept and not path.is_symlink():
            data = path.read_bytes()
            assert [form for form in forms if form.encode() in data] == [], path
    cli("secrets", "unset", "PLANTED")
    cli.error("secrets", "unset", "PLANTED", code=1)
    (again,) = cli.submit("secretive")
    cli("start", "--until-empty")
    assert cli.show(again)["reason"] == "secret_not_found"


def test_a_secret_that_is_being_changed_is_never_half_there(cli: Cli, tmp_path: Path) -> None:
    """Killed at any moment, the file holds the old values or the new ones."""
    for number in range(12):
        value = f"{number}-" * 5000
        process = subprocess.Popen([COMMAND, "secrets", "set", "CHANGED"], env=cli.env, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(value.encode())
        process.stdin.close()
        try:
            process.wait(0.1 + 0.02 * number)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if (cli.home / "secrets.json").exists():
            kept = json.loads((cli.home / "secrets.json").read_text())
            assert set(kept) <= {"CHANGED"}
            assert len(set(kept["CHANGED"]["value"].split("-"))) == 2
