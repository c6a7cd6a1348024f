"""What is made from the settings: the list of all, the options, the README's table, the schema of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from flow_agent.settings.groups import Group
from flow_agent.settings.kinds import Option
from flow_agent.settings.model import PREFIX, Settings


@dataclass(frozen=True)
class Leaf:
    """One setting: its path (``("lease", "running")``) and what its class says of it."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + "__".join(self.path).upper()

    @property
    def option(self) -> Option:
        """How it looks on the command line."""
        given = [item for item in self.field.metadata if isinstance(item, Option)]
        names = next((item.names for item in given if item.names), ("--" + "-".join(self.path).replace("_", "-"),))
        metavar = next((item.metavar for item in given if item.metavar), "")
        return Option(names, metavar, any(item.secret for item in given))

    @property
    def default(self) -> str:
        """The default for people; empty where the machine decides (the description then says how)."""
        if self.field.default_factory is not None:
            return ""
        match self.field.default:
            case None:
                return "none"
            case bool() as flag:
                return "true" if flag else "false"
            case tuple() | dict() as several:
                return ",".join(several) or "none"
            case float() as number:
                return f"{number:g}"
            case other:
                return str(other)


def leaves(*groups: str) -> Iterator[Leaf]:
    """Every setting in order; of these groups only, if some are named (``""`` is the top level)."""
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            if not groups or name in groups:
                yield from (Leaf((name, key), leaf) for key, leaf in group.model_fields.items())
        elif not groups or "" in groups:
            yield Leaf((name,), field)


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = ["| setting | option | variable | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for leaf in leaves():
        meaning = (leaf.field.description or "").replace("|", "\\|")
        names = ", ".join(f"`{name}`" for name in "/".join(leaf.option.names).split("/"))
        if leaf.option.secret:
            names = "none"
        default = f"`{leaf.default}`" if leaf.default else ""
        rows.append(f"| `{'.'.join(leaf.path)}` | {names} | `{leaf.variable}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of the settings file."""
    return Settings.model_json_schema()
