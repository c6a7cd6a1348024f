"""Texts with the names of secrets in them: ``${NAME}`` or ``$NAME``; ``$$`` is ``$``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from string import Template
from typing import Any


def checked(value: Any, what: str) -> Any:
    """``value`` with tuples as lists, JSON-ready; its texts, not the keys of its tables, are templates.

    Raises TypeError, ValueError: something is no JSON, or a ``$`` is no name; the way out is in the message.
    """
    match value:
        case str():
            if not Template(value).is_valid():
                raise ValueError(
                    f"{what} holds a '$' that begins no name, expected ${{NAME}} of letters, digits and '_';"
                    " a plain '$' is written '$$'"
                )
            return value
        case None | bool() | int() | float():
            return value
        case Mapping():
            if wrong := next((key for key in value if not isinstance(key, str)), None):
                raise TypeError(f"{what} has the key {wrong!r}, expected text")
            return {key: checked(each, f"{what}[{key!r}]") for key, each in value.items()}
        case list() | tuple():
            return [checked(each, f"{what}[{number}]") for number, each in enumerate(value)]
        case _:
            raise TypeError(
                f"{what} is a {type(value).__name__}, expected text, numbers, lists and tables: it stands in the"
                " registration as JSON"
            )


def names(value: Any) -> Iterator[str]:
    """The names in all templates of ``value``; some may come twice."""
    if isinstance(value, str):
        yield from Template(value).get_identifiers()
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from names(each)
    elif isinstance(value, list):
        for each in value:
            yield from names(each)


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """``value`` with ``values`` in the place of their names; what a value holds is not looked at again."""
    if isinstance(value, str):
        return Template(value).substitute(values)
    if isinstance(value, Mapping):
        return {key: filled(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, values) for each in value]
    return value
