"""The settings of the launchers that start containers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flow_agent.settings.groups import Group
from flow_agent.settings.kinds import Option, Pairs, Seconds, Words


class DockerSettings(Group):
    """How attempts are started in containers of a Docker engine, and what they may ask of it."""

    url: Annotated[str, Option(metavar="URL")] = Field(
        default="", description="Where the engine listens; default: `DOCKER_HOST`, else the usual socket."
    )
    certificates: Annotated[Path | None, Option(metavar="FOLDER")] = Field(
        default=None, description="Folder with `ca.pem`, `cert.pem` and `key.pem` for an engine behind TLS."
    )
    image: Annotated[str, Option(metavar="IMAGE")] = Field(
        default="",
        description="Image of runs that name none; default: `python:X.Y-slim` of the Python that registered the flow.",
    )
    network: Annotated[str, Option(metavar="NAME")] = Field(
        default="", description="Network of runs that name none; default: the engine's own."
    )
    allow: Annotated[Words, Option(("--docker-allow",), "WHAT")] = Field(
        default=(),
        description="What runs may have of this machine: volumes, ports, networks, host_network, gpus, host_config,"
        " each also with one value, as `volumes:/data`; default: nothing.",
    )
    keep: Annotated[Literal["never", "failed", "always"], Option(("--keep-containers",))] = Field(
        default="never", description="Containers that stay on the engine when all is told of them."
    )
    pull_within: Seconds = Field(default=1800.0, description="Seconds that the pull of an image may take.")


class KubernetesSettings(Group):
    """How attempts are started in Jobs of a Kubernetes cluster, and what they may ask of it."""

    kubeconfig: Annotated[Path | None, Option(metavar="FILE")] = Field(
        default=None,
        description="File that says where the cluster is; default: `KUBECONFIG`, else the pod that the agent is.",
    )
    context: Annotated[str, Option(metavar="NAME")] = Field(
        default="", description="Context of that file; default: its current one."
    )
    namespace: Annotated[str, Option(metavar="NAME")] = Field(
        default="", description="Namespace of Jobs; default: that of the context, or of the agent's pod."
    )
    cluster: Annotated[str, Option(metavar="NAME")] = Field(
        default="",
        description="What the cluster is called, the same for all its agents, which take Jobs over from each other;"
        " default: a digest of its certificate authority.",
    )
    image: Annotated[str, Option(metavar="IMAGE")] = Field(
        default="", description="Image of runs that name none; default: `kubernetes.agent_image`."
    )
    agent_image: Annotated[str, Option(metavar="IMAGE")] = Field(
        default="",
        description="Image with flow-agent, out of which an init container puts it into runs of other images; without"
        " one it must be in all of them.",
    )
    service_account: Annotated[str, Option(metavar="NAME")] = Field(
        default="default", min_length=1, description="Service account of runs, whose identity they fetch with."
    )
    user: Annotated[int, Option(metavar="UID")] = Field(
        default=1000, ge=0, description="User and group as which runs go; 0 leaves that to their images."
    )
    allow: Annotated[Words, Option(("--kubernetes-allow",), "WHAT")] = Field(
        default=(),
        description="What runs may have of the cluster: service_account, namespace, job_template, each also with one"
        " value, as `namespace:reports` or `job_template:volumes.hostPath`; default: nothing.",
    )
    keep: Annotated[Literal["never", "failed", "always"], Option(("--keep-jobs",))] = Field(
        default="never", description="Jobs that stay in the cluster when all is told of them."
    )
    pending: Seconds = Field(
        default=900.0,
        description="Seconds that a pod may wait for a node, its image and its start before its run fails.",
    )
    ttl: Annotated[int, Option(metavar="SECONDS")] = Field(
        default=604_800,
        ge=600,
        description="Seconds after its end for which the cluster keeps a Job that no agent removes.",
    )


class ECSSettings(Group):
    """How attempts are started in tasks of ECS, and what they may ask of it."""

    region: Annotated[str, Option(metavar="REGION")] = Field(
        default="", description="Region of the tasks; default: what boto3 finds (`AWS_DEFAULT_REGION`, the profile)."
    )
    endpoint: Annotated[str, Option(metavar="URL")] = Field(
        default="", description="Another address of the services, as of an endpoint in a VPC; default: AWS's own."
    )
    cluster: Annotated[str, Option(metavar="NAME")] = Field(
        default="default", min_length=1, description="Cluster of the tasks of runs that name none."
    )
    launch_type: Literal["FARGATE", "EC2"] = Field(
        default="FARGATE", description="What runs the tasks of runs that do not say."
    )
    image: Annotated[str, Option(metavar="IMAGE")] = Field(
        default="", description="Image of runs that name none; default: `ecs.agent_image`."
    )
    agent_image: Annotated[str, Option(metavar="IMAGE")] = Field(
        default="",
        description="Image with flow-agent, out of which a container puts it into runs of other images; without one it"
        " must be in all of them.",
    )
    cpu: Annotated[int, Option(metavar="UNITS")] = Field(
        default=256, ge=128, description="CPU units of runs that do not say; 1024 are one core."
    )
    memory: Annotated[int, Option(metavar="MIB")] = Field(
        default=512, ge=32, description="MiB of memory of runs that do not say."
    )
    subnets: Annotated[Words, Option(metavar="ID")] = Field(
        default=(), description="Subnets of the tasks; Fargate needs one."
    )
    security_groups: Annotated[Words, Option(metavar="ID")] = Field(
        default=(), description="Security groups of the tasks; default: that of the VPC."
    )
    public_ip: bool = Field(default=False, description="Whether tasks get a public address.")
    task_role: Annotated[str, Option(metavar="ARN")] = Field(
        default="", description="Role of the flows in tasks, whose identity they fetch with; default: none."
    )
    execution_role: Annotated[str, Option(metavar="ARN")] = Field(
        default="", description="Role with which ECS pulls images, reads secrets and writes logs; default: none."
    )
    log_group: Annotated[str, Option(metavar="NAME")] = Field(
        default="", description="Log group of CloudWatch that tasks write to and agents read; default: nothing is kept."
    )
    secrets: Annotated[Pairs, Option(metavar="NAME=ARN")] = Field(
        default={}, description="ARNs, of Secrets Manager or of SSM, of the secrets that runs may declare."
    )
    allow: Annotated[Words, Option(("--ecs-allow",), "WHAT")] = Field(
        default=(),
        description="What runs may have: task_role, execution_role, task_definition, task_definition_arn, cluster,"
        " network, run_task_kwargs, each also with one value, as `cluster:reports`; default: nothing.",
    )
    pending: Seconds = Field(
        default=900.0, description="Seconds that a task may wait for capacity, its image and its start."
    )
