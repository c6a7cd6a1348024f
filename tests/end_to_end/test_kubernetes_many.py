"""Hundreds of Jobs through one agent: what each costs the API server, and the agent, does not grow with the number."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from command import Cli
from servers.kubernetes_api import Kubernetes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FLOW = """
from flow_agent import Flow
from flow_agent.run_configs import KubernetesRun
from flow_agent.storages import Module

# A pod that plays a script costs no process: what is measured is the agent.
template = {"metadata": {"labels": {"flow-agent-test/script": "Quick"}}}
quick = Flow("quick", None, storage=Module("quick_flow"), run_config=KubernetesRun(image="x", job_template=template))
"""
CONSTANT = {"WATCH jobs", "WATCH pods", "GET jobs", "GET pods"}
"""Calls that come with time, and not with runs."""


def test_three_hundred_jobs_cost_the_same_each(cli: Cli, kubernetes: Kubernetes) -> None:
    cli.write("quick_flow.py", FLOW)
    cli.env |= {"PYTHONPATH": str(cli.folder), "KUBECONFIG": str(kubernetes.kubeconfig)}
    cli("register", str(cli.folder / "quick_flow.py"))
    agent = cli.start("--launcher", "kubernetes", "--limit", "50")
    process = psutil.Process(agent.pid)
    per_run, memory = [], []
    before: dict[str, int] = {}
    for count in (100, 200):
        began = time.monotonic()
        cli("submit", "quick", "--count", str(count))
        done = ["runs", "--state", "succeeded", "--limit", "1000"]
        wanted = count + (len(cli.json(*done)) // 100) * 100 if not per_run else 300
        cli.until(lambda done=done, wanted=wanted: len(cli.json(*done)) >= wanted, 240)
        cli.until(lambda: kubernetes.objects("jobs") == [], 60)
        calls = kubernetes.calls()
        spent = {name: number - before.get(name, 0) for name, number in calls.items()}
        before = calls
        each = sum(number for name, number in spent.items() if name not in CONSTANT) / count
        per_run.append(each)
        memory.append(process.memory_info().rss / 1e6)
        shown = {name: round(number / count, 2) for name, number in sorted(spent.items())}
        seconds = time.monotonic() - began
        print(f"{count} runs in {seconds:.0f} s: {each:.2f} calls per run, {memory[-1]:.0f} MB; per run: {shown}")
    assert per_run[1] <= per_run[0] * 1.1
    assert per_run[1] < 8
    assert memory[1] < memory[0] + 30
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0
