"""The same script in every storage: edit it where it lies, and the next run is the new version, unless it is pinned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command import Cli

SCRIPT = """
from flow_agent import flow

from steps import load

@flow(name="etl")
def etl(expected):
    if load() != expected:
        raise ValueError(f"version {load()} runs, expected {expected}")
"""
STEPS = "def load():\n    return {version}\n"
DECLARATION = """
from pathlib import Path

from etl import etl
from flow_agent.storages import {kind}

HERE = Path(__file__).parent
etl.storage = {kind}({arguments})

if __name__ == "__main__":
    etl.storage.build()
"""
WEBHOOK = """
    build_request_kwargs={{"url": "https://files.example.org/{name}", "headers": {login}}},
    build_request_http_method="PUT",
    get_flow_request_kwargs={{"url": "https://files.example.org/{name}", "headers": {login}}},
    get_flow_request_http_method="GET",
    root=HERE, stored_as_script=True
"""
LOGIN = {"Authorization": "Bearer ${THE_TOKEN}"}
FOLDER = 'path="flows/etl.py", root="flows"'


@dataclass(frozen=True)
class Place:
    """Where the script lies: the declaration that follows it, the one that is pinned, how an edit gets there."""

    kind: str
    follows: str
    pinned: str
    publish: Callable[[], str | None]
    """Gives the revision that a run then has; None: whatever the storage calls it."""

    @property
    def label(self) -> str:
        return f"{self.kind.lower()}-flow-storage"


REPOSITORIES = {
    "GitHub": f'"owner/name", {FOLDER}, access_token_secret="THE_TOKEN"',
    "GitLab": f'"group/sub/name", {FOLDER}, access_token_secret="THE_TOKEN"',
    "Bitbucket Cloud": f'workspace="team", repo="name", {FOLDER}, access_token_secret="THE_TOKEN"',
    "Bitbucket Server": f'"PRJ", "name", host="https://bitbucket.example.org", {FOLDER},'
    ' access_token_secret="THE_TOKEN"',
    "CodeCommit": f'"name", {FOLDER}, client_options={{"region_name": "eu-central-1"}}',
    "Git HTTPS": '"flows/etl.py", "owner/name", "git.example.org", root="flows", git_token_secret_name="THE_TOKEN"',
    "Git SSH": '"flows/etl.py", "git@git.example.org:owner/name.git", root="flows"',
}
STORES = {"S3": "key", "GCS": "key", "Azure": "overwrite=True, blob_name"}
FIXTURES = {"S3": ("s3_server", "bucket"), "GCS": ("gcs_server", "gcs_bucket"), "Azure": ("azure_server", "container")}


def in_files(cli: Cli) -> Place:
    arguments = "root=HERE, stored_as_script=True"
    return Place("Local", arguments, f"{arguments}, pin=True", lambda: None)


def in_repository(name: str, cli: Cli) -> Place:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(cli.folder), *arguments]
        return subprocess.run(command, env=cli.env, check=True, capture_output=True, text=True).stdout.strip()

    def publish() -> str:
        git("add", "flows")
        git("commit", "-q", "-m", "change")
        git("push", "-q", "git@git.example.org:owner/name.git", "main")
        return git("rev-parse", "HEAD")

    git("init", "-q", "-b", "main")
    arguments = REPOSITORIES[name]
    return Place(name.partition(" ")[0], arguments, f"{arguments}, pin=True", publish)


def by_building(cli: Cli, kind: str, follows: str, pinned: str) -> Place:
    def publish() -> None:
        subprocess.run([sys.executable, "flows/follows.py"], cwd=cli.folder, env=cli.env, check=True)

    return Place(kind, follows, f"{pinned}, pin=True", publish)


def in_store(kind: str, cli: Cli, request: pytest.FixtureRequest) -> Place:
    server, bucket = (request.getfixturevalue(name) for name in FIXTURES[kind])
    if kind == "S3":
        cli.env |= server.environment | {"AWS_ENDPOINT_URL_S3": server.url}
    elif kind == "GCS":
        key = cli.write("key.json", server.account())
        cli.env |= {"STORAGE_EMULATOR_HOST": server.url, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    else:
        cli.env["AZURE_STORAGE_CONNECTION_STRING"] = server.connection_string()
    common = f"{bucket!r}, root=HERE, stored_as_script=True, {STORES[kind]}"
    return by_building(cli, kind, f'{common}="scripts/etl"', f'{common}="pinned/etl"')


@pytest.fixture(params=["Local", *REPOSITORIES, *STORES, "Webhook"])
def place(request: pytest.FixtureRequest, cli: Cli) -> Place:
    if request.param == "Local":
        return in_files(cli)
    if request.param in STORES:
        return in_store(request.param, cli, request)
    internet = request.getfixturevalue("internet")
    cli.env |= internet.environment | {
        "THE_TOKEN": internet.token,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    if request.param == "Webhook":
        follows, pinned = (WEBHOOK.format(name=name, login=LOGIN).rstrip() for name in ("etl", "pinned"))
        return by_building(cli, "Webhook", follows, pinned)
    return in_repository(request.param, cli)


def run(cli: Cli, version: int) -> Any:
    """One run of the flow, which must be that version of the script."""
    return cli.json("submit", "etl", "-p", f"expected={version}", "--wait")


def test_an_edit_is_the_next_run_and_what_is_pinned_stays(place: Place, cli: Cli) -> None:
    def edit(version: int) -> str | None:
        cli.write("flows/steps.py", STEPS.format(version=version))
        return place.publish()

    def declare(name: str, arguments: str) -> Path:
        return cli.write(f"flows/{name}.py", DECLARATION.format(kind=place.kind, arguments=arguments))

    cli.write("flows/etl.py", SCRIPT)
    follows, pinned = declare("follows", place.follows), declare("pinned", place.pinned)
    cli.start("-l", place.label)
    commits = [edit(1)]
    cli("register", str(follows))
    runs = [run(cli, 1)]
    commits.append(edit(2))
    runs.append(run(cli, 2))
    cli("register", str(pinned))
    edit(3)
    runs.append(run(cli, 2))
    assert [each["version"] for each in runs] == [1, 1, 2]
    assert runs[0]["revision"] != runs[1]["revision"]
    if commits[0] is not None:
        assert [each["revision"] for each in runs] == [*commits, commits[1]]


BROKEN = {
    "raised": (f"{SCRIPT}\n__import__('os').environ['NOT_THERE']\n", "KeyError: 'NOT_THERE'"),
    "flow_not_found": (
        SCRIPT.replace('"etl"', '"nightly"'),
        "there is no flow 'etl' in etl.py; found: 'nightly'",
    ),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_an_edit_that_does_not_load_and_one_that_renames_the_flow_are_told_apart(reason: str, cli: Cli) -> None:
    place = in_files(cli)
    cli.write("flows/steps.py", STEPS.format(version=1))
    cli.write("flows/etl.py", SCRIPT)
    declaration = DECLARATION.format(kind=place.kind, arguments=place.follows)
    cli("register", str(cli.write("flows/follows.py", declaration)))
    text, detail = BROKEN[reason]
    cli.write("flows/etl.py", text)
    (run,) = cli.submit("etl", "-p", "expected=1")
    cli("start", "--until-empty")
    shown = cli.show(run)
    assert (shown["reason"], shown["detail"]) == (reason, detail)
