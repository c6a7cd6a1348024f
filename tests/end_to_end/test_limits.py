"""A limit holds over several agents, by what the flows themselves see."""

from __future__ import annotations

import signal

FLOW = """
import os, time
from flow_agent import flow

@flow(name="guarded")
def guarded(folder: str, pause: float = 0.15):
    mine = os.path.join(folder, str(os.getpid()))
    open(mine, "x").close()
    others = len(os.listdir(folder))
    time.sleep(pause)
    os.unlink(mine)
    return others
"""


def test_agents_together_never_run_more_than_the_limit(cli):
    cli.write("flows.py", FLOW)
    busy = cli.folder / "busy"
    busy.mkdir()
    cli("register", "flows.py")
    cli("limits", "set", "guarded", "2", "--flow")
    runs = cli.submit("guarded", "-p", f"folder={busy}", "--count", "16")
    for name in ("one", "two", "three"):
        cli.start("--name", name, "--limit", "1")
    cli.until(lambda: all(run["state"] == "succeeded" for run in cli.json("runs")), seconds=60)

    seen = [int(cli("result", run)) for run in runs]
    assert max(seen) == 2
    assert cli.json("limits", "list")[0]["taken"] == 0
    assert len({run["agent"] for run in cli.json("runs")}) >= 2


def test_a_killed_agent_leaks_no_slot(cli):
    cli.write("flows.py", FLOW)
    busy = cli.folder / "busy"
    busy.mkdir()
    cli("register", "flows.py")
    cli("limits", "set", "guarded", "1", "--flow")
    cli.env |= {"FLOW_AGENT_LEASE__RUNNING": "4", "FLOW_AGENT_LEASE__CLAIMED": "3", "FLOW_AGENT_LEASE__HEARTBEAT": "1"}
    cli.env["FLOW_AGENT_STOP__GRACE"] = "1"
    (first,) = cli.submit("guarded", "-p", f"folder={busy}", "-p", "pause=600")
    agent = cli.start("--name", "one")
    cli.until(lambda: cli.state(first) == "running")
    (second,) = cli.submit("guarded", "-p", f"folder={busy}")
    assert "limited to 1" in cli("why", second)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    cli.start("--name", "two")
    cli.until(lambda: cli.state(second) == "succeeded", seconds=30)
    assert cli.show(first)["reason"] == "agent_lost"
