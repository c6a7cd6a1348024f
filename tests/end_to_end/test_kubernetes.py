"""Runs in Jobs, with the installed command: the pods of the stand-in are real processes, the queue is a real one."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from command import Cli
from servers.kubernetes_api import Kubernetes

pytestmark = pytest.mark.timeout(240)

FLOWS = """
import time
from pathlib import Path
from flow_agent import Flow, current_run
from flow_agent.run_configs import KubernetesRun, Secret
from flow_agent.storages import Module

RUN = KubernetesRun(image="flow-agent:test", env={"GREETING": "hello", "PASSWORD": Secret("DB_PASSWORD")})


def adds(a: int, b: int = 1) -> int:
    import os
    print(os.environ["GREETING"], "and", os.environ["PASSWORD"])
    return a + b


def counts(end: str) -> int:
    n = 0
    while not Path(end).exists():
        print(f"line {n}")
        n += 1
        time.sleep(0.1)
    return n


def fails() -> None:
    raise ValueError("on purpose")


adds = Flow("adds", adds, storage=Module("pod_flows"), run_config=RUN)
counts = Flow("counts", counts, storage=Module("pod_flows"), run_config=KubernetesRun(image="flow-agent:test"))
fails = Flow("fails", fails, storage=Module("pod_flows"), run_config=KubernetesRun(image="flow-agent:test"), retries=1)
"""


@pytest.fixture
def cluster(cli: Cli, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    """The cluster, whose images have the module of flows, which are registered."""
    cli.write("pod_flows.py", FLOWS)
    # What an image would have installed.
    variables = [{"name": "PYTHONPATH", "value": str(cli.folder)}]
    template = {"spec": {"template": {"spec": {"containers": [{"name": "flow", "env": variables}]}}}}
    path = cli.folder / "pod_flows.py"
    path.write_text(path.read_text().replace("image=", f"job_template={template!r}, image="))
    cli.env |= {"PYTHONPATH": str(cli.folder), "KUBECONFIG": str(kubernetes.kubeconfig), "DB_PASSWORD": "correct horse"}
    cli("register", str(path))
    return kubernetes


def start(cli: Cli, name: str, *arguments: str):
    return cli.start("--launcher", "kubernetes", "--name", name, "--poll", "0.5", *arguments)


def counted(cli: Cli, run: str) -> None:
    """Let the run end: it has written each line once, and each line is there."""
    (cli.folder / "end").touch()
    cli.until(lambda: cli.state(run) == "succeeded", 120)
    lines = [line.split()[-1] for line in cli("logs", run).splitlines() if " line " in f" {line}"]
    assert lines == [str(i) for i in range(cli.json("result", run))]


def test_a_flow_runs_in_a_pod_from_submit_to_result(cli: Cli, cluster: Kubernetes) -> None:
    start(cli, "one", "--limit", "4")
    (run,) = cli.submit("adds", "-p", "a=41")
    cli.until(lambda: cli.state(run) == "succeeded", 90)
    assert cli("logs", run).count("hello and [redacted]") == 1
    assert cli.json("result", run) == 42
    shown = cli.show(run)
    assert (shown["launcher"], shown["attempt"], shown["exit_code"]) == ("kubernetes", 1, 0)
    assert cli("logs", run).count(f"fetched {shown['revision']}") == 1
    cli.until(lambda: cluster.objects("jobs") == [] and cluster.objects("secrets") == [])


def test_a_flow_that_fails_is_tried_again_in_another_job(cli: Cli, cluster: Kubernetes) -> None:
    start(cli, "one")
    (run,) = cli.submit("fails")
    cli.until(lambda: cli.state(run) == "failed", 120)
    shown = cli.show(run)
    assert (shown["reason"], shown["detail"], shown["attempt"]) == ("raised", "ValueError: on purpose", 2)


def test_a_drain_hands_runs_over_and_another_agent_goes_on(cli: Cli, cluster: Kubernetes) -> None:
    first = start(cli, "one")
    (run,) = cli.submit("counts", "-p", f"end={cli.folder}/end")
    cli.until(lambda: "line 3" in cli("logs", run), 90)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0  # it does not wait for the flow
    assert cli.state(run) == "running"
    start(cli, "two")
    cli.until(lambda: cli.show(run)["agent"] == "two", 60)
    counted(cli, run)
    shown = cli.show(run)
    assert (shown["attempt"], shown["agent"]) == (1, "two")


def test_a_live_agent_takes_over_what_a_drained_one_handed_over(cli: Cli, cluster: Kubernetes) -> None:
    cli.env["FLOW_AGENT_LEASE__HEARTBEAT"] = "1"
    first = start(cli, "one")
    (run,) = cli.submit("counts", "-p", f"end={cli.folder}/end")
    cli.until(lambda: "line 3" in cli("logs", run), 90)
    start(cli, "two")
    cli.until(lambda: len(cli.json("agents")) == 2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    cli.until(lambda: cli.show(run)["agent"] == "two", 60)
    counted(cli, run)


def test_an_agent_that_was_killed_has_a_successor_that_goes_on(cli: Cli, cluster: Kubernetes) -> None:
    first = start(cli, "one")
    (run,) = cli.submit("counts", "-p", f"end={cli.folder}/end")
    cli.until(lambda: "line 3" in cli("logs", run), 90)
    first.kill()
    first.wait()
    start(cli, "one")
    cli.until(lambda: "run.adopted" in cli.log(), 60)
    counted(cli, run)
    assert cli.show(run)["attempt"] == 1


def test_a_run_that_is_cancelled_leaves_no_pod(cli: Cli, cluster: Kubernetes) -> None:
    start(cli, "one", "--grace", "1")
    (run,) = cli.submit("counts", "-p", f"end={cli.folder}/end")
    cli.until(lambda: "line 1" in cli("logs", run), 90)
    cli("cancel", run)
    cli.until(lambda: cli.state(run) == "cancelled", 60)
    cli.until(lambda: cluster.objects("pods") == [])


def test_what_reaches_beyond_the_container_is_refused(cli: Cli, cluster: Kubernetes) -> None:
    cli.write(
        "greedy.py",
        "from flow_agent import Flow\nfrom flow_agent.run_configs import KubernetesRun\n"
        "from flow_agent.storages import Module\n"
        "greedy = Flow('greedy', None, storage=Module('greedy'), run_config=KubernetesRun(image='x',"
        ' job_template=\'{"spec": {"template": {"spec": {"hostNetwork": true}}}}\'))\n',
    )
    cli("register", str(cli.folder / "greedy.py"))
    start(cli, "one")
    (run,) = cli.submit("greedy")
    cli.until(lambda: cli.state(run) == "failed", 60)
    shown = cli.show(run)
    assert shown["reason"] == "not_allowed"
    assert "job_template:hostNetwork" in shown["detail"]
    assert cluster.objects("jobs") == []


def test_local_storage_is_refused_at_submit(cli: Cli) -> None:
    cli.write(
        "here.py",
        "from flow_agent import Flow\nfrom flow_agent.run_configs import KubernetesRun\n"
        "def f(): ...\nhere = Flow('here', f, run_config=KubernetesRun())\n",
    )
    cli("register", str(cli.folder / "here.py"))
    assert "Local storage" in cli.error("submit", "here", code=2)


def test_without_a_cluster_the_launcher_is_left_out(cli: Cli) -> None:
    done = cli.run("start", "--launcher", "kubernetes")
    assert done.returncode == 1
    assert "no pod of a cluster" in done.stderr.splitlines()[-2]


def test_flow_agent_is_brought_to_images_that_lack_it(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "program"
    cli("inside", "--install", str(target))
    for name in ("flow_agent/inside.py", "anyio", "httpx", "cloudpickle"):
        assert (target / name).exists(), name
    assert not (target / "pytest").exists()
    # An interpreter that knows nothing of us: it imports all from there.
    code = f"import sys; sys.path.append({str(target)!r}); import flow_agent.inside as i; print(i.is_brought())"
    import subprocess

    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, env={})
    assert done.stdout == "True\n"
