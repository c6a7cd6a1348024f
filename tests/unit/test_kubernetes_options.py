"""What an author may ask of a Job, what becomes of it, and what an agent refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import certifi
import pytest

from flow_agent.cluster.access import found
from flow_agent.errors import ClusterError, InvalidInput, LaunchError
from flow_agent.launchers.handed import Mark, Orders, ending_of, orders_of, program, termination_message
from flow_agent.launchers.kubernetes_allow import refuse
from flow_agent.launchers.kubernetes_job import PROGRAM, Wishes, image_of, job, secret
from flow_agent.model import Ending, LaunchSpec, Reason, Registration
from flow_agent.run_configs import KubernetesRun, Secret

TEMPLATE = """
apiVersion: batch/v1
kind: Job
metadata:
  labels: {team: data}
spec:
  activeDeadlineSeconds: 3600
  template:
    metadata:
      labels: {team: data}
    spec:
      tolerations: [{key: gpu, operator: Exists}]
      containers:
        - name: sidecar
          image: sidecar:1
        - name: flow
          image: theirs:1
          env: [{name: A, value: b}]
          resources: {requests: {cpu: "1", memory: 1Gi}}
"""


def spec(run: KubernetesRun | None = None, **changes: Any) -> LaunchSpec:
    described = {} if run is None else run.describe()
    registration = Registration(flow="f", kind="script", storage={"type": "S3"}, location={}, run_config=described)
    given: dict[str, Any] = {
        "run_id": "01abc",
        "flow": "f",
        "claim": 3,
        "attempt": 2,
        "folder": "",
        "payload": {},
        "parameters": {},
        "deadline": 0.0,
        "grace": 10.0,
        "registration": registration,
        "container": described,
        "image": described.get("image"),
    }
    return LaunchSpec(**{**given, **changes})


def made(run: KubernetesRun, **wishes: Any) -> dict[str, Any]:
    return job(spec(run), Wishes(**{"agent_image": "ours:1", **wishes}), namespace="flows", nonce="n")


def pod(found: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = found["spec"]["template"]["spec"]
    return inner


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"cpu_limit": "many"}, ValueError, "'500m'"),
        ({"cpu_limit": True}, TypeError, "number or text"),
        ({"cpu_request": 0}, ValueError, "quantity"),
        ({"memory_limit": "2 GB"}, ValueError, "'512Mi'"),
        ({"namespace": "Flows"}, ValueError, "small letters"),
        ({"service_account_name": 5}, TypeError, "a name as text"),
        ({"image_pull_secrets": "one"}, TypeError, r"expected a list: \['one'\]"),
        ({"image_pull_policy": "always"}, ValueError, "'Always'"),
        ({"node_selector": ["a"]}, TypeError, "dict of texts"),
        ({"tolerations": {"key": "a"}}, TypeError, "list of dicts"),
        ({"affinity": "near"}, TypeError, "expected a dict"),
        ({"ttl": 0}, ValueError, "600 or more"),
        ({"memory_limit": "512K"}, ValueError, "'512Mi'"),
        ({"cpu_request": "2", "cpu_limit": "1500m"}, ValueError, "more than cpu_limit"),
        ({"memory_request": "1Gi", "memory_limit": "1G"}, ValueError, "more than memory_limit"),
        ({"job_template": "kind: Pod\napiVersion: v1"}, ValueError, "expected a batch/v1 Job"),
        ({"job_template": ": ["}, ValueError, "no YAML"),
        ({"job_template": "just text"}, TypeError, "no table"),
        ({"job_template": {"spec": {"template": 5}}}, TypeError, "spec.template 5"),
        ({"job_template": {}, "job_template_path": "x"}, ValueError, "expected one of them"),
        ({"job_template": {"a": "ghp_" + "a1B2" * 10}}, ValueError, "looks like a credential"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(given, error, says):
    with pytest.raises(error, match=says):
        KubernetesRun(**given)


def test_a_template_is_taken_as_a_dict_as_yaml_and_from_a_file(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(TEMPLATE)
    as_text, from_file = KubernetesRun(job_template=TEMPLATE), KubernetesRun(job_template_path=file)
    assert as_text == from_file == KubernetesRun(job_template=as_text.job_template)
    assert json.loads(json.dumps(as_text.describe()))["job_template"]["spec"]["activeDeadlineSeconds"] == 3600


def test_the_template_is_patched_and_not_replaced():
    run = KubernetesRun(
        job_template=TEMPLATE, cpu_request=0.5, memory_limit="2Gi", tolerations=[{"key": "mine"}], ttl=6000
    )
    found = made(run)
    inner = pod(found)
    (flow, sidecar) = inner["containers"]
    assert found["metadata"]["labels"]["team"] == found["spec"]["template"]["metadata"]["labels"]["team"] == "data"
    assert found["metadata"]["name"] == "flow-01abc-2"
    assert (found["spec"]["activeDeadlineSeconds"], found["spec"]["ttlSecondsAfterFinished"]) == (3600, 6000)
    assert [each["key"] for each in inner["tolerations"]] == ["gpu", "mine"]
    assert (flow["name"], flow["image"], sidecar["image"]) == ("flow", "theirs:1", "sidecar:1")
    assert {"name": "A", "value": "b"} in flow["env"]
    assert flow["resources"] == {"requests": {"cpu": "0.5", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}


def test_the_user_may_be_left_to_the_images():
    made_pod = pod(made(KubernetesRun(image="python:3.12"), user=0))
    inits, flows = made_pod["initContainers"], made_pod["containers"]
    contexts = [made_pod["securityContext"], *(each["securityContext"] for each in [*inits, *flows])]
    assert [each for each in contexts if {"runAsNonRoot", "runAsUser"} & each.keys()] == []
    assert [each["securityContext"]["allowPrivilegeEscalation"] for each in [*inits, *flows]] == [False, False]


def kubeconfig(folder: Path, name: str, **parts: Any) -> Path:
    """A file with one context, ``mine``, of its parts."""
    whole = {"current-context": "mine", "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}]}
    whole |= {kind: [{"name": kind[0], kind[:-1]: value}] for kind, value in parts.items()}
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(whole))
    return file


@pytest.mark.parametrize(
    ("where", "name"),
    [("users", "as"), ("users", "as-groups"), ("clusters", "proxy-url"), ("clusters", "tls-server-name")],
)
def test_what_a_kubeconfig_says_is_obeyed_or_refused(tmp_path: Path, where: str, name: str):
    parts = {"clusters": {"server": "https://cluster.example"}, "users": {"token": "t"}}
    parts[where][name] = "other"
    with pytest.raises(InvalidInput, match=f"asks for {name}, which flow-agent does not know"):
        found(kubeconfig=kubeconfig(tmp_path, "config", **parts))


def test_paths_in_a_kubeconfig_are_counted_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = kubeconfig(tmp_path, "one/config", clusters={"server": "https://cluster.example"})
    other = kubeconfig(tmp_path, "other/config", users={"tokenFile": "token"})
    (tmp_path / "other/token").write_text("theirs")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{other}")
    assert anyio.run(found().tokens.current) == "theirs"


def test_the_first_that_names_an_image_is_heard():
    both = KubernetesRun(image="config:1", job_template=TEMPLATE)
    wishes = Wishes(image="agent:1", agent_image="ours:1")
    assert image_of(spec(both, image="stored:1"), wishes) == "stored:1"
    assert image_of(spec(both), wishes) == "config:1"
    assert image_of(spec(KubernetesRun(job_template=TEMPLATE)), wishes) == "theirs:1"
    assert image_of(spec(KubernetesRun()), wishes) == "agent:1"
    assert image_of(spec(KubernetesRun()), Wishes(agent_image="ours:1")) == "ours:1"
    with pytest.raises(LaunchError, match="no image is named"):
        image_of(spec(KubernetesRun()), Wishes())


def test_flow_agent_is_brought_to_images_that_are_not_the_agents_own():
    other, own = pod(made(KubernetesRun(image="python:3.12"))), pod(made(KubernetesRun(image="ours:1")))
    assert other["initContainers"][0]["image"] == "ours:1"
    assert other["containers"][0]["command"] == ["python3", "-c", program(PROGRAM)]
    assert "initContainers" not in own
    limited = pod(made(KubernetesRun(image="python:3.12", cpu_limit=1, memory_limit="1Gi")))
    assert limited["initContainers"][0]["resources"] == {"limits": {"cpu": "1", "memory": "1Gi"}}  # a quota wants them
    assert own["containers"][0]["command"] == ["flow-agent", "inside"]
    compile(program(PROGRAM), "begin", "exec")


def test_what_is_brought_imports_nothing_from_the_folder_in_which_an_image_starts(tmp_path: Path) -> None:
    inside = tmp_path / "brought/flow_agent/inside.py"
    inside.parent.mkdir(parents=True)
    inside.with_name("__init__.py").touch()
    inside.write_text("import base64, json, sys\ndef main(arguments):\n    print(json.dumps(sys.path))\n")
    for name in ("json", "types", "base64"):
        (tmp_path / f"{name}.py").write_text("")
    command = [sys.executable, "-c", program(str(tmp_path / "brought")), "orders"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found[0], str(tmp_path / "lib") in found) == (str(tmp_path / "brought"), True)
    assert not {"", str(tmp_path)} & set(found)


def test_registry_credentials_become_a_pull_secret_of_the_job():
    given = spec(
        KubernetesRun(image="reg.example.org/a:1"), registry={"REG": '{"username": "u", "password": "secret"}'}
    )
    orders = orders_of(given, "n", fetch_for=1, write_for=1)
    found = secret(given, orders, namespace="flows", uid="1", image="reg.example.org/a:1")
    assert found["type"] == "kubernetes.io/dockerconfigjson"
    assert set(found["data"]) == {"orders", ".dockerconfigjson"}
    assert "secret" not in json.dumps(job(given, Wishes(), namespace="flows", nonce="n")).replace(
        "secretName", ""
    ).replace('"secret": {', "").replace("imagePullSecrets", "")


@pytest.mark.parametrize(
    ("template", "wish"),
    [
        ({"hostNetwork": True}, "job_template:hostNetwork"),
        ({"hostPID": True}, "job_template:hostPID"),
        ({"nodeName": "n"}, "job_template:nodeName"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "job_template:volumes.hostPath"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "job_template:volumes.secret"),
        ({"serviceAccountName": "admin"}, "service_account:admin"),
        ({"automountServiceAccountToken": True}, "job_template:automountServiceAccountToken"),
        ({"securityContext": {"runAsUser": 0}}, "job_template:securityContext.runAsUser"),
        (
            {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
            "job_template:securityContext.seccompProfile",
        ),
        ({"containers": [{"securityContext": {"privileged": True}}]}, "job_template:securityContext.privileged"),
        ({"containers": [{"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}, "securityContext.capab"),
        ({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}, "job_template:containers.envFrom"),
        ({"containers": [{"env": [{"name": "A", "valueFrom": {}}]}]}, "job_template:containers.env.valueFrom"),
        ({"containers": [{"ports": [{"hostPort": 80}]}]}, "job_template:containers.ports.hostPort"),
        ({"containers": [{"lifecycle": {}}]}, "job_template:containers.lifecycle"),
        ({"initContainers": [{"securityContext": {"privileged": True}}]}, "job_template:securityContext.privileged"),
        ({"somethingNew": 1}, "job_template:somethingNew"),
    ],
)
def test_what_reaches_beyond_the_container_is_refused_unless_it_is_named(template, wish):
    asked = spec(KubernetesRun(job_template={"spec": {"template": {"spec": template}}}))
    with pytest.raises(LaunchError, match=wish) as caught:
        refuse(asked, (), namespace="flows", account="default")
    assert caught.value.reason is Reason.NOT_ALLOWED
    assert caught.value.hint is not None
    exact = caught.value.hint.split("'")[3]
    refuse(asked, (exact,), namespace="flows", account="default")
    refuse(asked, (exact.partition(":")[0],), namespace="flows", account="default")
    with pytest.raises(LaunchError):
        refuse(asked, ("job_template:other", "service_account:other"), namespace="flows", account="default")


def test_another_namespace_and_service_account_are_refused_and_the_agents_own_are_not():
    for run, wish in [
        (KubernetesRun(namespace="kube-system"), "namespace:kube-system"),
        (KubernetesRun(service_account_name="admin"), "service_account:admin"),
        (KubernetesRun(job_template={"metadata": {"namespace": "other"}}), "namespace:other"),
    ]:
        with pytest.raises(LaunchError, match=wish):
            refuse(spec(run), (), namespace="flows", account="runner")
    own = KubernetesRun(namespace="flows", service_account_name="runner", job_template=TEMPLATE)
    refuse(spec(own), (), namespace="flows", account="runner")


# What an attempt is handed, and what it tells


def test_orders_come_back_as_they_were_and_show_no_secret():
    run = KubernetesRun(env={"A": Secret("S")})
    orders = orders_of(spec(run, secrets={"S": "planted"}, env={"B": "c"}), "nonce", fetch_for=1, write_for=2)
    again = Orders.of(orders.text())
    assert again == orders
    assert "planted" not in repr(orders)
    assert Orders.of(json.dumps({**json.loads(orders.text()), "newer": 1})) == orders


def test_marked_lines_are_known_by_their_nonce_only():
    mark = Mark("abc")
    line = mark.line(failed={"reason": "x"}).rstrip(b"\n")
    assert Mark("abc").read(line) == (1, {"failed": {"reason": "x"}})
    assert Mark("abd").read(line) is None
    assert mark.read(line[:-1]) is None
    assert mark.read(b"plain") is None


def test_last_words_fit_what_a_kubelet_takes():
    long = {
        "exit": {"code": 1, "tail": "x" * 5_000, "receipt": {"ok": False, "reason": "raised", "detail": "y" * 5_000}}
    }
    words = termination_message(Mark("n"), long)
    assert len(words) < 4_096
    read = Mark("n").read(words.rstrip(b"\n"))
    assert read is not None
    ending = ending_of({**read[1]["exit"], "newer": 1})
    assert isinstance(ending, Ending)
    assert (ending.code, ending.receipt["reason"] if ending.receipt else None) == (1, "raised")


# Where the cluster is


def test_a_pod_finds_its_own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (tmp_path / "ca.crt").write_bytes(Path(certifi.where()).read_bytes())
    (tmp_path / "namespace").write_text("flows\n")
    access = found(account=tmp_path)
    assert (access.server, access.namespace) == ("https://[fd00::1]:6443", "flows")
    assert access.identity == found(account=tmp_path, namespace="other").identity
    assert found(account=tmp_path, cluster="mine").identity == "mine"
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(ClusterError, match="cannot be read"):
        found(account=tmp_path)


def test_a_kubeconfig_that_does_not_fit_says_so(tmp_path: Path):
    file = tmp_path / "config"
    with pytest.raises(InvalidInput, match="cannot be read"):
        found(kubeconfig=file)
    file.write_text("a: [")
    with pytest.raises(InvalidInput, match="is no YAML"):
        found(kubeconfig=file)
    cluster = {"name": "c", "cluster": {"server": "https://c:6443/"}}
    context = {"name": "one", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {"token": "t"}}]}
    file.write_text(json.dumps(config))
    with pytest.raises(InvalidInput, match="no context ''; it has 'one'"):
        found(kubeconfig=file)
    access = found(kubeconfig=file, context="one")
    assert (access.server, access.namespace) == ("https://c:6443", "default")
    config["users"] = [{"name": "u", "user": {"auth-provider": {"name": "gcp"}}}]
    file.write_text(json.dumps(config))
    with pytest.raises(InvalidInput, match="auth-provider"):
        found(kubeconfig=file, context="one")


def test_several_kubeconfigs_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("current-context: x\ncontexts: [{name: x, context: {cluster: c, namespace: n}}]\n")
    two.write_text("current-context: y\nclusters: [{name: c, cluster: {server: 'https://c'}}]\n")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{two}")
    access = found()
    assert (access.server, access.namespace) == ("https://c", "n")
