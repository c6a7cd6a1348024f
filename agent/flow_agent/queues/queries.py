"""SQL lives in files: ``sql/<database>/queries.sql`` holds every statement by name."""

from __future__ import annotations

import re
from importlib.resources import files

_NAMED = re.compile(r"^-- name: (\w+)$\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)


def queries(database: str) -> dict[str, str]:
    """The statements of ``database`` by name, without their comments."""
    text = files("flow_agent.queues").joinpath("sql", database, "queries.sql").read_text("utf-8")
    statements = {name: re.sub(r"^--.*\n", "", body, flags=re.MULTILINE) for name, body in _NAMED.findall(text)}
    return {name: body.strip().rstrip(";") for name, body in statements.items()}
