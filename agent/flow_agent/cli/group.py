"""A group of verbs whose modules are imported when they are used, so that ``--help`` stays quick."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class NoSuchVerb(click.UsageError):
    """What was typed is no verb; ``hint`` is the way out."""

    def __init__(self, message: str, ctx: click.Context, hint: str) -> None:
        super().__init__(message, ctx)
        self.hint = hint


class LazyGroup(click.Group):
    """``verbs`` maps each name to its module in this package and to its line in the help."""

    def __init__(self, *arguments: Any, verbs: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """The verbs in the order of the help."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the signature is click's
        """The verb; its module is imported now."""
        if cmd_name not in self.verbs:
            return None
        module = importlib.import_module(f"flow_agent.cli.{self.verbs[cmd_name][0]}")
        verb: click.Command = getattr(module, cmd_name)
        return verb

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown verb is answered with the nearest one."""
        name = args[0]
        if name not in self.verbs and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.verbs, n=1)
            hint = f"did you mean {near[0]}?" if near else "`flow-agent --help` lists the verbs"
            raise NoSuchVerb(f"no such verb {name!r}", ctx, hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the signature is click's
        """The list of verbs, from the static lines."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in self.verbs.items()])
