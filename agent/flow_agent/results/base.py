"""What all results share: the template of their locations. Standard library only at import time."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from string import Formatter
from typing import Any

from flow_agent.checks import slug

LOCATION = "{flow}/{run_id}/{attempt}"
_FIELDS = ("flow", "run_id", "attempt")


def checked_location(template: str) -> str:
    """``template``, if it can be rendered.

    Raises TypeError, ValueError: it is no text, has a field other than flow, run_id and attempt, or leads out.
    """
    if not isinstance(template, str):
        raise TypeError(f"the result's location is {template!r}, expected text such as {LOCATION!r}")
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ValueError(f"the result's location {template!r} is no template: {error}") from error
    if unknown := sorted(fields.difference(_FIELDS)):
        raise ValueError(
            f"the result's location {template!r} has the field {unknown[0]!r}, expected only {', '.join(_FIELDS)}"
        )
    inside(template)
    return template


def inside(location: str) -> PurePosixPath:
    """``location`` as a path below some folder.

    Raises ValueError: it leads out of it.
    """
    path = PurePosixPath(location)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in location:
        raise ValueError(
            f"the result's location {location!r} leads out of its folder, expected a relative path below it"
        )
    return path


def rendered(template: str, flow: str, run_id: str, attempt: int) -> str:
    """The location of one attempt's return value."""
    return template.format(flow=slug(flow), run_id=run_id, attempt=attempt)


def checked_bucket(kind: str, bucket: object) -> str:
    """The name of a bucket or container, without a scheme in front.

    Raises TypeError, ValueError.
    """
    if not isinstance(bucket, str):
        raise TypeError(f"{kind}: the bucket is {bucket!r}, expected its name")
    if not bucket or "/" in bucket:
        raise ValueError(f"{kind}: the bucket is {bucket!r}, expected its bare name, such as 'flows'")
    return bucket


def plain(options: object, what: str) -> dict[str, Any]:
    """``options`` for an SDK as they can stand in a registration.

    Raises TypeError: they are no table, or no JSON.
    """
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise TypeError(f"{what} is {options!r}, expected a table such as {{'name': 'value'}}")
    try:
        return dict(json.loads(json.dumps(options, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} is kept as JSON, which it cannot be: {error}") from None
