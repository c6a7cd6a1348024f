"""What all results share: the template of their locations. Standard library only at import time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from string import Formatter
from typing import Any

from flow_agent.checks import slug

LOCATION = "{flow}/{run_id}/{attempt}"
_FIELDS = ("flow", "run_id", "attempt")
_ACCESS = re.compile(
    r"://[^/?#\s]*@|\b(sig|signature|AccountKey|SharedAccessSignature|password|pwd|token)=|^(Bearer|Basic)\s",
    re.IGNORECASE,
)
"""What in a text lets in whoever has it: a login in an address, a part of a connection string, a header."""


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

    Raises TypeError: they are no table, or no JSON. ValueError: a text in it holds a password or a signature.
    """
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise TypeError(f"{what} is {options!r}, expected a table such as {{'name': 'value'}}")
    try:
        found: dict[str, Any] = json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} is kept as JSON, which it cannot be: {error}") from None
    if (place := _access_in(found)) is not None:
        raise ValueError(
            f"{what} holds a password, a key or a signature in {place}, which would stand in the registration; name a"
            " secret that holds the credentials, and give a proxy's to the agent's environment (HTTPS_PROXY)"
        )
    return found


def checked_texts(table: object, what: str) -> None:
    """Raise TypeError unless ``table`` is absent, or a table of texts: it travels in headers."""
    if table is None:
        return
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise TypeError(f"{what} is {table!r}, expected a table of texts such as {{'team': 'data'}}")


def _access_in(value: object, place: str = "") -> str | None:
    """The place of the first text in a JSON value that gives access to something."""
    match value:
        case str() if _ACCESS.search(value):
            return place
        case dict():
            pairs: Iterable[tuple[object, object]] = value.items()
        case list():
            pairs = enumerate(value)
        case _:
            return None
    found = (_access_in(each, f"{place}.{name}".lstrip(".")) for name, each in pairs)
    return next((each for each in found if each is not None), None)
