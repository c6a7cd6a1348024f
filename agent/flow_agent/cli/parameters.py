"""``-p NAME=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from flow_agent.errors import InvalidInput
from flow_agent.model import Json


def parse(texts: tuple[str, ...]) -> dict[str, Json]:
    """``NAME=VALUE`` texts as parameters: JSON where the value parses, else text.

    Raises InvalidInput: no ``=``, no name, or a name given twice.
    """
    parameters: dict[str, Json] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidInput(f"parameter {text!r} has no name or no '='", hint="write -p NAME=VALUE")
        if name in parameters:
            raise InvalidInput(f"parameter {name!r} is given twice", hint="a list is written as JSON: -p 'days=[1, 2]'")
        try:
            parameters[name] = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            parameters[name] = value
    return parameters


def _no_constant(name: str) -> Json:
    """NaN and Infinity are Python's addition to JSON; here they are text."""
    raise ValueError(name)


def parameters_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-p``; the function gets ``parameters``."""
    option = click.option(
        "-p",
        "--parameter",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        callback=lambda _ctx, _option, texts: parse(texts),
        help="Parameter of the flow; JSON if it parses, else text.",
    )
    return option(function)
