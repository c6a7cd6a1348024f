"""From a launch spec to a Job and its Secret, in the words of the API. Nothing secret stands in the Job: everybody who
may list Jobs can read it."""

from __future__ import annotations

import base64
import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flow_agent.engine import registries
from flow_agent.errors import LaunchError
from flow_agent.launchers import handed
from flow_agent.launchers.handed import Orders
from flow_agent.model import LaunchSpec

MANAGED, MANAGER = "app.kubernetes.io/managed-by", "flow-agent"
RUN, ATTEMPT, CLAIM, JOB = "flow-agent/run", "flow-agent/attempt", "flow-agent/claim", "flow-agent/job"
"""Labels of our own, on Job and pod: what a cluster adds by itself differs from version to version."""
SELECTOR = f"{MANAGED}={MANAGER},{RUN}"
NONCE, WENT, STOPPED = "flow-agent/nonce", "flow-agent/went", "flow-agent/stopped"
"""Annotations of the Job: its attempt's nonce; that it was let go; that we have it end."""
AGENT, FLOW = "flow-agent/agent", "flow-agent/flow"
"""Annotations for people: who made it, for which flow."""
CONTAINER = "flow"
PLACE, HANDED = "/flow-agent", "/flow-agent-orders"
"""Where the container has room for the attempt, and where it finds its orders."""
PROGRAM = f"{PLACE}/program"
"""Where an init container puts flow-agent for images that lack it."""
LAST_WORDS = "/dev/termination-log"
MARGIN = 10
"""Seconds that a container has to report, beyond the grace of its attempt."""
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security `restricted` wants of a container."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The settings below ``kubernetes`` that are about making Jobs; ``agent`` is the name of who makes them.

    ``user`` is the number as which containers run; 0 leaves that to their images.
    """

    agent: str = ""
    image: str = ""
    agent_image: str = ""
    service_account: str = "default"
    user: int = 1000
    ttl: int = 604_800
    allow: tuple[str, ...] = ()
    fetch_for: float = 600.0
    write_for: float = 600.0

    @classmethod
    def of(cls, agent: str, options: Mapping[str, Any]) -> Wishes:
        """Those in ``options``."""
        return cls(agent=agent, **{name: options[name] for name in cls.__dataclass_fields__ if name in options})


def name_of(spec: LaunchSpec) -> str:
    """What the Job of an attempt is called."""
    return f"flow-{spec.run_id}-{spec.attempt}"


def namespace_of(spec: LaunchSpec, home: str) -> str:
    """Where the Job of ``spec`` belongs; ``home`` unless the run says otherwise."""
    template = spec.container.get("job_template") or {}
    return str(spec.container.get("namespace") or (template.get("metadata") or {}).get("namespace") or home)


def image_of(spec: LaunchSpec, wishes: Wishes) -> str:
    """The image of the run: where its flow lies, else the run config's, the template's, the agent's own choice.

    Raises LaunchError: nobody names one.
    """
    container = _container(_pod(spec.container.get("job_template") or {}))
    image = spec.image or container.get("image") or wishes.image or wishes.agent_image
    if not image:
        raise LaunchError(
            f"no image is named for flow {spec.flow!r}: neither by its storage nor by its run config, its job_template"
            " or the settings of this agent",
            hint="give KubernetesRun(image=...), or set kubernetes.image",
        )
    return str(image)


def job(spec: LaunchSpec, wishes: Wishes, *, namespace: str, nonce: str) -> dict[str, Any]:
    """The suspended Job of ``spec``."""
    asked, image = spec.container, image_of(spec, wishes)
    made = copy.deepcopy(dict(asked.get("job_template") or {}))
    labels = {
        MANAGED: MANAGER,
        RUN: spec.run_id,
        ATTEMPT: str(spec.attempt),
        CLAIM: str(spec.claim),
        JOB: name_of(spec),
    }
    notes = {NONCE: nonce, AGENT: wishes.agent, FLOW: spec.flow}
    given = made.get("metadata") or {}
    made |= {"apiVersion": "batch/v1", "kind": "Job"}
    made["metadata"] = {
        "name": name_of(spec),
        "namespace": namespace,
        "labels": {**(given.get("labels") or {}), **labels},
        "annotations": {**(given.get("annotations") or {}), **notes},
    }
    body = made.setdefault("spec", {})
    body |= {"suspend": True, "backoffLimit": 0, "completions": 1, "parallelism": 1}
    body["ttlSecondsAfterFinished"] = asked.get("ttl", body.get("ttlSecondsAfterFinished", wishes.ttl))
    template = body.setdefault("template", {})
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    template["spec"] = _patched(template.get("spec") or {}, spec, wishes, image)
    return made


def _pod(template: Mapping[str, Any]) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = ((template.get("spec") or {}).get("template") or {}).get("spec") or {}
    return spec


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The container of a pod that is to run the flow."""
    containers = [dict(each) for each in pod.get("containers") or ()]
    return next((each for each in containers if each.get("name") == CONTAINER), containers[0] if containers else {})


