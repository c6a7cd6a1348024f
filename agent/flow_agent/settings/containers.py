"""The settings of the launchers that start containers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flow_agent.settings.groups import Group
from flow_agent.settings.kinds import Option, Seconds, Words


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
        ge=0,
        description="Seconds after its end for which the cluster keeps a Job that no agent removes.",
    )
