"""How and where a flow's runs are started. Standard library only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from flow_agent import container_options as options
from flow_agent import ecs_options, host_options, kubernetes_options
from flow_agent.checks import credential_like, secret_name, secret_names, texts


class Secret:
    """Stands for the value of the secret ``name`` wherever only a name may be written down, as in a run's env."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        (self.name,) = secret_names([name], what="Secret: its name")

    def describe(self) -> dict[str, str]:
        """The marker as JSON."""
        return {"secret": self.name}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.name == other.name

    def __hash__(self) -> int:
        return hash((Secret, self.name))

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"


class RunConfig:
    """What all run configs share: ``env`` and ``labels``, equality, and a JSON form.

    Values of ``env`` are texts, or ``Secret("NAME")`` for what must not be written down.
    """

    launcher: ClassVar[str | None] = None
    """The launcher it asks for; None leaves it to the agent."""

    def __init__(self, *, env: Mapping[str, str | Secret] | None = None, labels: Iterable[str] | None = None) -> None:
        kind = type(self).__name__
        if env is not None and not isinstance(env, Mapping):
            raise TypeError(f"{kind}: env is {env!r}, expected a dict of names and texts")
        self.env: dict[str, str | Secret] = dict(env or {})
        self.labels = texts(labels, what=f"{kind}: a label")
        for name, value in self.env.items():
            self._check(kind, name, value)

    @staticmethod
    def _check(kind: str, name: str, value: str | Secret) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{kind}: env has the name {name!r}, expected text")
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{kind}: env has the name {name!r}, expected at least one character, none of them '='")
        if isinstance(value, Secret):
            return
        if not isinstance(value, str):
            raise TypeError(f"{kind}: env[{name!r}] is of type {type(value).__name__}, expected text or Secret(...)")
        if "\0" in value:
            raise ValueError(f"{kind}: env[{name!r}] holds a NUL character, which no environment variable can")
        if credential_like(name, value):
            warnings.warn(
                f"{kind}: env[{name!r}] looks like a credential and would be kept in the queue as it is;"
                f" write Secret({name!r}) in its place",
                stacklevel=4,
            )

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secrets in ``env``."""
        return tuple(dict.fromkeys(value.name for value in self.env.values() if isinstance(value, Secret)))

    def _options(self) -> dict[str, Any]:
        """What a kind of run config has beside ``env`` and ``labels``, JSON-ready."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Itself as JSON-ready values."""
        env = {name: v.describe() if isinstance(v, Secret) else v for name, v in sorted(self.env.items())}
        return {"type": type(self).__name__, "env": env, "labels": sorted(self.labels), **self._options()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunConfig) and self.describe() == other.describe()

    __hash__ = None  # type: ignore[assignment]  # equal by what can still be changed

    def __repr__(self) -> str:
        # Names only: a value may be a credential after all.
        given = {"env": sorted(self.env), "labels": list(self.labels), **self._options()}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items() if value)})"


class UniversalRun(RunConfig):
    """Runs on whatever launcher the agent has; ``image`` is used where that one starts containers."""

    def __init__(
        self,
        *,
        env: Mapping[str, str | Secret] | None = None,
        labels: Iterable[str] | None = None,
        image: str | None = None,
    ) -> None:
        super().__init__(env=env, labels=labels)
        self.image = options.image_name(image, what="UniversalRun: image")

    def _options(self) -> dict[str, Any]:
        return {"image": self.image}


class LocalRun(RunConfig):
    """Runs in a process of the agent's machine, in ``working_dir`` (made absolute where the flow is registered).

    ``python`` is the path of the interpreter that runs it there, 3.11 or newer; it needs what the flow imports, and
    nothing of ours.

    ``memory_limit`` is bytes, or text such as ``"512M"`` or ``"2G"`` (of 1024): no process of the attempt may reserve
    more, and all of them together may not hold more. ``cpu_time_limit`` is seconds of CPU time of each process.
    ``nice`` (-20 to 19) is added to the agent's own niceness; only root may take something from it.
    """

    launcher = "process"

    def __init__(
        self,
        *,
        env: Mapping[str, str | Secret] | None = None,
        labels: Iterable[str] | None = None,
        working_dir: str | Path | None = None,
        python: str | Path | None = None,
        memory_limit: int | str | None = None,
        cpu_time_limit: float | None = None,
        nice: int | None = None,
    ) -> None:
        super().__init__(env=env, labels=labels)
        if python is not None and not (isinstance(python, str | Path) and Path(python).expanduser().is_absolute()):
            raise ValueError(f"LocalRun: python is {python!r}, expected the absolute path of an interpreter")
        self.python = None if python is None else str(Path(python).expanduser())
        if working_dir is not None and not isinstance(working_dir, str | Path):
            raise TypeError(f"LocalRun: working_dir is {working_dir!r}, expected a path")
        self.working_dir = None if working_dir is None else str(Path(working_dir).expanduser().absolute())
        limit = None if memory_limit is None else options.in_bytes(memory_limit, what="LocalRun: memory_limit")
        self.memory_limit = limit
        if cpu_time_limit is not None and not (options.is_number(cpu_time_limit) and 0 < cpu_time_limit < math.inf):
            raise ValueError(f"LocalRun: cpu_time_limit is {cpu_time_limit!r}, expected seconds, more than 0")
        self.cpu_time_limit = cpu_time_limit
        if nice is not None and not (isinstance(nice, int) and options.is_number(nice) and -20 <= nice <= 19):
            raise ValueError(f"LocalRun: nice is {nice!r}, expected a whole number from -20 to 19")
        self.nice = nice

    def _options(self) -> dict[str, Any]:
        limits = {"memory_limit": self.memory_limit, "cpu_time_limit": self.cpu_time_limit, "nice": self.nice}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"working_dir": self.working_dir, "python": self.python, **given}


