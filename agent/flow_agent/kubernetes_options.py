"""What may be asked of a Job of Kubernetes, checked where it is written down. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flow_agent.checks import credential_in, texts

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
LARGEST_TEMPLATE = 65_536
"""Characters of a template as JSON: it is kept with the registration."""

SHORTEST_TTL = 600
"""Seconds: what runs without an agent for a while must be found by the next one, with its output."""
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>[munkMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,2})?")
"""https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/"""
_UNITS = {unit: 1000.0**power for power, unit in enumerate(["n", "u", "m", "", *"kMGTPE"], start=-3)}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_KIND = "KubernetesRun"


def quantity(value: float | str | None, what: str) -> str | None:
    """``value`` as Kubernetes writes a quantity: ``"500m"`` or 0.5 of a core, ``"512Mi"`` or bytes of memory.

    Raises TypeError, ValueError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{_KIND}: {what} is {value!r}, expected a number or text")
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    cpu = what.startswith("cpu")
    if not _QUANTITY.fullmatch(text) or _amount(text) * (1000 if cpu else 1) < 0.999:
        example = "'500m' or 0.5" if cpu else "'512Mi' or '2Gi'"
        raise ValueError(f"{_KIND}: {what} is {value!r}, expected a quantity such as {example}")
    return text


def _amount(text: str) -> float:
    found = _QUANTITY.fullmatch(text)
    assert found is not None
    number, unit = float(found["number"]), found["unit"] or ""
    return number * (_UNITS[unit] if unit in _UNITS else 10.0 ** int(unit[1:]))


def within(request: str | None, limit: str | None, what: str) -> None:
    """Raises ValueError: of ``what``, more is asked for than may be used, which the API refuses."""
    if request is not None and limit is not None and _amount(request) > _amount(limit):
        raise ValueError(f"{_KIND}: {what}_request is {request!r}, more than {what}_limit, which is {limit!r}")


def name(value: str | None, what: str) -> str | None:
    """``value``, the name of an object, or None.

    Raises TypeError, ValueError: it is none.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{_KIND}: {what} is {value!r}, expected a name as text")
    if not (_LABEL if what == "namespace" else _NAME).fullmatch(value):
        raise ValueError(f"{_KIND}: {what} is {value!r}, expected small letters, digits and hyphens, such as 'flows'")
    return value


def names(values: Iterable[str] | None, what: str) -> list[str]:
    """``values``, each the name of an object.

    Raises TypeError, ValueError: one is none.
    """
    found = texts(values, what=f"{_KIND}: a name of {what}")
    for value in found:
        name(value, f"a name of {what}")
    return list(found)


def pull_policy(value: str | None) -> str | None:
    """``value``, one of PULL_POLICIES, or None.

    Raises ValueError: it is none.
    """
    if value is not None and value not in PULL_POLICIES:
        raise ValueError(
            f"{_KIND}: image_pull_policy is {value!r}, expected one of {', '.join(map(repr, PULL_POLICIES))}"
        )
    return value


def selector(value: Mapping[str, str] | None) -> dict[str, str]:
    """``value``: labels of nodes.

    Raises TypeError: it is no table of texts.
    """
    found = dict(value) if isinstance(value, Mapping) else {}
    if value is not None and (not isinstance(value, Mapping) or not all(map(_text, [*found, *found.values()]))):
        raise TypeError(f"{_KIND}: node_selector is {value!r}, expected a dict of texts such as {{'disk': 'ssd'}}")
    return found


def _text(value: object) -> bool:
    return isinstance(value, str)


def ttl(value: float | None) -> int | None:
    """``value``: whole seconds, SHORTEST_TTL or more.

    Raises ValueError: it is none.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < SHORTEST_TTL):
        raise ValueError(
            f"{_KIND}: ttl is {value!r}, expected whole seconds, {SHORTEST_TTL} or more: a Job that is gone sooner may"
            " take its output along; an agent removes it as soon as that is safe"
        )
    return value


def tolerations(values: Iterable[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """``values``, each a table as a pod's spec has it.

    Raises TypeError, ValueError: one is none.
    """
    if isinstance(values, Mapping | str):
        raise TypeError(f"{_KIND}: tolerations is {values!r}, expected a list of dicts")
    return [_plain(value, "a toleration") for value in values or ()]


def affinity(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """``value``: a table as a pod's spec has it.

    Raises TypeError, ValueError: it is none.
    """
    return {} if value is None else _plain(value, "affinity")


def _plain(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{_KIND}: {what} is {value!r}, expected a dict as the API of Kubernetes has it")
    try:
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_KIND}: {what} cannot be kept as JSON: {error}") from None


# The template


def template(given: Mapping[str, Any] | str | None, path: str | Path | None) -> dict[str, Any]:
    """The Job that ours are made from: a table, its YAML, or the file ``path`` with that, read now.

    Raises TypeError, ValueError: it is no Job, holds a credential, or is too large. OSError: the file cannot be read.
    """
    if given is not None and path is not None:
        raise ValueError(f"{_KIND}: job_template and job_template_path are both given, expected one of them")
    what = "job_template" if path is None else f"job_template_path {str(path)!r}"
    if path is not None:
        given = Path(path).expanduser().read_text(encoding="utf-8")
    if given is None:
        return {}
    if isinstance(given, str):
        given = _read(given, what)
    if not isinstance(given, Mapping):
        raise TypeError(f"{_KIND}: {what} is no table, expected a Job as a dict, as YAML, or in a file")
    found = _plain(given, what)
    if found.get("kind", "Job") != "Job" or found.get("apiVersion", "batch/v1") != "batch/v1":
        raise ValueError(f"{_KIND}: {what} is a {found.get('apiVersion')} {found.get('kind')}, expected a batch/v1 Job")
    _check_shape(found, what)
    ttl((found.get("spec") or {}).get("ttlSecondsAfterFinished"))
    text = json.dumps(found)
    if len(text) > LARGEST_TEMPLATE:
        raise ValueError(f"{_KIND}: {what} takes {len(text)} characters, expected at most {LARGEST_TEMPLATE}")
    if credential_in(text):
        raise ValueError(
            f"{_KIND}: {what} holds what looks like a credential, which would be kept in the queue as it is;"
            " refer to a Secret of the cluster in its place"
        )
    return found


def _check_shape(found: Mapping[str, Any], what: str) -> None:
    place, where = found, ""
    for part in ("spec", "template", "spec"):
        inner = place.get(part, {})
        where = f"{where}.{part}".lstrip(".")
        if not isinstance(inner, Mapping):
            raise TypeError(f"{_KIND}: {what} has {where} {inner!r}, expected a table")
        place = inner
    containers = place.get("containers", [])
    if not isinstance(containers, list) or not all(isinstance(each, Mapping) for each in containers):
        raise TypeError(f"{_KIND}: {what} has {where}.containers that is no list of tables")


def _read(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml  # noqa: PLC0415 - only for who writes YAML
    except ImportError:
        raise ValueError(
            f"{_KIND}: {what} is YAML, for which a package is missing; install flow-agent-daemon[kubernetes]"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{_KIND}: {what} is no YAML: {str(error).splitlines()[0]}") from None
