"""Scripts in repositories: push, and the next run takes it, without registering again."""

from __future__ import annotations

import pytest

from command import Cli
from servers.git_hosts import FILES, TOKEN, Hosts, Work
from servers.git_servers import GitHTTP

FLOW = """
from flow_agent import flow
from flow_agent.storages import Git, GitHub

STORAGE = {storage}

@flow(name="alone", storage=STORAGE)
def alone():
    return "of the registering machine"
"""


@pytest.mark.parametrize("kind", ["GitHub", "Git"])
def test_what_is_pushed_is_the_next_run(kind: str, cli: Cli, git_hosts: Hosts, git_http: GitHTTP, work: Work) -> None:
    git_hosts.private = True
    git_http.login = f"me:{TOKEN}"
    storage = {
        "GitHub": f"GitHub('owner/name', 'alone.py', access_token_secret='A_TOKEN', base_url='{git_hosts.url}/github')",
        "Git": f"Git('alone.py', '{git_http.url}/repository.git', git_token_secret_name='A_TOKEN',"
        " git_token_username='me')",
    }[kind]
    cli("secrets", "set", "A_TOKEN", stdin=f"{TOKEN}\n")
    cli("register", str(cli.write("alone.py", FLOW.format(storage=storage))))
    label = {"GitHub": "github-flow-storage", "Git": "git-flow-storage"}[kind]
    first = work.git("rev-parse", "HEAD")
    runs = cli.submit("alone", "--count", "3")
    cli("start", "--until-empty", "-l", label)
    assert [cli("result", run) for run in runs] == ["first\n"] * 3
    assert cli.show(runs[0])["revision"] == first
    work.write(alone_py=FILES["alone.py"].replace("first", "second"))
    second = work.push()
    (run,) = cli.submit("alone")
    cli("start", "--until-empty", "-l", label, "--log-level", "debug")
    assert cli("result", run) == "second\n"
    assert cli.show(run)["revision"] == second
    assert {check["state"] for check in cli.json("doctor")} == {"ok"}
    for path in cli.home.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "secrets.json":
            assert TOKEN.encode() not in path.read_bytes(), path


READS = """
from pathlib import Path
from flow_agent import flow

@flow(name="alone")
def alone():
    from lib.steps import double
    return [double(4), Path(__file__).with_name("notes.txt").read_text()]
"""


@pytest.mark.parametrize("kind", ["GitHub", "Git"])
def test_what_lies_beside_a_flow_is_there_while_it_runs(
    kind: str, cli: Cli, git_hosts: Hosts, git_http: GitHTTP, work: Work
) -> None:
    """The older system removed the folder when the flow was loaded."""
    (work.folder / "flows/reads.py").write_text(READS)
    (work.folder / "flows/notes.txt").write_text("a note")
    work.push()
    storage = {
        "GitHub": f"GitHub('owner/name', 'flows/reads.py', root='flows', base_url='{git_hosts.url}/github')",
        "Git": f"Git('flows/reads.py', '{git_http.url}/repository.git', root='flows')",
    }[kind]
    cli("register", str(cli.write("alone.py", FLOW.format(storage=storage))))
    (run,) = cli.submit("alone")
    cli("start", "--until-empty", "-l", {"GitHub": "github-flow-storage", "Git": "git-flow-storage"}[kind])
    assert cli.json("result", run) == [8, "a note"]


@pytest.mark.parametrize(("flow_name", "gives"), [(None, "of alone"), ("first", "of first")])
def test_a_file_of_several_flows_gives_the_one_that_was_registered(
    flow_name: str | None, gives: str, cli: Cli, git_http: GitHTTP, work: Work
) -> None:
    """The older system took the first one."""
    text = "from flow_agent import flow\n"
    for name in ("first", "alone"):
        text += f"\n\n@flow(name='{name}')\ndef run_{name}():\n    return 'of {name}'\n"
    (work.folder / "alone.py").write_text(text)
    work.push()
    storage = f"Git('alone.py', '{git_http.url}/repository.git', flow_name={flow_name!r})"
    cli("register", str(cli.write("alone.py", FLOW.format(storage=storage))))
    (run,) = cli.submit("alone")
    cli("start", "--until-empty", "-l", "git-flow-storage")
    assert cli("result", run) == f"{gives}\n"
