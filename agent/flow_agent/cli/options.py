"""Options that come from the settings, and the way from a verb to an open queue."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Literal, ParamSpec, get_args, get_origin

import anyio
import click

from flow_agent import operations
from flow_agent.model import Json
from flow_agent.ports import Queue
from flow_agent.settings import Leaf, Settings, leaves, load

P = ParamSpec("P")

_SEPARATOR = "__"

_config = click.option(
    "--config", metavar="FILE", help="Settings file.  [env FLOW_AGENT_CONFIG; default flow-agent.toml in the home]"
)


def options(*groups: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an option for each setting of ``groups`` (``""`` is the top level; none: all of an agent), and ``--config``.

    The function gets a ``settings`` in their place. Options that are not given leave the word to the variables and
    the file.
    """
    chosen = [leaf for leaf in leaves(*groups) if (groups or leaf.path[0] != "server") and not leaf.option.secret]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(config: str | None, **arguments: Any) -> Any:
            given: dict[str, Any] = {}
            for leaf in chosen:
                value = arguments.pop(_SEPARATOR.join(leaf.path))
                if value is not None and value != ():
                    _put(given, leaf.path, value)
            settings = load(given, config=config)
            if "home" in given:
                # Flow files and the programs that this one starts look for the home in this variable only.
                os.environ["FLOW_AGENT_HOME"] = str(settings.home)
            return function(settings=settings, **arguments)

        decorated: Callable[..., Any] = _config(wrapper)
        for leaf in reversed(chosen):
            decorated = _option(leaf)(decorated)
        return decorated

    return decorate


def _put(table: dict[str, Any], path: tuple[str, ...], value: Json) -> None:
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value


def _option(leaf: Leaf) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    option, kind = leaf.option, leaf.field.annotation
    default = f"; default {leaf.default}" if leaf.default else ""
    extra: dict[str, Any] = {"metavar": option.metavar or None}
    if kind is bool:
        extra = {"default": None}
    elif get_origin(kind) is Literal:
        extra = {"type": click.Choice(get_args(kind))}
    elif get_origin(kind) in (tuple, dict):
        extra |= {"multiple": True}
    elif kind in (int, float):
        extra |= {"type": kind}
    return click.option(
        *option.names,
        _SEPARATOR.join(leaf.path),
        help=f"{leaf.field.description}  [env {leaf.variable}{default}]",
        **extra,
    )


def settings_verb(function: Callable[Concatenate[Queue, Settings, P], Awaitable[int | None]]) -> Callable[..., Any]:
    """Make an async function with an open queue and settings into a verb's callback; it returns the exit code."""

    @functools.wraps(function)
    def callback(settings: Settings, *arguments: P.args, **keywords: P.kwargs) -> int | None:
        async def body() -> int | None:
            async with operations.open_queue(settings.queue, **settings.queue_arguments()) as queue:
                return await function(queue, settings, *arguments, **keywords)

        return anyio.run(body)

    return options("")(callback)


def queue_verb(function: Callable[Concatenate[Queue, P], Awaitable[int | None]]) -> Callable[..., Any]:
    """The same of an async function that needs the queue only."""

    @functools.wraps(function)
    async def without_settings(queue: Queue, _: Settings, /, *arguments: P.args, **keywords: P.kwargs) -> int | None:
        return await function(queue, *arguments, **keywords)

    return settings_verb(without_settings)
