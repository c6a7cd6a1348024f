"""The Helm chart: what it renders is valid for each Helm and each Kubernetes, and its texts come from its values."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from command import unless_all_is_required
from flow_agent.cli import VERBS
from flow_agent.settings import Leaf, leaves, load
from flow_agent.version import __version__
from generated.test_settings_views import held, sample
from servers.process import FOLDER, installed

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "flow-agent"
HELMS = ["helm3", "helm4"]
KUBERNETES = ["1.27", "1.30", "1.33", "1.35", "1.37"]

SQLITE = {"server": {"enabled": True}}
MATRIX: dict[str, dict[str, Any]] = {
    "server": SQLITE,
    "queue": {"config": {"queue": "https://queue.example.com"}, "existingSecret": "queue", "existingSecretCAKey": "ca"},
    "database": {
        "existingSecret": "queue",
        "existingSecretQueueKey": "url",
        "existingSecretTokenKey": "",
        "replicaCount": 3,
        "podDisruptionBudget": {"minAvailable": "50%"},
    },
    "namespaces": {**SQLITE, "jobNamespaces": ["flows-a", "flows-b"], "secrets": ["github", "aws"]},
    "names": {
        **SQLITE,
        "fullnameOverride": "a-name-that-is-much-longer-than-any-label-or-any-name-may-be-at-all",
        "namespaceOverride": "elsewhere",
        "commonLabels": {"team": "data"},
        "commonAnnotations": {"owner": "data@example.com"},
    },
    "keda": {
        **SQLITE,
        "config": {"agent": {"labels": ["eu gpu"]}},
        "existingSecret": "queue",
        "autoscaling": {"enabled": True, "minReplicas": 0},
    },
    "keda by tls": {
        "server": {"enabled": True, "tlsSecret": "certificate", "tlsSecretCAKey": "ca.crt"},
        "existingSecret": "queue",
        "autoscaling": {"enabled": True, "minReplicas": 0},
    },
    "keda without server": {"config": {"queue": "https://q"}, "autoscaling": {"enabled": True, "maxReplicas": 3}},
    "hpa": {
        **SQLITE,
        "autoscaling": {
            "enabled": True,
            "kind": "hpa",
            "metricLabels": {"namespace": "flows"},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        },
    },
    "everything": {
        "server": {
            "enabled": True,
            "replicaCount": 2,
            "existingSecret": "database",
            "tokensSecret": "tokens",
            "tlsSecret": "certificate",
            "extraEnv": [{"name": "A", "value": "1"}],
            "podLabels": {"a": "b"},
            "podAnnotations": {"a": "b"},
            "podDisruptionBudget": {"minAvailable": 1},
            "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        },
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"a": "b"},
            "hosts": [{"host": "queue.example.com"}, {"host": "other.example.com", "path": "/flows"}],
            "tls": [{"secretName": "tls", "hosts": ["queue.example.com"]}],
        },
        "existingSecret": "queue",
        "secrets": ["github"],
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        },
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": "sha256:" + "0" * 64},
        "rbac": {"extraRules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/agent"}},
        "jobServiceAccount": {"name": "flows", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
        "extraEnv": [{"name": "FLOW_SECRET_A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
        "extraEnvFrom": [{"configMapRef": {"name": "proxies"}}],
        "extraArgs": ["--only-labelled"],
        "extraVolumes": [{"name": "data", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
        "podLabels": {"a": "b"},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "flows", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "priorityClassName": "high",
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-mine"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}",
        ],
    },
    "little": {
        "config": {"queue": "https://q", "home": "/srv/flow-agent", "probes": {"listen": "0.0.0.0:9000"}},
        "rbac": {"create": False},
        "serviceAccount": {"create": False},
        "jobServiceAccount": {"create": False},
        "podDisruptionBudget": None,
        "resources": None,
        "homeSizeLimit": "",
    },
}
FOREIGN = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}
"""Kinds that no Kubernetes knows by itself."""


def helm(name: str) -> str:
    return str(installed("python").parents[1] / name / "helm")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(name: str, values: dict[str, Any], folder: Path, *arguments: str) -> list[dict[str, Any]]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = run(helm(name), "template", "flows", str(CHART), "--namespace", "flows", "-f", str(path), *arguments)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def refused(name: str, values: dict[str, Any], folder: Path) -> str:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = run(helm(name), "template", "flows", str(CHART), "-f", str(path))
    assert done.returncode != 0
    return done.stderr


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("helm_generate", ROOT / "helm" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def defaults() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return found


def one(objects: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(ending))
    return found


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in objects:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif each["kind"] == "Deployment":
            yield each["spec"]["template"]["spec"]


def toml(objects: list[dict[str, Any]]) -> str:
    config = next(each for each in objects if each["kind"] == "ConfigMap" and "flow-agent.toml" in each["data"])
    text: str = config["data"]["flow-agent.toml"]
    return text


# What is generated


def test_schema_and_table_are_made_from_the_values() -> None:
    for path, text in generator().of_values().items():
        assert path.read_text() == text, f"{path.name}: run helm/generate.py"


@pytest.mark.parametrize("name", HELMS)
def test_the_plain_manifests_are_what_the_chart_renders(name: str) -> None:
    module = generator()
    assert module.manifests(helm(name)) == module.MANIFESTS.read_text(), "run helm/generate.py"


def test_every_value_is_in_the_schema_and_has_its_row_in_the_table() -> None:
    described = {value.path for value in generator().documented((CHART / "values.yaml").read_text())}
    table = (CHART / "README.md").read_text()

    def seen(node: Any, rules: dict[str, Any], path: tuple[str, ...]) -> None:
        if path in described:
            assert f"| `{'.'.join(path)}` |" in table
            return
        assert rules["additionalProperties"] is False
        assert set(node) == set(rules["properties"]) - {"global"}, path
        for key, value in node.items():
            seen(value, rules["properties"][key], (*path, key))

    seen(defaults(), schema(), ())
    jsonschema.Draft7Validator.check_schema(schema())
    jsonschema.Draft7Validator(schema()).validate(defaults())


@pytest.mark.parametrize("name", HELMS)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": 3}, "replicas"),
        ({"config": {"agent": {"limits": 3}}}, "limits"),
        ({"config": {"agent": {"limit": 0}}}, "limit"),
        ({"config": {"secrets": {"GITHUB_ACCESS_TOKEN": "x"}}}, "GITHUB_ACCESS_TOKEN"),
        ({"config": {"queue_token": "fa_1_2"}}, "queue_token"),
        ({"config": {"queue": "postgresql://me:secret@host/db"}}, "would stand in a ConfigMap"),
        ({"config": {"probes": {"listen": "nowhere"}}}, "is no address: expected HOST:PORT"),
        ({"autoscaling": {"kind": "magic"}}, "kind"),
        ({"server": {"enabled": False}}, "no queue is named"),
        ({"server": {"enabled": True, "replicaCount": 2}}, "needs a queue in PostgreSQL"),
        ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 2}}, "podDisruptionBudget has minAvailable and"),
        (
            {"server": {"enabled": True, "podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}},
            "server.podDisruptionBudget has minAvailable and",
        ),
        ({"podDisruptionBudget": {"maxUnavailable": None, "unhealthyPodEvictionPolicy": "AlwaysAllow"}}, "has neither"),
        ({"config": {"queue": "postgresql://me@host/db"}}, "name it in server.existingSecret"),
        ({"config": {"queue": "sqlite:/srv/queue.db"}}, "name it in server.existingSecret"),
        (
            {"existingSecret": "q", "existingSecretQueueKey": "url"},
            "in server.existingSecret and server.existingSecret",
        ),
        ({"autoscaling": {"enabled": True, "minReplicas": 0}}, "which answers nobody without a token"),
        (
            {
                "autoscaling": {"enabled": True, "minReplicas": 0},
                "existingSecret": "queue",
                "existingSecretTokenKey": "",
            },
            "in existingSecret and existingSecretTokenKey",
        ),
        ({"podSecurityContext": {"runAsUser": 0}}, "runAsUser is 0"),
        ({"securityContext": {"runAsUser": 0}}, "runAsUser is 0"),
        ({"config": {"probes": {"listen": ":99999"}}}, "config.probes.listen"),
        ({"config": {"server": {"listen": ":0"}}}, "has no port from 1 to 65535"),
        ({"config": {"server": {"listen": "8642"}}}, "is no address: expected HOST:PORT"),
        ({"config": {"probes": None}}, "config.probes.listen"),
        ({"config": {"server": None}}, "config.server.listen"),
        ({"config": {"secrets": {"dir": ""}}, "secrets": ["github"]}, "config.secrets.dir, which is empty"),
        ({"config": {"secrets": None}, "secrets": ["github"]}, "config.secrets.dir, which is empty"),
        ({"autoscaling": {"enabled": True, "minReplicas": 11}}, "is more than autoscaling.maxReplicas"),
        ({"server": {"enabled": False}, "config": {"queue": "sqlite:/q"}, "replicaCount": 2}, "cannot share"),
        (
            {"server": {"enabled": False}, "config": {"queue": "sqlite:/q"}, "autoscaling": {"enabled": True}},
            "cannot share",
        ),
        ({"server": {"enabled": False}, "config": {"queue": "sqlite:queue.db"}}, "would end with it"),
        (
            {
                "server": {"enabled": False},
                "config": {"queue": "sqlite:///data/queue.db"},
                "extraVolumes": [{"name": "data", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            "would end with it",
        ),
        ({"fullnameOverride": "9rel"}, "set fullnameOverride"),
        ({"nameOverride": "a b", "fullnameOverride": "ab"}, "nameOverride"),
        ({"namespaceOverride": "a.b"}, "namespaceOverride"),
        ({"ingress": {"enabled": True}}, "ingress.hosts is empty"),
        ({"autoscaling": {"enabled": True, "kind": "hpa", "minReplicas": 0}}, "needs KEDA"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(
    name: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    said = refused(name, {**SQLITE, **values}, tmp_path)

    assert words in said
    assert "me:secret" not in said


PASSWORDS = [
    "postgresql://me:sekret@host/db",
    "postgresql://me:sekret@host:5432,other:5432/db?sslmode=require",
    "postgresql://:sekret@host/db",
    "postgresql://me:sek/sekret@host/db",
    "postgresql://me:sek?sekret@host/db",
    "postgresql://me:12/sekret@host",
    "postgresql://me:sek#sekret@host/db",
    "postgresql://me:sekret@[::1]:5432/db",
    "postgresql://host/db?user=me&password=sekret",
    "postgresql://host/db?PASSWORD=sekret",
    "postgresql://host/db?sslpassword=sekret",
    "postgresql://host/db?p%61ssword=sekret",
    "https://me:sekret@queue.example.com",
    "host=h user=me password=sekret",
]


@pytest.mark.parametrize("name", HELMS)
@pytest.mark.parametrize("url", PASSWORDS)
def test_no_password_of_the_queue_gets_into_a_config_map(name: str, url: str, tmp_path: Path) -> None:
    said = refused(name, {"config": {"queue": url}}, tmp_path)

    assert "config.queue holds a password" in said
    assert "sekret" not in said


@pytest.mark.parametrize("name", HELMS)
def test_what_only_looks_like_a_password_is_none(name: str, tmp_path: Path) -> None:
    for url in [
        "postgresql://me@host:5432/db",
        "postgresql://me@one:5432,two:5433/db?target_session_attrs=read-write",
        "postgresql://host:5432/db?user=me@company",
        "postgresql://host/db?passfile=/etc/pgpass&application_name=a%20b",
        "postgresql://me@[::1]:5432/db",
        "postgresql:///db?host=/run/postgresql",
        "https://queue.example.com:8642",
    ]:
        assert tomllib.loads(toml(rendered(name, {"config": {"queue": url}}, tmp_path)))["queue"] == url


# What is rendered


@pytest.mark.parametrize("name", HELMS)
def test_helm_finds_nothing_to_say_against_the_chart(name: str, tmp_path: Path) -> None:
    for number, values in enumerate(MATRIX.values()):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(values))
        done = run(helm(name), "lint", "--strict", "-f", str(path), str(CHART))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What Helm 4 renders of the matrix."""
    folder = tmp_path_factory.mktemp("rendered")
    return {case: rendered("helm4", values, folder) for case, values in MATRIX.items()}


