"""What a flow of Prefect 1 says of itself, in our words: its storage, run config, labels and the names of its secrets.

Nothing of that package is imported here: its objects are at hand, and their classes are known by their names. What has
no counterpart is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_agent.errors import RegistrationError
from flow_agent.run_configs import LocalRun, RunConfig, UniversalRun
from flow_agent.storages.base import Storage

Warn = Callable[[str], None]


@dataclass
class Translated:
    """The counterparts; ``storage`` is None where the flow names none, ``labels`` are those given to its storage."""

    storage: Storage | None = None
    run_config: RunConfig | None = None
    labels: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


_SAME: Mapping[str, tuple[str, ...]] = {
    "S3": ("bucket", "key", "stored_as_script", "local_script_path", "client_options", "upload_options"),
    "GCS": ("bucket", "key", "project", "stored_as_script", "local_script_path"),
    "Azure": ("container", "connection_string_secret", "blob_name", "overwrite", "stored_as_script"),
    "GitHub": ("repo", "path", "ref", "access_token_secret", "base_url"),
    "GitLab": ("repo", "host", "path", "ref", "access_token_secret"),
    "Bitbucket": (
        *("project", "repo", "workspace", "host", "path", "ref", "access_token_secret"),
        *("cloud_username_secret", "cloud_app_password_secret"),
    ),
    "CodeCommit": ("repo", "path", "commit", "client_options"),
    "Git": (
        *("flow_path", "repo", "repo_host", "flow_name", "git_token_secret_name", "git_token_username"),
        *("git_clone_url_secret_name", "branch_name", "tag", "commit", "clone_depth", "use_ssh", "format_access_token"),
    ),
    "Module": ("module",),
    "Webhook": (
        *("build_request_kwargs", "build_request_http_method", "get_flow_request_kwargs"),
        *("get_flow_request_http_method", "stored_as_script", "flow_script_path"),
    ),
}
"""The storages whose arguments are called as ours are."""
_WITH_IMAGE = ("UniversalRun", "DockerRun", "KubernetesRun", "ECSRun", "VertexRun")
_COMMON = {"env", "labels", "image"}


def translated(flow: Any, warn: Warn) -> Translated:
    """What ``flow`` of Prefect 1 says; ``warn`` is told of each thing that has no counterpart.

    Raises RegistrationError: one of its arguments cannot be ours.
    """
    what = f"flow {flow.name!r} of Prefect 1"
    storage, theirs = None, getattr(flow, "storage", None)
    labels = tuple(sorted(getattr(theirs, "_labels", None) or ()))
    secrets = [str(name) for name in getattr(theirs, "secrets", None) or ()]
    if theirs is not None:
        storage = _storage(theirs, labels, what, warn)
    if getattr(flow, "schedule", None) is not None:
        warn(f"{what}: its schedule has no counterpart; submit its runs with --at, or from cron")
    if getattr(flow, "environment", None) is not None:
        warn(f"{what}: its environment has no counterpart; give it a run config")
    # What its tasks ask for by name.
    secrets += sorted(
        str(task.secret_name)
        for task in flow.tasks
        if getattr(task, "secret_name", None) and _kind(task, "PrefectSecret") and not _kind(task, "EnvVarSecret")
    )
    run_config = _run_config(getattr(flow, "run_config", None), what, warn)
    return Translated(storage, run_config, labels, tuple(dict.fromkeys(secrets)))


def _kind(value: object, name: str) -> bool:
    return any(each.__name__ == name and each.__module__.startswith("prefect.") for each in type(value).__mro__)


def _storage(theirs: Any, labels: tuple[str, ...], what: str, warn: Warn) -> Storage | None:
    from flow_agent import storages  # noqa: PLC0415 - each loads its own module when it is asked for

    kind = type(theirs).__name__
    common = {
        "labels": labels,
        "add_default_labels": bool(getattr(theirs, "add_default_labels", True)),
        "secrets": [str(name) for name in theirs.secrets or ()],
    }
    given: dict[str, Any]
    if kind == "Local":
        given = _local(theirs)
    elif kind in _SAME:
        given = {name: getattr(theirs, name, None) for name in _SAME[kind]}
    else:
        warn(f"{what}: its storage {kind} is not taken over; it is stored by Local, for agents of this machine")
        return None
    given = {name: value for name, value in given.items() if value is not None}
    if kind == "Bitbucket" and not given.get("workspace"):
        given.setdefault("host", "https://bitbucket.org")
    elif kind == "Bitbucket":
        given.pop("host", None)
    if kind == "Azure" and not given.get("connection_string_secret"):
        given.pop("connection_string_secret", None)
    try:
        made: Storage = getattr(storages, kind)(**given, **common)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{what}: its storage cannot be taken over: {error}") from error
    return made


def _local(theirs: Any) -> dict[str, Any]:
    if theirs.stored_as_script:
        return {"path": theirs.path, "stored_as_script": True}
    own = Path("~/.prefect/flows").expanduser()
    directory = getattr(theirs, "directory", None)
    # Its own place is no place for what it cannot read.
    return {"directory": directory} if directory is not None and Path(directory) != own else {}


def _run_config(theirs: Any, what: str, warn: Warn) -> RunConfig | None:
    if theirs is None:
        return None
    kind = type(theirs).__name__
    given: dict[str, Any] = {"env": dict(theirs.env or {}), "labels": sorted(theirs.labels or ())}
    names = {name for name, value in vars(theirs).items() if value and not name.startswith("_")}
    try:
        if kind == "LocalRun":
            return LocalRun(**given, working_dir=theirs.working_dir)
        if left := sorted(names - _COMMON):
            warn(f"{what}: {', '.join(left)} of its {kind} {'has' if len(left) == 1 else 'have'} no counterpart here")
        if kind not in _WITH_IMAGE:
            warn(f"{what}: its run config {kind} is not known; its env and labels are taken over")
        return UniversalRun(**given, image=getattr(theirs, "image", None))
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{what}: its run config {kind} cannot be taken over: {error}") from error
