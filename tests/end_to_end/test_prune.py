"""`flow-agent prune` as people run it."""

from __future__ import annotations

import json

from command import Cli

FLOW = """
from flow_agent import flow

@flow(name="hello")
def hello():
    print("hello")
"""


def test_old_runs_go_when_they_are_told_to_and_the_newest_stay(cli: Cli) -> None:
    cli("register", str(cli.write("flows.py", FLOW)))
    runs = cli.submit("hello", "--count", "5")
    waiting = cli.submit("hello", "--at", "+1h")
    cli("start", "--until-empty")
    asked = cli.run("prune", "--keep-last", "2", "--dry-run")
    assert "would remove 3 runs, 3 lines of their logs, 0 registrations, 0 agents" in asked.stderr
    assert len(cli.json("runs")) == 6
    told = json.loads(cli("prune", "--keep-last", "2", "--state", "succeeded", "--json"))
    assert told == {"runs": 3, "lines": 3, "registrations": 0, "agents": 0, "dry_run": False}
    assert [run["id"] for run in cli.json("runs")] == [*waiting, *reversed(runs[3:])]
    assert "removed 0 runs" in cli.run("prune", "--older-than", "1h").stderr
    assert "no run begins with" in cli.error("show", runs[0], code=1)


def test_what_says_not_which_runs_may_go_is_refused(cli: Cli) -> None:
    cli("register", str(cli.write("flows.py", FLOW)))
    for words, said in [
        ((), "nothing says which runs may go"),
        (("--older-than", "30"), "is no time span"),
        (("--older-than", "1d", "--state", "running"), "running"),
        (("--keep-last", "1", "--flow", "helo"), "the nearest known one is 'hello'"),
    ]:
        refused = cli.run("prune", *words)
        assert refused.returncode in {1, 2}
        assert said in refused.stderr
