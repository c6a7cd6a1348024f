"""The settings of what a running agent shows of itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flow_agent.settings.kinds import Group, Option


class ProbesSettings(Group):
    """What others may ask a running agent."""

    listen: Annotated[str, Option(("--probes",), "ADDRESS")] = Field(
        default="",
        description="HOST:PORT at which `/livez`, `/readyz` and `/metrics` are answered by HTTP; default: nowhere."
        " Anybody who reaches it may ask.",
    )


class LogSettings(Group):
    """The agent's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level shown.")
    format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="How it looks; 'auto' is pretty on a terminal, JSON elsewhere."
    )
