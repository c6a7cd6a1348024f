"""Another program migrates the queue while agents of this one work on it: both databases, real migrations."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

import flow_agent
from command import Cli

FLOWS = """
import time
from flow_agent import flow

@flow(name="naps")
def naps(seconds: float = 0.0):
    print("begins", flush=True)
    time.sleep(seconds)
    return seconds
"""
SAFE = """-- safe: a column that older programs leave empty, and an index
-- Why: for this test.
-- Cost: reads the runs once.

alter table runs add column colour text;
create index runs_by_colour on runs (colour) where colour is not null;
"""
BREAKING = """-- breaking: for this test
-- Why: for this test.
-- Cost: none.

create table colours (name text primary key);
"""


def later_version(folder: Path, name: str, text: str) -> str:
    """The command of a program that is this one, with one migration more."""
    package = folder / "flow_agent"
    here = Path(flow_agent.__file__).parent
    shutil.copytree(here, package, ignore=shutil.ignore_patterns("__pycache__"))
    for database in ("sqlite", "postgres"):
        (package / "queues/sql" / database / name).write_text(text)
    command = folder / "flow-agent"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -m flow_agent "$@"\n')
    command.chmod(0o755)
    return str(command)


@pytest.fixture(params=["sqlite", "postgres"])
def upgraded(request, cli: Cli) -> Cli:
    """A home with flows and an agent that has done a run."""
    if request.param == "postgres":
        cli.env["FLOW_AGENT_QUEUE"] = request.getfixturevalue("postgres_url")
    cli("register", str(cli.write("flows.py", FLOWS)))
    return cli


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_agents_go_on_while_and_after_a_safe_migration_is_applied(upgraded: Cli, tmp_path: Path) -> None:
    cli = upgraded
    old = cli.command
    new = later_version(tmp_path / "later", "0901_colours.sql", SAFE)
    agent = cli.start("--name", "one", "--limit", "2")
    (long,) = cli.submit("naps", "-p", "seconds=6")
    cli.until(lambda: cli.state(long) == "running", 60)
    cli.submit("naps", "--count", "30")
    cli.command = new
    assert "is up to date" in cli.run("migrate").stderr
    by_new = cli.submit("naps", "--count", "5")
    cli.command = old
    by_old = cli.submit("naps", "--count", "5")
    cli.until(lambda: {each["state"] for each in cli.json("runs")} == {"succeeded"}, 120)
    for run in (long, *by_new, *by_old):
        assert cli.show(run)["attempt"] == 1
    assert agent.poll() is None
    assert "newer" not in cli.log()
    # An agent that starts only now, too.
    agent.terminate()
    assert agent.wait(30) == 0
    cli("start", "--until-empty", "--name", "two")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_agent_is_refused_by_a_breaking_migration_and_its_successor_goes_on(upgraded: Cli, tmp_path: Path) -> None:
    cli = upgraded
    old = cli.command
    new = later_version(tmp_path / "later", "0902_colours.sql", BREAKING)
    agent = cli.start("--name", "one")
    (long,) = cli.submit("naps", "-p", "seconds=25")
    cli.until(lambda: "begins" in cli("logs", long), 60)
    cli.command = new
    cli("migrate")
    cli.command = old
    assert agent.wait(60) == 1
    assert "was migrated by a newer flow-agent while it was open" in cli.log()
    assert "hint: upgrade this one: pip install --upgrade" in cli.log()
    refused = cli.error("runs", code=1)
    assert "(0902_colours.sql)" in refused
    assert "hint: upgrade this one" in refused
    assert "which cannot read it" in cli.error("start", code=1)
    # Its attempt has a keeper, and a lease; the program that replaces it finds both.
    began = time.monotonic()
    cli.command = new
    cli.start("--name", "one")
    cli.until(lambda: cli.state(long) == "succeeded", 100)
    assert cli.show(long)["attempt"] == 1
    assert time.monotonic() - began < 100
    (again,) = cli.submit("naps")
    cli.until(lambda: cli.state(again) == "succeeded", 60)
