"""What an agent does not let a run have of its cluster, unless the settings name it. Closed: what is not known to stay
within the container is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flow_agent.errors import LaunchError
from flow_agent.launchers.container import covers
from flow_agent.model import LaunchSpec, Reason

Wish = tuple[str, str]

_OURS = frozenset({"apiVersion", "kind", "metadata", "spec"})
_JOB_METADATA = frozenset({"name", "generateName", "labels", "annotations", "creationTimestamp"})
_JOB = frozenset(
    {"template", "suspend", "backoffLimit", "completions", "parallelism", "activeDeadlineSeconds"}
    | {"ttlSecondsAfterFinished"}
)
_POD_METADATA = frozenset({"name", "labels", "creationTimestamp"})
_POD = frozenset(
    {"containers", "initContainers", "volumes", "restartPolicy", "securityContext", "serviceAccountName"}
    | {"nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "terminationGracePeriodSeconds"}
    | {"activeDeadlineSeconds", "enableServiceLinks", "imagePullSecrets", "serviceAccount"}
)
_CONTAINER = frozenset(
    {"name", "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "resources", "ports"}
    | {"volumeMounts", "securityContext", "terminationMessagePath", "terminationMessagePolicy", "stdin", "tty"}
)
_STRICTER: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "privileged": False,
}
"""Of a security context, what takes something away where it has this value."""
_NUMBERS = frozenset({"runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "supplementalGroups"})


def refuse(spec: LaunchSpec, allowed: Sequence[str], *, namespace: str, account: str) -> None:
    """See that the agent lets the run have what it asks for; ``namespace`` and ``account`` are what runs have anyway.

    An entry of ``allowed`` is a name (``service_account``, ``job_template``), or a name with one value
    (``namespace:reports``, ``job_template:hostNetwork``, ``job_template:volumes.hostPath``).

    Raises LaunchError: ``not_allowed``.
    """
    asked = spec.container
    wishes = [*_named(asked, namespace, account), *_of_template(asked.get("job_template") or {}, namespace, account)]
    for name, value in wishes:
        if not any(covers(entry, name, value) for entry in allowed):
            raise LaunchError(
                f"flow {spec.flow!r} asks for {name}:{value}, which reaches beyond its own container, and the setting"
                " kubernetes.allow of this agent does not name that",
                hint=f"whoever runs the agent may add {name!r}, or '{name}:{value}' alone, to kubernetes.allow",
                reason=Reason.NOT_ALLOWED,
            )


def _named(asked: Mapping[str, Any], namespace: str, account: str) -> Iterator[Wish]:
    if asked.get("namespace", namespace) != namespace:
        yield "namespace", asked["namespace"]
    if asked.get("service_account_name", account) != account:
        yield "service_account", asked["service_account_name"]


def _of_template(job: Mapping[str, Any], namespace: str, account: str) -> Iterator[Wish]:
    metadata, spec = job.get("metadata") or {}, job.get("spec") or {}
    if metadata.get("namespace", namespace) != namespace:
        yield "namespace", str(metadata["namespace"])
    yield from _beyond(job, _OURS, "")
    yield from _beyond(metadata, _JOB_METADATA | {"namespace"}, "metadata.")
    yield from _beyond(spec, _JOB, "spec.")
    template = spec.get("template") or {}
    yield from _beyond(template, frozenset({"metadata", "spec"}), "template.")
    yield from _beyond(template.get("metadata") or {}, _POD_METADATA, "")  # annotations, which some clusters obey
    pod = template.get("spec") or {}
    yield from _beyond(pod, _POD, "")
    for field in ("serviceAccountName", "serviceAccount"):
        if pod.get(field, account) != account:
            yield "service_account", str(pod[field])
    yield from _security(pod.get("securityContext") or {})
    for volume in pod.get("volumes") or ():
        kinds = set(volume) - {"name", "emptyDir"} if isinstance(volume, Mapping) else {"unknown"}
        for kind in sorted(kinds):
            yield "job_template", f"volumes.{kind}"
    for container in (*(pod.get("containers") or ()), *(pod.get("initContainers") or ())):
        yield from _container(container)


def _container(container: Mapping[str, Any]) -> Iterator[Wish]:
    yield from _beyond(container, _CONTAINER, "containers.")
    if any(not isinstance(each, Mapping) or "valueFrom" in each for each in container.get("env") or ()):
        yield "job_template", "containers.env.valueFrom"
    if container.get("envFrom"):
        yield "job_template", "containers.envFrom"
    if any(isinstance(each, Mapping) and {"hostPort", "hostIP"} & set(each) for each in container.get("ports") or ()):
        yield "job_template", "containers.ports.hostPort"
    mounts = container.get("volumeMounts") or ()
    if any(isinstance(each, Mapping) and each.get("mountPropagation") for each in mounts):
        yield "job_template", "containers.volumeMounts.mountPropagation"
    resources = container.get("resources") or {}
    if resources.get("claims"):
        yield "job_template", "containers.resources.claims"
    yield from _security(container.get("securityContext") or {})


def _security(context: Mapping[str, Any]) -> Iterator[Wish]:
    for name, value in context.items():
        harmless = (
            (name in _STRICTER and value == _STRICTER[name])
            or (name in _NUMBERS and (name != "runAsUser" or value != 0))
            or (name == "capabilities" and set(value or {}) <= {"drop"})
            or (name == "seccompProfile" and (value or {}).get("type") == "RuntimeDefault")
        )
        if not harmless:
            yield "job_template", f"securityContext.{name}"


def _beyond(table: Mapping[str, Any], known: frozenset[str], where: str) -> Iterator[Wish]:
    for name in sorted(set(map(str, table)) - known):
        yield "job_template", f"{where}{name}"
