"""What the Kubernetes launcher makes of states and faults that no test can order from a real cluster."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from flow_agent import retry
from flow_agent.errors import LaunchError
from flow_agent.launchers import kubernetes_stop, kubernetes_watch
from flow_agent.model import Reason
from flow_agent.testing import launcher_contract as flows
from flow_agent.testing.launcher_contract import Launched
from jobs import Jobs, jobs
from servers.kubernetes_api import Kubernetes, secure_kubernetes

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


@pytest.fixture
async def attempts(kubernetes: Kubernetes) -> AsyncIterator[Jobs]:
    async with jobs(kubernetes.kubeconfig, pending=2.0) as found:
        yield found


async def until(condition, seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.05)


# Told apart, in the cluster's own words


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("ImagePullBackOff", ["could not be pulled", "Back-off pulling image", "kubernetes.pending"]),
        ("InvalidImageName", ["could not be pulled", "couldn't parse image name"]),
        ("Unschedulable", ["no node could take it", "3 Insufficient cpu", "kubernetes.pending"]),
        ("StartError", ["could not be started", 'exec: "flow-agent": executable file not found']),
    ],
)
async def test_an_attempt_that_never_began_says_why(attempts: Jobs, script: str, says: list[str]) -> None:
    attempt = await attempts.scripted(script)
    with pytest.raises(LaunchError) as caught:
        await attempt.end()
    assert caught.value.reason is Reason.LAUNCH_FAILED
    assert [each for each in says if each not in str(caught.value)] == []
    await attempt.launcher.stop(attempt.ref, 0)


async def test_a_quota_that_is_used_up_is_told(attempts: Jobs, kubernetes: Kubernetes) -> None:
    kubernetes.tell("quota", 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1')
    attempt = await attempts.scripted("Quick")
    with pytest.raises(LaunchError, match=r"quota of its namespace is used up .*exceeded quota: small"):
        await attempt.end()


async def test_a_quota_of_jobs_may_be_free_later(attempts: Jobs, kubernetes: Kubernetes) -> None:
    words = "exceeded quota: jobs, requested: count/jobs.batch=1"
    kubernetes.fault("POST .*/jobs", 403, reason="Forbidden", message=words)
    with pytest.raises(LaunchError, match="exceeded quota") as caught:
        await attempts.scripted("Quick")
    assert caught.value.transient


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("Evicted", "evicted: EvictionByEvictionAPI: Eviction API: evicting"),
        ("EvictedByNode", "evicted: Evicted: The node was low on resource"),
        ("NodeLost", "node was lost or tainted: DeletionByTaintManager"),
        ("DeletedByHand", "its pod was deleted, by somebody other than its agent"),
    ],
)
async def test_an_attempt_that_was_taken_away_says_by_whom(attempts: Jobs, script: str, says: str) -> None:
    attempt = await attempts.scripted(script)
    ending = await attempt.end()
    assert ending.lost is not None
    assert says in ending.lost


async def test_memory_that_ran_out_is_told(attempts: Jobs) -> None:
    ending = await (await attempts.scripted("OOMKilled")).end()
    assert ending.memory is not None
    assert (ending.signal, ending.lost) == (9, None)


async def test_lines_that_a_node_dropped_are_seen_to_be_missing(attempts: Jobs) -> None:
    attempt = await attempts.scripted("Rotated")
    await attempt.end()
    assert [line.seq for line in attempt.lines] == [1, 2, 3, 6, 7]
    assert attempt.texts[2].startswith("3 lines are missing here")


async def test_an_end_that_no_output_tells_is_taken_from_the_last_words(attempts: Jobs) -> None:
    ending = await (await attempts.scripted("LastWords")).end()
    assert (ending.code, ending.stored) == (0, {"result": {"inline": 5}})


# Nothing secret in what others may read


async def test_no_secret_stands_anywhere_but_in_the_secret(attempts: Jobs, kubernetes: Kubernetes) -> None:
    planted = "correct horse battery"
    attempt = await attempts(flows.tells_secret, secrets={"PLANTED": planted}, given={"secret": "other"})
    (owned,) = kubernetes.objects("secrets")
    uid = attempt.ref.rpartition("/")[2]
    assert [(owner["kind"], owner["uid"]) for owner in owned["metadata"]["ownerReferences"]] == [("Job", uid)]
    assert planted in base64.b64decode(owned["data"]["orders"]).decode()
    await attempt.end()
    others = json.dumps([kubernetes.objects(kind) for kind in ("jobs", "pods", "events")])
    assert planted not in others
    assert base64.b64encode(planted.encode()).decode() not in others
    await attempt.launcher.remove(attempt.ref)
    await until(lambda: kubernetes.objects("secrets") == [] and kubernetes.objects("pods") == [])


async def test_jobs_pass_the_restricted_standard_of_pod_security(attempts: Jobs, kubernetes: Kubernetes) -> None:
    await attempts(flows.prints_and_returns, go=False)
    (job,) = kubernetes.objects("jobs")
    pod = job["spec"]["template"]["spec"]
    assert (
        pod["securityContext"] | {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        == (pod["securityContext"])
    )
    for container in pod["containers"]:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})
    assert (job["spec"]["suspend"], job["spec"]["backoffLimit"], pod["restartPolicy"]) == (True, 0, "Never")
    assert pod["automountServiceAccountToken"] is False


# Faults of the API server


async def test_an_answer_that_got_lost_makes_no_second_job(attempts: Jobs, kubernetes: Kubernetes) -> None:
    kubernetes.fault("POST .*/jobs", 500, count=2)
    kubernetes.fault("PATCH .*/jobs", 429, retry=1)
    kubernetes.fault("POST .*/secrets", 503)
    attempt = await attempts.scripted("Quick")
    assert (await attempt.end()).code == 0
    assert len(kubernetes.objects("jobs")) == 1


async def test_a_job_that_an_earlier_claim_left_is_replaced(attempts: Jobs, kubernetes: Kubernetes) -> None:
    spec = attempts.spec(flows.prints_and_returns)
    first = await attempts.launcher.create(spec)
    attempts.launcher.hand_over(first)
    second = await attempts.launcher.create(spec)
    attempts.refs.append(second)
    assert first.rpartition("/")[0] == second.rpartition("/")[0]
    assert first != second
    (owned,) = kubernetes.objects("secrets")
    assert owned["metadata"]["ownerReferences"][0]["uid"] == second.rpartition("/")[2]


async def test_a_server_that_dies_costs_no_line_and_no_run(attempts: Jobs, kubernetes: Kubernetes) -> None:
    attempt = await attempts(flows.counts, given={"to": 40, "pause": 0.1})

    async def disturb() -> None:
        await until(lambda: len(attempt.lines) > 2)
        kubernetes.tell("die", 1.0)
        await until(lambda: len(attempt.lines) > 25)
        kubernetes.tell("cut")

    async with anyio.create_task_group() as group:
        group.start_soon(disturb)
        ending = await attempt.end(within=90)
    assert ending.code == 0
    assert [(line.seq, line.text) for line in attempt.lines] == [(i + 1, f"line {i}") for i in range(40)]


async def test_a_frozen_server_is_noticed_and_gone_on_with(kubernetes: Kubernetes, monkeypatch) -> None:
    monkeypatch.setattr(kubernetes_watch, "WATCH_FOR", 2)
    monkeypatch.setattr(kubernetes_watch, "LATE", 1.0)
    async with jobs(kubernetes.kubeconfig) as attempts:
        attempt = await attempts(flows.counts, given={"to": 30, "pause": 0.2})

        async def disturb() -> None:
            await until(lambda: len(attempt.lines) > 2)
            pid = kubernetes.pid
            os.kill(pid, 19)
            await anyio.sleep(6)
            os.kill(pid, 18)

        async with anyio.create_task_group() as group:
            group.start_soon(disturb)
            ending = await attempt.end(within=90)
        assert ending.code == 0
        assert attempt.texts == [f"line {i}" for i in range(30)]


async def test_versions_that_are_forgotten_lead_to_a_new_list(attempts: Jobs, kubernetes: Kubernetes) -> None:
    first = await attempts.scripted("Quick")
    await first.end()
    before = kubernetes.calls()["GET jobs"]
    kubernetes.tell("forget")
    await until(lambda: kubernetes.calls()["GET jobs"] > before)
    assert (await (await attempts.scripted("Quick")).end()).code == 0


async def test_what_is_forbidden_is_told_and_not_asked_for_all_the_time(
    kubernetes: Kubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    for match in ("WATCH", "GET .*/(jobs|pods)$"):
        kubernetes.fault(match, 403, count=1_000, reason="Forbidden", message="pods is forbidden: User may not list")
    async with jobs(kubernetes.kubeconfig) as attempts:
        await attempts(flows.prints_and_returns, go=False)
        await anyio.sleep(2)
        calls = kubernetes.calls()
    assert calls["GET jobs"] + calls["GET pods"] <= 2


async def test_a_launch_that_is_forbidden_says_what_the_cluster_says(attempts: Jobs, kubernetes: Kubernetes) -> None:
    kubernetes.fault("POST .*/secrets", 403, reason="Forbidden", message="secrets is forbidden: User may not create")
    with pytest.raises(LaunchError, match="secrets is forbidden: User may not create") as caught:
        await attempts(flows.prints_and_returns)
    assert not caught.value.transient
    assert kubernetes.objects("jobs") == []


async def test_a_token_that_expires_is_read_again(kubernetes: Kubernetes, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("good\n")
    kubernetes.write_kubeconfig({"tokenFile": str(token)})
    async with jobs(kubernetes.kubeconfig) as attempts:
        assert (await (await attempts.scripted("Quick")).end()).code == 0
        kubernetes.tell("tokens", ["better"])
        token.write_text("better\n")
        assert (await (await attempts.scripted("Quick")).end()).code == 0


async def test_a_program_of_the_kubeconfig_gives_the_token(kubernetes: Kubernetes, tmp_path: Path) -> None:
    program, asked = tmp_path / "program.py", tmp_path / "asked"
    program.write_text(
        "import json, os, pathlib\n"
        f"asked = pathlib.Path({str(asked)!r})\n"
        "times = len(asked.read_text()) if asked.exists() else 0\n"
        "asked.write_text('x' * (times + 1))\n"
        "assert json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind'] == 'ExecCredential'\n"
        "print(json.dumps({'status': {'token': ['good', 'better'][min(times, 1)]}}))\n"
    )
    api = "client.authentication.k8s.io/v1"
    kubernetes.write_kubeconfig({"exec": {"apiVersion": api, "command": sys.executable, "args": [str(program)]}})
    async with jobs(kubernetes.kubeconfig) as attempts:
        assert (await (await attempts.scripted("Quick")).end()).code == 0
        assert asked.read_text() == "x"
        kubernetes.tell("tokens", ["better"])
        assert (await (await attempts.scripted("Quick")).end()).code == 0


async def test_a_cluster_that_knows_its_clients_by_certificates_is_served(tmp_path: Path) -> None:
    with secure_kubernetes(tmp_path / "secure") as kubeconfig:
        async with jobs(kubeconfig) as attempts:
            attempt = await attempts.scripted("Quick")
            assert (await attempt.end()).code == 0
            assert attempts.launcher.scope.endswith("/flows")


# What may pass is waited for as long as something runs


async def test_output_that_is_forbidden_for_a_while_is_read_when_it_is_allowed(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "REFUSED_AGAIN", 0.2)
    async with jobs(kubernetes.kubeconfig) as attempts:
        attempt = await attempts(flows.counts, given={"to": 30, "pause": 0.1})

        async def forbid() -> None:
            await until(lambda: len(attempt.lines) > 2)
            kubernetes.fault("LOG", 403, count=4, reason="Forbidden", message="pods/log is forbidden")
            kubernetes.tell("cut")

        async with anyio.create_task_group() as group:
            group.start_soon(forbid)
            ending = await attempt.end(within=60)
    assert ending.code == 0
    assert attempt.texts == [f"line {i}" for i in range(30)]


async def test_output_that_cannot_be_read_any_more_does_not_hold_up_the_end(
    attempts: Jobs, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_agent.launchers.kubernetes.READ_WITHIN", 1.0)
    kubernetes.fault("LOG", 500, count=1_000, message="dial tcp 10.0.0.7:10250: i/o timeout")
    attempt = await attempts.scripted("LastWords")
    ending = await attempt.end()
    assert (ending.code, ending.stored) == (0, {"result": {"inline": 5}})
    (said,) = attempt.lines
    assert said.level == "WARNING"
    assert "could not be read" in said.text
    assert "i/o timeout" in said.text


@pytest.mark.parametrize("what", ["GET .*/jobs/flow-.*", "GET .*/pods$"])
async def test_a_job_that_may_not_be_looked_at_is_looked_at_when_that_is_allowed(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(retry, "REFUSED_AGAIN", 0.2)
    async with jobs(kubernetes.kubeconfig) as first, jobs(kubernetes.kubeconfig) as second:
        attempt = await first(flows.counts, given={"to": 20, "pause": 0.1})
        first.launcher.hand_over(attempt.ref)
        kubernetes.fault(what, 403, count=3, reason="Forbidden", message="it is forbidden")
        with anyio.fail_after(60):
            ending = await second.launcher.wait(attempt.ref, attempt.sink, attempt=1)
        second.refs.append(attempt.ref)
    assert ending.code == 0
    assert attempt.texts == [f"line {i}" for i in range(20)]


async def test_a_job_that_others_change_too_is_changed_all_the_same(attempts: Jobs, kubernetes: Kubernetes) -> None:
    words = "the object has been modified; please apply your changes to the latest version and try again"
    kubernetes.fault("PATCH .*/jobs", 409, count=2, reason="Conflict", message=words)
    assert (await (await attempts.scripted("Quick")).end()).code == 0


async def test_a_claim_that_is_lost_does_not_take_the_job_of_the_next_one(attempts: Jobs) -> None:
    spec = replace(attempts.spec(flows.prints_and_returns), claim=2)
    ref = await attempts.launcher.create(spec)
    attempts.refs.append(ref)
    with pytest.raises(LaunchError, match="newer claim of the same run"):
        await attempts.launcher.create(replace(spec, claim=1))
    await attempts.launcher.go(ref)
    assert (await Launched(attempts.launcher, ref).end(within=60)).code == 0


async def test_a_job_that_was_never_let_go_is_removed_while_the_agent_goes_on(
    kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_stop, "ABANDONED", -1.0)
    monkeypatch.setattr(kubernetes_stop, "SWEEP", 0.2)
    monkeypatch.setattr(kubernetes_stop, "LOOK_AROUND", 0.5)
    async with jobs(kubernetes.kubeconfig) as attempts:
        left = await attempts.launcher.create(attempts.spec(flows.prints_and_returns))
        held = await attempts.launcher.create(attempts.spec(flows.prints_and_returns))
        attempts.launcher.hand_over(left)  # as if its agent had been killed
        await until(lambda: len(kubernetes.objects("jobs")) == 1)
        (stays,) = kubernetes.objects("jobs")
        assert stays["metadata"]["name"] == held.split("/")[1]
        assert len(kubernetes.objects("secrets")) == 1
        attempts.refs.append(held)


async def test_what_could_not_be_removed_is_tried_once_more_at_the_end(kubernetes: Kubernetes) -> None:
    async with jobs(kubernetes.kubeconfig) as attempts:
        attempt = await attempts.scripted("Quick")
        await attempt.end()
        kubernetes.fault("DELETE .*/jobs", 403, count=1, reason="Forbidden")
        await attempt.launcher.remove(attempt.ref)
        assert len(kubernetes.objects("jobs")) == 1
        attempts.refs.clear()
    assert kubernetes.objects("jobs") == []


# Going on with what another agent began


async def test_one_that_was_stopped_does_not_go_again(kubernetes: Kubernetes) -> None:
    async with jobs(kubernetes.kubeconfig) as first, jobs(kubernetes.kubeconfig) as second:
        attempt = await first(flows.sleeps)
        assert (await attempt.end_once_it_writes(grace=1)).ended_by == "stop"
        first.launcher.hand_over(attempt.ref)
        await second.launcher.go(attempt.ref)
        with anyio.fail_after(30):
            ending = await second.launcher.wait(attempt.ref, attempt.sink, attempt=1, after=1)
        assert ending.ended_by == "stop"
        await until(lambda: kubernetes.objects("pods") == [])
        second.refs.append(attempt.ref)


@pytest.mark.parametrize(("keep", "stays"), [("never", [0, 0]), ("failed", [0, 1]), ("always", [1, 1])])
async def test_jobs_are_kept_as_the_setting_says(kubernetes: Kubernetes, keep: str, stays: list[int]) -> None:
    async with jobs(kubernetes.kubeconfig, keep=keep) as attempts:
        found = []
        for script in ("Quick", "OOMKilled"):
            attempt = await attempts.scripted(script)
            await attempt.end()
            await attempt.launcher.remove(attempt.ref)
            name = attempt.ref.split("/")[1]
            found.append(len([each for each in kubernetes.objects("jobs") if each["metadata"]["name"] == name]))
        assert found == stays
        assert kubernetes.objects("secrets") == []


async def test_flow_agent_is_brought_to_an_image_that_has_only_python(kubernetes: Kubernetes, tmp_path: Path) -> None:
    (tmp_path / "plain_flow.py").write_text(
        "import importlib.util\ndef adds(a, b=1):\n    print(importlib.util.find_spec('anyio'))\n    return a + b\n"
    )
    plain = {"PATH": f"{sys.base_prefix}/bin", "PYTHONPATH": str(tmp_path)}  # an interpreter that knows nothing of us
    variables = [{"name": name, "value": value} for name, value in plain.items()]
    template = {"spec": {"template": {"spec": {"containers": [{"name": "flow", "env": variables}]}}}}
    async with jobs(kubernetes.kubeconfig, agent_image="flow-agent:test") as attempts:
        spec = attempts.spec(flows.prints_and_returns, container={"job_template": template}, image="python:3.12-slim")
        assert spec.registration is not None
        storage = {"type": "Module", "module": "plain_flow:adds"}
        registration = replace(spec.registration, flow="adds", storage=storage)
        ref = await attempts.launcher.create(replace(spec, registration=registration, parameters={"a": 41}))
        attempts.refs.append(ref)
        await attempts.launcher.go(ref)
        attempt = Launched(attempts.launcher, ref)
        ending = await attempt.end(within=120)
    assert (ending.code, ending.stored) == (0, {"result": {"inline": 42}}), (ending, attempt.texts)
    assert attempt.texts == ["None"]  # what was brought is for us, and no package of the flow's


async def test_what_is_no_flow_fails_before_it_begins(attempts: Jobs) -> None:
    spec = attempts.spec(flows.prints_and_returns)
    registration = spec.registration
    assert registration is not None
    object.__setattr__(registration, "secrets", ("MISSING",))
    ref = await attempts.launcher.create(spec)
    attempts.refs.append(ref)
    await attempts.launcher.go(ref)
    with pytest.raises(LaunchError, match=r"secret 'MISSING' was not found; looked in: .* handed over") as caught:
        await attempts.launcher.wait(ref, no_lines, attempt=1)
    assert caught.value.reason is Reason.SECRET_NOT_FOUND


async def no_lines(lines) -> None:
    assert not lines
