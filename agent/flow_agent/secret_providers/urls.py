"""How a provider is written in the settings: ``NAME:ADDRESS?OPTION=VALUE&OPTION=VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

from flow_agent.errors import InvalidInput


def parts(scheme: str, rest: str, options: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What stands before the ``?``, and the options behind it.

    Raises InvalidInput: an option is unknown, or given twice.
    """
    address, _, query = rest.partition("?")
    try:
        pairs = parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True)
    except ValueError:
        raise InvalidInput(
            f"secrets provider {scheme}: what stands behind the '?' is no list of options, expected"
            f" {scheme}:...?option=value&option=value"
        ) from None
    found = dict(pairs)
    if unknown := sorted(set(found).difference(options)):
        raise InvalidInput(f"secrets provider {scheme}: has no option {unknown[0]!r}; it has {', '.join(options)}")
    if len(found) != len(pairs):
        raise InvalidInput(f"secrets provider {scheme}: an option is given twice")
    return address, found