@pytest.mark.parametrize("case", MATRIX)
def test_both_versions_of_helm_render_the_same(case: str, everything: Any, tmp_path: Path) -> None:
    def sorted_(objects: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(each, sort_keys=True) for each in objects)

    assert sorted_(rendered("helm3", MATRIX[case], tmp_path)) == sorted_(everything[case])


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(version: str, everything: Any, tmp_path: Path) -> None:
    paths = []
    for number, objects in enumerate(everything.values()):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump_all([each for each in objects if each["kind"] not in FOREIGN]))
    paths.append(ROOT / "deploy" / "kubernetes.yaml")
    program = str(installed("kubernetes-validate"))
    done = run(program, "--strict", "-k", version, *map(str, paths))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", MATRIX)
def test_pods_pass_pod_security_restricted(case: str, everything: Any) -> None:
    found = list(pods(everything[case]))
    assert len(found) >= 2
    for pod in found:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        assert all(set(volume) - {"name"} <= kinds for volume in pod.get("volumes", ()))
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert not [port for port in container.get("ports", ()) if "hostPort" in port]


@pytest.mark.parametrize("case", MATRIX)
def test_names_and_labels_are_not_too_long_and_every_object_has_them(case: str, everything: Any) -> None:
    for each in everything[case]:
        assert len(each["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in each["metadata"].get("labels", {}).values())
        if not each["metadata"]["name"].startswith("flows-mine") and not each["metadata"]["name"].endswith("-text"):
            assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "flows"
    if case == "names":
        assert all(each["metadata"]["labels"]["team"] == "data" for each in everything[case])
        assert all(each["metadata"]["annotations"]["owner"] == "data@example.com" for each in everything[case])
        assert {each["metadata"]["namespace"] for each in everything[case]} == {"elsewhere"}


@pytest.mark.parametrize("case", MATRIX)
def test_volumes_and_selectors_lead_to_what_is_there(case: str, everything: Any) -> None:
    objects = everything[case]
    for pod in pods(objects):
        names = {volume["name"] for volume in pod.get("volumes", ())}
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", ())}
        assert mounted == names
    labels = [
        each["spec"]["template"]["metadata"]["labels"].items() for each in objects if each["kind"] == "Deployment"
    ]
    selectors = [each["spec"]["selector"] for each in objects if each["kind"] == "Service"]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in objects if each["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert len([each for each in labels if selector.items() <= each]) == 1
    for each in objects:
        if each["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}:
            assert each["spec"]["scaleTargetRef"]["name"] == one(objects, "Deployment", "-agent")["metadata"]["name"]
            assert "replicas" not in one(objects, "Deployment", "-agent")["spec"]


@pytest.mark.parametrize("case", MATRIX)
def test_a_disruption_budget_has_one_of_the_two_that_exclude_each_other(case: str, everything: Any) -> None:
    for each in everything[case]:
        if each["kind"] == "PodDisruptionBudget":
            assert len({"minAvailable", "maxUnavailable"} & set(each["spec"])) == 1


@pytest.mark.parametrize("name", HELMS)
def test_min_available_replaces_the_default_budget_and_null_leaves_it_out(name: str, tmp_path: Path) -> None:
    def budgets(spec: Any) -> list[dict[str, Any]]:
        objects = rendered(name, {**SQLITE, "podDisruptionBudget": spec}, tmp_path)
        found = [each["spec"] for each in objects if each["kind"] == "PodDisruptionBudget"]
        return [{key: value for key, value in each.items() if key != "selector"} for each in found]

    assert budgets({}) == [{"maxUnavailable": 1}]
    assert budgets({"minAvailable": 1}) == [{"minAvailable": 1}]
    assert budgets({"minAvailable": 0}) == [{"minAvailable": 0}]
    assert budgets({"maxUnavailable": "30%"}) == [{"maxUnavailable": "30%"}]
    assert budgets({"maxUnavailable": None}) == []
    assert budgets(None) == []


@pytest.mark.parametrize("name", HELMS)
def test_agents_ask_the_server_and_the_server_the_database(name: str, tmp_path: Path) -> None:
    def queues(**config: str) -> list[Any]:
        values = {"server": {"enabled": True, "existingSecret": "database"}, "config": config}
        objects = rendered(name, values, tmp_path)
        found = []
        for ending in ("-agent", "-server"):
            pod = one(objects, "Deployment", ending)["spec"]["template"]["spec"]
            env = pod["containers"][0]["env"]
            found.append([each for each in env if each["name"] == "FLOW_AGENT_QUEUE"])
        assert tomllib.loads(toml(objects)).get("queue") == config.get("queue")
        return found

    key = {"secretKeyRef": {"name": "database", "key": "queue"}}
    database = [{"name": "FLOW_AGENT_QUEUE", "valueFrom": key}]
    assert queues() == [[{"name": "FLOW_AGENT_QUEUE", "value": "http://flows-flow-agent-server.flows:8642"}], database]
    assert queues(queue="https://queue.example.com") == [[], database]


def test_pods_may_run_as_root_where_both_values_say_so(tmp_path: Path) -> None:
    wanted = {"runAsUser": 0, "runAsNonRoot": False}
    for values in ({"podSecurityContext": wanted}, {"securityContext": wanted}):
        for pod in pods(rendered("helm4", {**SQLITE, **values}, tmp_path)):
            (container,) = pod["containers"]
            assert wanted.items() <= {**pod["securityContext"], **container["securityContext"]}.items()


@pytest.mark.parametrize("name", HELMS)
def test_a_release_whose_name_no_service_may_have_is_told_so(name: str, tmp_path: Path) -> None:
    for release in ("9rel.x", "a.flow-agent"):
        command = [helm(name), "template", release, str(CHART), "--set", "server.enabled=true"]
        done = run(*command)
        assert done.returncode != 0
        assert f'"{release}' in done.stderr
        assert "set fullnameOverride" in done.stderr
        done = run(*command, "--set", "fullnameOverride=rel")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", HELMS)
def test_a_queue_in_sqlite_may_be_on_a_volume_that_stays(name: str, tmp_path: Path) -> None:
    for queue in ("sqlite:/data/queue.db", "sqlite:///data/queue.db"):
        values = {
            "config": {"queue": queue},
            "extraVolumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        assert tomllib.loads(toml(rendered(name, values, tmp_path)))["queue"] == queue


@pytest.mark.parametrize("values", [SQLITE, {"config": {"queue": "https://q"}}])
def test_the_test_of_the_release_may_ask_agents_whatever_else_may_not(values: dict[str, Any], tmp_path: Path) -> None:
    given = {"podSelector": {"matchLabels": {"name": "prometheus"}}}
    objects = rendered("helm4", {**values, "networkPolicy": {"enabled": True, "from": [given]}}, tmp_path)
    test = one(objects, "Pod", "-test")["metadata"]["labels"]
    for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
        (rule,) = policy["spec"]["ingress"]
        assert given in rule["from"]
        assert [each for each in rule["from"] if each["podSelector"]["matchLabels"].items() <= test.items()]


def nulls(keep: Any) -> dict[str, Any]:
    """Null for each value of the chart, and for each group of ``config``, of which ``keep`` is not true."""
    result: dict[str, Any] = {}
    for value in generator().documented((CHART / "values.yaml").read_text()):
        for path in [(*value.path, key) for key in value.default] if value.path == ("config",) else [value.path]:
            if not keep(value, path):
                result = merged(result, nested(path, None))
    return result


@pytest.mark.parametrize("name", HELMS)
def test_what_is_set_to_null_is_left_out(name: str, tmp_path: Path) -> None:
    listens = {("config", "probes"), ("config", "server")}
    values = nulls(lambda value, path: path in listens or (value.needed and value.path != ("config",)))
    enabled = {"enabled": True}
    values = merged(values, {"server": enabled, "podMonitor": enabled, "networkPolicy": enabled})
    for autoscaling in ({}, {"autoscaling": {**enabled, "kind": "keda"}}, {"autoscaling": {**enabled, "kind": "hpa"}}):
        objects = rendered(name, merged(values, autoscaling), tmp_path)
        assert [each for each in objects if each["kind"] == "PodMonitor"]
        assert not [each for each in objects if each["kind"] == "PodDisruptionBudget"]
        for pod in pods(objects):
            assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(pod["containers"][0])
        path = tmp_path / "objects.yaml"
        path.write_text(yaml.safe_dump_all([each for each in objects if each["kind"] not in FOREIGN]))
        done = run(str(installed("kubernetes-validate")), "--strict", "-k", KUBERNETES[-1], str(path))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", HELMS)
def test_what_is_needed_cannot_be_null(name: str, tmp_path: Path) -> None:
    needed = [value.path for value in generator().documented((CHART / "values.yaml").read_text()) if value.needed]
    assert ("replicaCount",) in needed
    assert ("commonLabels",) not in needed
    groups = {path[:length] for path in needed for length in range(1, len(path))} | {("config",)}
    for paths in ([path for path in needed if path != ("config",)], [path for path in groups if len(path) == 1]):
        values: dict[str, Any] = {}
        for path in paths:
            values = merged(values, nested(path, None))
        said = refused(name, values, tmp_path)
        assert "nil pointer" not in said
        assert all(path[-1] in said for path in paths), said


def test_access_is_given_in_the_named_namespaces_and_nowhere_else(everything: Any) -> None:
    objects = everything["namespaces"]
    for kind in ("Role", "RoleBinding"):
        found = [each["metadata"]["namespace"] for each in objects if each["kind"] == kind]
        assert sorted(found) == ["flows-a", "flows-b"]
    for kinds in everything.values():
        assert not [each for each in kinds if each["kind"].startswith("Cluster")]
    rules = next(each for each in objects if each["kind"] == "Role")["rules"]
    allowed = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert allowed == {
        "jobs": {"get", "list", "watch", "create", "patch", "delete"},
        "pods": {"get", "list", "watch", "delete"},
        "pods/log": {"get"},
        "events": {"list", "watch"},
        "secrets": {"create", "delete"},
    }
    accounts = [each for each in objects if each["kind"] == "ServiceAccount"]
    assert all(each["automountServiceAccountToken"] is False for each in accounts)
    assert sorted(each["metadata"]["namespace"] for each in accounts) == ["flows", "flows-a", "flows-b"]


def test_without_access_to_secrets_none_is_given(tmp_path: Path) -> None:
    role = one(rendered("helm4", {**SQLITE, "rbac": {"jobSecrets": False}}, tmp_path), "Role")

    assert not [rule for rule in role["rules"] if "secrets" in rule["resources"]]


def test_keda_asks_the_server_where_no_agent_may_be_there(everything: Any) -> None:
    scaled = one(everything["keda"], "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    assert scaled["minReplicaCount"] == 0
    assert trigger["metadata"] == {
        "url": "http://flows-flow-agent-server.flows:8642/waiting?launcher=kubernetes&label=eu+gpu",
        "valueLocation": "work",
        "targetValue": "100",
        "authMode": "bearer",
    }
    assert trigger["authenticationRef"]["name"] == one(everything["keda"], "TriggerAuthentication")["metadata"]["name"]
    (trigger,) = one(everything["keda without server"], "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["url"] == "http://flows-flow-agent-probes.flows:8080/waiting"


def test_keda_asks_for_what_agents_take_that_leave_runs_without_labels(tmp_path: Path) -> None:
    values = merged(MATRIX["keda"], {"config": {"agent": {"only_labelled": True}}})
    (trigger,) = one(rendered("helm4", values, tmp_path), "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["url"].endswith("/waiting?launcher=kubernetes&label=eu+gpu&only_labelled=true")


@pytest.mark.parametrize("name", HELMS)
def test_keda_checks_the_server_by_what_agents_check_it_by(name: str, tmp_path: Path) -> None:
    def trigger(values: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]], Any]:
        objects = rendered(name, merged(MATRIX["keda by tls"], values), tmp_path)
        (found,) = one(objects, "ScaledObject")["spec"]["triggers"]
        given = [each for each in objects if each["kind"] == "TriggerAuthentication"]
        assert [each["metadata"]["name"] for each in given] == [found["authenticationRef"]["name"]]
        pod = one(objects, "Deployment", "-agent")["spec"]["template"]["spec"]
        agents = [each["secret"] for each in pod["volumes"] if each["name"] == "authorities"]
        env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        assert ("FLOW_AGENT_QUEUE_CA" in env) == bool(agents)
        return found["metadata"], given[0]["spec"]["secretTargetRef"], agents

    def authorities(secret: str, key: str) -> Any:
        return {"secretName": secret, "defaultMode": 0o440, "items": [{"key": key, "path": "ca.pem"}]}

    token = {"parameter": "token", "name": "queue", "key": "token"}
    metadata, given, agents = trigger({})
    assert metadata["url"] == "https://flows-flow-agent-server.flows:8642/waiting?launcher=kubernetes&label="
    assert (metadata["authMode"], "unsafeSsl" in metadata) == ("bearer", False)
    assert given == [token, {"parameter": "ca", "name": "certificate", "key": "ca.crt"}]
    assert agents == [authorities("certificate", "ca.crt")]
    assert "`<release>-flow-agent-server.<namespace>`" in (CHART / "README.md").read_text()

    _, given, agents = trigger({"existingSecretCAKey": "ca"})
    assert given == [token, {"parameter": "ca", "name": "queue", "key": "ca"}]
    assert agents == [authorities("queue", "ca")]

    metadata, given, _ = trigger({"autoscaling": {"unsafeSsl": True}})
    assert metadata["unsafeSsl"] == "true"
    assert given == [token]

    _, given, agents = trigger({"server": {"tlsSecretCAKey": ""}})
    assert (given, agents) == ([token], [])


# Settings


@pytest.fixture(autouse=True)
def home(own_home: Path) -> Path:
    return own_home


KEPT_IN_SECRETS = {"queue_token": "existingSecretTokenKey"}
"""Settings that no ConfigMap may hold, and the value that stands for each."""


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return value


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(one)
    for key, value in other.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


@pytest.mark.parametrize("name", HELMS)
def test_every_setting_is_reached_through_config(name: str, tmp_path: Path, home: Path) -> None:
    everywhere: dict[str, Any] = {}
    expected: list[tuple[Leaf, Any]] = []
    for leaf in leaves():
        if ".".join(leaf.path) in KEPT_IN_SECRETS:
            assert KEPT_IN_SECRETS[".".join(leaf.path)] in defaults()
            continue
        text, value = sample(leaf)
        if leaf.path[-1] == "listen":
            text = value = ":9999"
        value = (text, value)[not isinstance(value, Path)]
        expected.append((leaf, sample(leaf)[1] if leaf.path[-1] != "listen" else value))
        everywhere = merged(everywhere, nested(leaf.path, list(value) if isinstance(value, tuple) else value))
    objects = rendered(name, {"config": everywhere}, tmp_path)
    (home / "flow-agent.toml").write_text(toml(objects))

    settings = load({"home": str(home)})
    for leaf, value in expected:
        if leaf.path == ("home",):
            env = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
            assert {"name": "FLOW_AGENT_HOME", "value": str(value)} in env
        else:
            assert held(settings, leaf) == value, leaf.path


@pytest.mark.parametrize("name", HELMS)
def test_what_the_chart_sets_of_itself_are_settings_too(name: str, tmp_path: Path, home: Path) -> None:
    objects = rendered(name, MATRIX["everything"], tmp_path)
    (home / "flow-agent.toml").write_text(toml(objects))
    settings = load()
    assert settings.secrets.environment_allow == ("FLOW_SECRET_*",)
    known = {leaf.variable for leaf in leaves()} | {"FLOW_AGENT_CONFIG"}
    for pod in pods(objects):
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            named = {each["name"] for each in container.get("env", ()) if each["name"].startswith("FLOW_AGENT_")}
            assert named <= known
            if "command" not in container:
                assert container["args"][0] in VERBS
    agent = one(objects, "Deployment", "-agent")["spec"]["template"]["spec"]
    assert next(each for each in agent["volumes"] if each["name"] == "secrets")["projected"]["sources"] == [
        {"secret": {"name": "github"}}
    ]
    mounts = {each["name"]: each["mountPath"] for each in agent["containers"][0]["volumeMounts"]}
    assert mounts["secrets"] == str(settings.secrets.dir)


def test_jobs_are_made_where_the_chart_gives_access_and_as_its_own_account(everything: Any, tmp_path: Path) -> None:
    found = tomllib.loads(toml(everything["namespaces"]))["kubernetes"]
    names = {each["metadata"]["name"] for each in everything["namespaces"] if each["kind"] == "ServiceAccount"}
    assert found["namespace"] == "flows-a"
    assert found["allow"] == ["namespace:flows-b"]
    assert found["service_account"] in names - {"flows-flow-agent"}
    assert found["agent_image"] == f"flow-agent:{__version__}"
    given = {"config": {"kubernetes": {"service_account": "mine", "image": "python:3.13-slim"}}}
    found = tomllib.loads(toml(rendered("helm4", {**SQLITE, **given}, tmp_path)))["kubernetes"]
    assert (found["service_account"], found["image"], found["namespace"]) == ("mine", "python:3.13-slim", "flows")


@pytest.mark.parametrize("name", HELMS)
def test_what_runs_may_ask_for_is_added_to_the_namespaces_of_jobs(name: str, tmp_path: Path) -> None:
    def allowed(kubernetes: Any, *namespaces: str) -> Any:
        values = {**SQLITE, "jobNamespaces": list(namespaces), "config": {"kubernetes": kubernetes}}
        return tomllib.loads(toml(rendered(name, values, tmp_path)))["kubernetes"].get("allow")

    mine = ["host_network", "namespace:flows-c", "namespace:elsewhere"]
    assert allowed({"allow": mine}, "flows-a", "flows-b", "flows-c") == [*mine, "namespace:flows-b"]
    assert allowed({"allow": mine}) == mine
    assert allowed({"namespace": "flows-b"}, "flows-a", "flows-b") == ["namespace:flows-a"]
    assert allowed({}, "flows-a") is None


def test_a_new_configuration_starts_the_pods_anew(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> Any:
        agent = one(rendered("helm4", {**SQLITE, **values}, tmp_path), "Deployment", "-agent")
        return agent["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) != checksum({"config": {"agent": {"limit": 3}}})


# The chart tells of itself


def test_the_chart_has_the_version_of_the_program_and_says_what_artifact_hub_asks_for() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert "dependencies" not in chart
    assert re.fullmatch(r">=1\.\d+\.0-0", chart["kubeVersion"])
    notes = {key.removeprefix("artifacthub.io/"): value for key, value in chart["annotations"].items()}
    changes = yaml.safe_load(notes["changes"])
    assert all(set(each) == {"kind", "description"} for each in changes)
    assert yaml.safe_load(notes["images"])[0]["image"].endswith(f":{__version__}")
    assert notes["category"] == "integration-delivery"
    assert chart["kubeVersion"].removeprefix(">=").startswith(KUBERNETES[0])


NOTES = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data:
  notes: {{ include "flow-agent/templates/NOTES.txt" . | toJson }}
"""
"""Shows them without a cluster."""


@pytest.mark.parametrize("name", HELMS)
def test_the_notes_say_what_was_installed_and_what_is_missing(name: str, tmp_path: Path) -> None:
    def notes(values: dict[str, Any]) -> str:
        objects = rendered(name, {**values, "extraObjects": [NOTES]}, tmp_path)
        text: str = one(objects, "ConfigMap", "notes")["data"]["notes"]
        return text

    assert "It knows no tokens yet" in notes(SQLITE)
    complete = notes({"server": {"enabled": True, "tokensSecret": "t"}, "jobNamespaces": ["a", "b"]})
    assert "It knows no tokens yet" not in complete
    assert "Jobs may be made in: a, b." in complete


def test_the_test_of_the_release_asks_agent_and_server(everything: Any) -> None:
    pod = one(everything["server"], "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    script, *asked = pod["spec"]["containers"][0]["args"]
    compile(script, "test", "exec")
    services = {each["metadata"]["name"] for each in everything["server"] if each["kind"] == "Service"}
    assert {re.split(r"[/.:]+", url)[1] for url in asked} == services


def test_the_helms_are_those_of_two_major_versions() -> None:
    if not (FOLDER / ".ready").exists():
        unless_all_is_required("the servers for the tests are not installed: `make servers`")
    said = [run(helm(name), "version", "--short").stdout for name in HELMS]
    assert [text[:2] for text in said] == ["v3", "v4"]


def test_the_settings_file_of_the_default_is_toml_that_people_can_read(everything: Any) -> None:
    found = tomllib.loads(toml(everything["server"]))
    assert found["agent"]["launchers"] == ["kubernetes"]
    assert found["probes"]["listen"] == ":8080"