class DockerRun(RunConfig):
    """Runs in a container of ``image`` (its storage's, or the agent's own choice, if None), which needs Python 3.11 or
    newer and what the flow imports, and nothing of ours.

    ``memory`` is bytes, or text such as ``"512M"``; ``cpus`` a number of cores, ``gpus`` how many, or ``"all"``;
    ``user`` a name or number, perhaps with a group; ``read_only`` leaves the container only ``/tmp`` to write to.
    ``pull_policy`` says when the image is pulled: ``"missing"``, ``"always"`` or ``"never"``; ``registry_secret`` names
    the secret with the registry's credentials (JSON with ``username`` and ``password``), which the flow does not get.

    ``volumes`` (``"/on/the/host:/in/it:ro"``), ``ports`` (``8080``, ``"8080:80"``), ``networks``, ``gpus`` and
    ``host_config`` (arguments of the Docker SDK's ``create_host_config``) reach into the agent's machine: an agent
    refuses them unless its setting ``docker.allow`` names them.
    """

    launcher = "docker"

    def __init__(
        self,
        *,
        image: str | None = None,
        env: Mapping[str, str | Secret] | None = None,
        labels: Iterable[str] | None = None,
        ports: Iterable[int | str] | None = None,
        volumes: Iterable[str] | None = None,
        networks: Iterable[str] | None = None,
        memory: int | str | None = None,
        cpus: float | None = None,
        gpus: int | str | None = None,
        user: str | int | None = None,
        read_only: bool = False,
        pull_policy: str = "missing",
        host_config: Mapping[str, Any] | None = None,
        registry_secret: str | None = None,
    ) -> None:
        super().__init__(env=env, labels=labels)
        self.image = options.image_name(image, what="DockerRun: image")
        self.ports = options.ports(ports)
        self.volumes = options.volumes(volumes)
        self.networks = options.networks(networks)
        self.memory = None if memory is None else options.in_bytes(memory, what="DockerRun: memory")
        self.cpus, self.gpus, self.user = options.cpus(cpus), options.gpus(gpus), options.user(user)
        if not isinstance(read_only, bool):
            raise TypeError(f"DockerRun: read_only is {read_only!r}, expected True or False")
        self.read_only = read_only
        self.pull_policy = options.pull_policy(pull_policy)
        self.host_config = host_options.host_config(host_config, [name for name, v in vars(self).items() if v])
        self.registry_secret = secret_name(registry_secret, what="DockerRun: registry_secret")
        if self.ports and "host" in self.networks:
            raise ValueError("DockerRun: ports are published by a network of its own, which network 'host' is not")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secrets in ``env``, and the one for the registry."""
        registry = () if self.registry_secret is None else (self.registry_secret,)
        return tuple(dict.fromkeys([*super().secrets, *registry]))

    def _options(self) -> dict[str, Any]:
        names = ("ports", "volumes", "networks", "memory", "cpus", "gpus", "user", "read_only", "host_config")
        given = {name: value for name in (*names, "registry_secret") if (value := getattr(self, name))}
        pulled = {} if self.pull_policy == "missing" else {"pull_policy": self.pull_policy}
        return {"image": self.image, **given, **pulled}


class KubernetesRun(RunConfig):
    """Runs in a Job of its own, in a container of ``image`` (its storage's, if that has one; that of the template, or
    the agent's own choice, if None), which needs Python 3.11 or newer and what the flow imports.

    ``job_template`` is a Job as a dict or as YAML, ``job_template_path`` a file with it, read where the flow is
    registered; it is patched by what is said here, not replaced, and its container called ``flow`` (else its first) is
    the one that runs the flow. ``cpu_request``, ``cpu_limit`` are ``"500m"`` or a number of cores, ``memory_request``,
    ``memory_limit`` such as ``"512Mi"``; ``image_pull_policy`` is ``"Always"``, ``"IfNotPresent"`` or ``"Never"``;
    ``node_selector``, ``tolerations`` and ``affinity`` are as a pod's spec has them. ``ttl``: seconds after its end
    for which the cluster keeps a Job that no agent removes.

    ``service_account_name``, ``namespace``, and what of a template could reach beyond the container (volumes but empty
    ones, the host's network, privileges, Secrets of the cluster, ...) an agent refuses unless its setting
    ``kubernetes.allow`` names them.
    """

    launcher = "kubernetes"

    def __init__(
        self,
        *,
        image: str | None = None,
        env: Mapping[str, str | Secret] | None = None,
        labels: Iterable[str] | None = None,
        job_template: Mapping[str, Any] | str | None = None,
        job_template_path: str | Path | None = None,
        cpu_request: float | str | None = None,
        cpu_limit: float | str | None = None,
        memory_request: int | str | None = None,
        memory_limit: int | str | None = None,
        service_account_name: str | None = None,
        image_pull_secrets: Iterable[str] | None = None,
        image_pull_policy: str | None = None,
        node_selector: Mapping[str, str] | None = None,
        tolerations: Iterable[Mapping[str, Any]] | None = None,
        affinity: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        ttl: int | None = None,
    ) -> None:
        super().__init__(env=env, labels=labels)
        checked = kubernetes_options
        self.image = options.image_name(image, what="KubernetesRun: image")
        self.job_template = checked.template(job_template, job_template_path)
        self.cpu_request = checked.quantity(cpu_request, "cpu_request")
        self.cpu_limit = checked.quantity(cpu_limit, "cpu_limit")
        self.memory_request = checked.quantity(memory_request, "memory_request")
        self.memory_limit = checked.quantity(memory_limit, "memory_limit")
        checked.within(self.cpu_request, self.cpu_limit, "cpu")
        checked.within(self.memory_request, self.memory_limit, "memory")
        self.service_account_name = checked.name(service_account_name, "service_account_name")
        self.image_pull_secrets = checked.names(image_pull_secrets, "image_pull_secrets")
        self.image_pull_policy = checked.pull_policy(image_pull_policy)
        self.node_selector = checked.selector(node_selector)
        self.tolerations, self.affinity = checked.tolerations(tolerations), checked.affinity(affinity)
        self.namespace, self.ttl = checked.name(namespace, "namespace"), checked.ttl(ttl)

    def _options(self) -> dict[str, Any]:
        shared = {*RunConfig().__dict__, "image"}
        given = {name: value for name, value in vars(self).items() if name not in shared}
        return {"image": self.image, **{name: value for name, value in given.items() if value not in (None, {}, [])}}


class ECSRun(RunConfig):
    """Runs in a task of ECS, in a container of ``image`` (its storage's, if that has one; that of the task definition,
    or the agent's own choice, if None), which has flow-agent in it.

    ``cpu`` is in units (1024 are one core), ``memory`` in MiB, or text such as ``"0.5 vCPU"`` and ``"2 GB"``.
    ``task_definition`` is one as a dict or as JSON, ``task_definition_path`` a file with it, read where the flow is
    registered; it is patched by what is said here, and its container called ``flow`` (else its first) runs the flow.
    ``task_definition_arn`` names one that is there already. ``launch_type`` is ``"FARGATE"`` or ``"EC2"``; ``network``
    has ``subnets``, ``security_groups`` and ``assign_public_ip``; ``run_task_kwargs`` are arguments of boto3's
    ``run_task``.

    ``task_role_arn``, ``execution_role_arn``, ``task_definition_arn``, ``cluster``, ``network``, ``run_task_kwargs``,
    and what of a task definition could reach beyond the container, an agent refuses unless its setting ``ecs.allow``
    names them. Secrets must be known to the agent by their ARNs (``ecs.secrets``).
    """

    launcher = "ecs"

    def __init__(
        self,
        *,
        image: str | None = None,
        env: Mapping[str, str | Secret] | None = None,
        labels: Iterable[str] | None = None,
        cpu: int | str | None = None,
        memory: int | str | None = None,
        task_definition: Mapping[str, Any] | str | None = None,
        task_definition_path: str | Path | None = None,
        task_definition_arn: str | None = None,
        task_role_arn: str | None = None,
        execution_role_arn: str | None = None,
        cluster: str | None = None,
        launch_type: str | None = None,
        network: Mapping[str, Any] | None = None,
        run_task_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(env=env, labels=labels)
        self.image = options.image_name(image, what="ECSRun: image")
        self.cpu, self.memory = ecs_options.amount(cpu, "cpu"), ecs_options.amount(memory, "memory")
        named = ecs_options.arn(task_definition_arn, "task_definition_arn", "ecs")
        self.task_definition = ecs_options.definition(task_definition, task_definition_path, named)
        self.task_definition_arn = named
        self.task_role_arn = ecs_options.arn(task_role_arn, "task_role_arn", "iam")
        self.execution_role_arn = ecs_options.arn(execution_role_arn, "execution_role_arn", "iam")
        self.cluster, self.launch_type = ecs_options.cluster(cluster), ecs_options.launch_type(launch_type)
        self.network = ecs_options.network(network)
        self.run_task_kwargs = ecs_options.plain(run_task_kwargs, "run_task_kwargs")
        if named and image:
            raise ValueError("ECSRun: image cannot be changed in the task definition that task_definition_arn names")

    def _options(self) -> dict[str, Any]:
        shared = {*RunConfig().__dict__, "image"}
        given = {name: value for name, value in vars(self).items() if name not in shared}
        return {"image": self.image, **{name: value for name, value in given.items() if value not in (None, {}, [])}}