def _patched(pod: dict[str, Any], spec: LaunchSpec, wishes: Wishes, image: str) -> dict[str, Any]:
    """The pod of a template, with what an attempt needs."""
    asked, flow = spec.container, _container(pod)
    others = [each for each in pod.get("containers") or () if each.get("name") != flow.get("name")]
    account = asked.get("service_account_name") or pod.get("serviceAccountName") or wishes.service_account
    pulled = [*(pod.get("imagePullSecrets") or ()), *({"name": name} for name in asked.get("image_pull_secrets", ()))]
    if spec.registry:
        pulled.append({"name": name_of(spec)})
    user = {"runAsUser": wishes.user, "runAsGroup": wishes.user, "fsGroup": wishes.user} if wishes.user else {}
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(spec.grace) + MARGIN,
        **pod,
        "serviceAccountName": account,
        "restartPolicy": "Never",
        "securityContext": {
            **({"runAsNonRoot": True} if wishes.user else {}),
            "seccompProfile": {"type": "RuntimeDefault"},
            **user,
            **(pod.get("securityContext") or {}),
        },
        "nodeSelector": {**(pod.get("nodeSelector") or {}), **asked.get("node_selector", {})},
        "tolerations": [*(pod.get("tolerations") or ()), *asked.get("tolerations", ())],
        "affinity": asked.get("affinity") or pod.get("affinity") or {},
        "imagePullSecrets": pulled,
        "volumes": [
            *(pod.get("volumes") or ()),
            {"name": "flow-agent", "emptyDir": {}},
            {
                "name": "flow-agent-orders",
                "secret": {
                    "secretName": name_of(spec),
                    "items": [{"key": "orders", "path": "orders"}],
                    "defaultMode": 0o444,  # the container's user, whoever that is
                },
            },
        ],
    }
    pod.pop("serviceAccount", None)
    needed = bool(wishes.agent_image) and image != wishes.agent_image
    pod["containers"] = [_flow(flow, spec, image, brought=needed), *others]
    inits = [dict(each) for each in pod.get("initContainers") or ()]
    if needed:
        inits.insert(0, _bringer(wishes, pod["containers"][0]["resources"]))
    standard = RESTRICTED if wishes.user else {name: RESTRICTED[name] for name in RESTRICTED if name != "runAsNonRoot"}
    for kind, containers in (("containers", pod["containers"]), ("initContainers", inits)):
        pod[kind] = [
            {**each, "securityContext": {**standard, **(each.get("securityContext") or {})}} for each in containers
        ]
    return {name: value for name, value in pod.items() if value not in ({}, [])}


def _flow(flow: dict[str, Any], spec: LaunchSpec, image: str, *, brought: bool) -> dict[str, Any]:
    asked = spec.container
    policy = asked.get("image_pull_policy") or flow.get("imagePullPolicy")
    policy = policy or {"always": "Always", "never": "Never"}.get(asked.get("pull_policy", ""))
    ours = {"FLOW_AGENT_HOME": f"{PLACE}/home", "HOME": f"{PLACE}/home"}
    env = [*(flow.get("env") or ())]
    env += [{"name": name, "value": value} for name, value in ours.items() if name not in {e["name"] for e in env}]
    words = [f"{HANDED}/orders", "--last-words", LAST_WORDS]
    program = ["python3", "-c", handed.program(PROGRAM)] if brought else ["flow-agent", "inside"]
    return {
        **flow,
        "name": CONTAINER,
        "image": image,
        "command": program,
        "args": words,
        "env": env,
        "resources": _resources(flow.get("resources") or {}, asked),
        "terminationMessagePath": LAST_WORDS,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            *(flow.get("volumeMounts") or ()),
            {"name": "flow-agent", "mountPath": PLACE},
            {"name": "flow-agent-orders", "mountPath": HANDED, "readOnly": True},
        ],
        **({"imagePullPolicy": policy} if policy else {}),
    }


def _bringer(wishes: Wishes, resources: Mapping[str, Any]) -> dict[str, Any]:
    """The init container that puts flow-agent where the run's image finds it.

    It asks for what the flow does, which costs nothing, since it ends before that begins: a quota may want figures of
    every container.
    """
    return {
        "name": "flow-agent",
        "image": wishes.agent_image,
        "command": ["flow-agent", "inside"],
        "args": ["--install", PROGRAM],
        "env": [{"name": "FLOW_AGENT_HOME", "value": f"{PLACE}/home"}, {"name": "HOME", "value": f"{PLACE}/home"}],
        "resources": resources,
        "volumeMounts": [{"name": "flow-agent", "mountPath": PLACE}],
    }


def _resources(given: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    found = {kind: dict(given.get(kind) or {}) for kind in ("requests", "limits")}
    for kind, suffix in (("requests", "request"), ("limits", "limit")):
        for resource in ("cpu", "memory"):
            if (value := asked.get(f"{resource}_{suffix}")) is not None:
                found[kind][resource] = value
    return {**given, **{kind: table for kind, table in found.items() if table}}


def secret(spec: LaunchSpec, orders: Orders, *, namespace: str, uid: str, image: str) -> dict[str, Any]:
    """The Secret with ``orders``, and with the registry's credentials, if there are any; it goes with the Job ``uid``.

    Raises SecretNotFound: the registry's secret holds no credentials.
    """
    data, kind = {"orders": orders.text().encode()}, "Opaque"
    for name, value in spec.registry.items():
        found = registries.credentials(name, value, image)
        server = found.pop("serveraddress")
        entry: dict[str, str] = dict(found)
        if "username" in found:
            entry["auth"] = base64.b64encode(f"{found['username']}:{found['password']}".encode()).decode()
        where = "https://index.docker.io/v1/" if server == "docker.io" else server
        data[".dockerconfigjson"] = json.dumps({"auths": {where: entry}}).encode()
        kind = "kubernetes.io/dockerconfigjson"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name_of(spec),
            "namespace": namespace,
            "labels": {MANAGED: MANAGER, RUN: spec.run_id},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": name_of(spec),
                    "uid": uid,
                    "controller": False,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "type": kind,
        "immutable": True,
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }
