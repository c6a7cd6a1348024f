"""What may be asked of a task of ECS, checked where it is written down. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flow_agent.checks import credential_in

LAUNCH_TYPES = ("FARGATE", "EC2")
LARGEST_DEFINITION = 65_536
"""Characters of a task definition as JSON: ECS takes no more."""
NETWORK = {"subnets": list, "security_groups": list, "assign_public_ip": bool}

_ARN = re.compile(r"arn:aws[a-z-]*:(?P<service>[a-z-]+):(?P<region>[a-z0-9-]*):(?P<account>\d*):(?P<rest>\S+)")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_KIND = "ECSRun"


def amount(value: int | str | None, what: str, where: str = "") -> str | None:
    """``value``: CPU units (1024 are one) or MiB of memory, as ECS writes them, or text such as ``"1 vCPU"``; ``where``
    is what has it, for people.

    Raises TypeError, ValueError: it is none.
    """
    if value is None:
        return None
    said = f"{_KIND}: {where}{what} is {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{said}, expected a whole number or text")
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(vcpu|gb)?", str(value).strip().lower())
    unit = {"cpu": "vcpu", "memory": "gb"}[what]
    if found is None or found[2] not in {None, unit} or (found[2] is None and "." in found[1]):
        example = "256 or '0.25 vCPU'" if what == "cpu" else "512 or '1 GB'"
        raise ValueError(f"{said}, expected an amount such as {example}")
    units = int(float(found[1]) * 1024) if found[2] else int(found[1])
    if units < (128 if what == "cpu" else 32):
        raise ValueError(f"{said}, which is too little for a Python interpreter")
    return str(units)


def arn(value: str | None, what: str, service: str) -> str | None:
    """``value``, the ARN of something of ``service``, or None.

    Raises TypeError, ValueError: it is none.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{_KIND}: {what} is {value!r}, expected an ARN as text")
    match = _ARN.fullmatch(value)
    if match is None or match["service"] != service:
        raise ValueError(f"{_KIND}: {what} is {value!r}, expected an ARN such as 'arn:aws:{service}:...'")
    return value


def is_secret_arn(value: str) -> bool:
    """Whether ``value`` names a secret of Secrets Manager or a parameter of SSM."""
    match = _ARN.fullmatch(value)
    return match is not None and match["service"] in {"secretsmanager", "ssm"}


def cluster(value: str | None) -> str | None:
    """``value``, the name of a cluster, or None.

    Raises TypeError, ValueError: it is none.
    """
    if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ValueError(f"{_KIND}: cluster is {value!r}, expected the name of a cluster, not its ARN")
    return value


def launch_type(value: str | None) -> str | None:
    """``value``, one of LAUNCH_TYPES, or None.

    Raises ValueError: it is none.
    """
    if value is not None and value not in LAUNCH_TYPES:
        raise ValueError(f"{_KIND}: launch_type is {value!r}, expected one of {', '.join(map(repr, LAUNCH_TYPES))}")
    return value


def network(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """``value``: a table with ``subnets``, ``security_groups`` and ``assign_public_ip``, as far as they are given.

    Raises TypeError, ValueError: it is none.
    """
    found = plain(value, "network")
    for name, given in found.items():
        if name not in NETWORK:
            raise ValueError(f"{_KIND}: network has {name!r}, expected {', '.join(NETWORK)}")
        if not isinstance(given, NETWORK[name]) or (
            isinstance(given, list) and not all(isinstance(each, str) and each for each in given)
        ):
            kind = "a list of texts" if NETWORK[name] is list else "True or False"
            raise TypeError(f"{_KIND}: network has {name} {given!r}, expected {kind}")
    return found


def plain(value: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """``value``, a table, as JSON has it; empty for None.

    Raises TypeError, ValueError: it is none, or holds a credential.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{_KIND}: {what} is {value!r}, expected a dict as the API of ECS has it")
    try:
        text = json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_KIND}: {what} cannot be kept as JSON: {error}") from None
    if credential_in(text):
        raise ValueError(
            f"{_KIND}: {what} holds what looks like a credential, which would be kept in the queue as it is;"
            " name a secret of Secrets Manager or SSM in its place"
        )
    found: dict[str, Any] = json.loads(text)
    return found


def definition(given: Mapping[str, Any] | str | None, path: str | Path | None, named: str | None) -> dict[str, Any]:
    """The task definition that ours are made from: a table, its JSON, or the file ``path`` with that, read now.

    ``named`` is the ARN of one that is there already; only one of the three may be given.

    Raises TypeError, ValueError: it is none, holds a credential, or is too large. OSError: the file cannot be read.
    """
    if sum(each is not None for each in (given, path, named)) > 1:
        raise ValueError(f"{_KIND}: expected only one of task_definition, task_definition_path and task_definition_arn")
    what = "task_definition" if path is None else f"task_definition_path {str(path)!r}"
    if path is not None:
        given = Path(path).expanduser().read_text(encoding="utf-8")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ValueError(f"{_KIND}: {what} is no JSON: {error}") from None
    found = plain(given, what)  # type: ignore[arg-type]  # JSON may be anything, and is checked there
    containers = found.get("containerDefinitions", [])
    if not isinstance(containers, list) or not all(isinstance(each, dict) for each in containers):
        raise TypeError(f"{_KIND}: {what} has containerDefinitions that is no list of tables")
    if len(json.dumps(found)) > LARGEST_DEFINITION:
        raise ValueError(f"{_KIND}: {what} takes more than the {LARGEST_DEFINITION} characters that ECS allows")
    return {**found, **_amounts(found, containers, what)}


def _amounts(found: Mapping[str, Any], containers: Sequence[Mapping[str, Any]], what: str) -> dict[str, str]:
    """Those of the task; a container's are whole numbers to ECS, and only looked at.

    Raises TypeError, ValueError: one is none.
    """
    for container in containers:
        for name in ("cpu", "memory", "memoryReservation"):
            given = container.get(name)
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 0):
                unit = "units of CPU" if name == "cpu" else "MiB"
                raise ValueError(
                    f"{_KIND}: {what} has a container whose {name} is {given!r}, expected a whole number of {unit}"
                )
    amounts = {name: amount(found.get(name), name, f"{what}: ") for name in ("cpu", "memory")}
    return {name: value for name, value in amounts.items() if value is not None}
