"""Flows in installed modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Cli
from flow_agent.storages import Module

PACKAGE = """
from flow_agent import Flow, flow
from flow_agent.storages import Module

@flow(name="one", storage=Module("acme.flows"))
def one(n: int = 1):
    return [__name__, n]

def make():
    return Flow("made", lambda: "made", storage=Module("acme.flows:make"))

wrong = 3
"""


@pytest.fixture
def acme(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A package that is installed for this interpreter, as far as it can see."""
    cli.write("site/acme/__init__.py", "")
    cli.write("site/acme/flows.py", PACKAGE)
    cli.env["PYTHONPATH"] = str(cli.folder / "site")
    return cli


def test_a_flow_of_an_installed_module_runs_as_that_module(acme: Cli) -> None:
    acme("register", "acme.flows")
    (run,) = acme.submit("one", "-p", "n=7")
    acme("start", "--until-empty", "--env", f"PYTHONPATH={acme.folder / 'site'}")
    assert json.loads(acme("result", run)) == ["acme.flows", 7]
    shown = acme.show(run)
    assert (shown["state"], shown["revision"]) == ("succeeded", "acme.flows")


def test_a_flow_that_a_function_makes(acme: Cli) -> None:
    acme("register", str(acme.write("made.py", "from acme.flows import make\n\nflow = make()\n")))
    (run,) = acme.submit("made")
    acme("start", "--until-empty", "--env", f"PYTHONPATH={acme.folder / 'site'}")
    assert acme("result", run) == "made\n"


def test_a_module_that_is_gone_is_not_found(acme: Cli) -> None:
    acme("register", "acme.flows")
    (run,) = acme.submit("one")
    acme("start", "--until-empty")  # its attempts do not have the variable that leads to the package
    shown = acme.show(run)
    assert (shown["state"], shown["reason"]) == ("failed", "flow_not_found")
    assert "acme" in shown["detail"]


def test_a_flow_that_is_another_now_is_not_found(acme: Cli) -> None:
    acme("register", "acme.flows")
    acme.write("site/acme/flows.py", PACKAGE.replace('name="one"', 'name="two"'))
    (run,) = acme.submit("one")
    acme("start", "--until-empty", "--env", f"PYTHONPATH={acme.folder / 'site'}")
    shown = acme.show(run)
    assert (shown["reason"], "'two'" in shown["detail"]) == ("flow_not_found", True)


def test_registering_a_module_that_is_not_installed_is_refused(cli: Cli) -> None:
    text = "from flow_agent import Flow\nfrom flow_agent.storages import Module\n"
    text += "f = Flow('f', storage=Module('no.such'))\n"
    assert "no module no.such" in cli.error("register", str(cli.write("f.py", text)), code=1)


@pytest.mark.parametrize("name", ["", "a b", "a.", "a:", ":b", "a-b", "a:b-c"])
def test_what_is_no_module_is_said(name: str) -> None:
    with pytest.raises(ValueError, match="expected 'package"):
        Module(name)
