"""Between values and JSON; both ends of the HTTP queue use it."""

from __future__ import annotations

import functools
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def encode(kind: Any, value: Any) -> bytes:
    """``value`` as JSON. ASCII, since that also carries what no UTF-8 can: half of a character pair, in a log line."""
    plain = _adapter(kind).dump_python(value, mode="json")
    return json.dumps(plain, separators=(",", ":")).encode("ascii")


def decode(kind: Any, body: bytes) -> Any:
    """The value that ``encode`` wrote.

    Raises ValueError: it is no JSON (numbers that are none count as that), or not of that kind; says where.
    """
    return checked(kind, parse(body))


def parse(body: bytes) -> Any:
    """The JSON in ``body``, of finite numbers only. Raises ValueError."""
    try:
        return json.loads(body, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checked(kind: Any, plain: Any) -> Any:
    """``plain`` as a value of that kind. Raises ValueError: it is none; says where."""
    try:
        return _adapter(kind).validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number
