"""The verbs for what fetched flows this machine keeps."""

from __future__ import annotations

import click

from flow_agent.cache_folder import clear, listed
from flow_agent.cli.listings import as_json_option
from flow_agent.cli.options import options
from flow_agent.cli.output import document, line, table
from flow_agent.settings import Settings
from flow_agent.why import stamp


@click.group()
def cache() -> None:
    """What fetched flows are kept on this machine.

    \b
    Example: flow-agent cache list
    """


@cache.command("list")
@as_json_option
@options("")
def list_(settings: Settings, as_json: bool) -> None:
    """List what is kept, last used first."""
    found = listed(settings.home / "cache")
    if as_json:
        document(
            [
                {
                    "flow": each.flow,
                    "storage": each.storage,
                    "location": each.location,
                    "revision": each.revision,
                    "digest": each.digest,
                    "size": each.size,
                    "used_at": stamp(each.used),
                }
                for each in found
            ]
        )
        return
    table(
        ("flow", "storage", "location", "revision", "bytes", "used"),
        [(e.flow, e.storage, e.location, e.revision, str(e.size), stamp(e.used)) for e in found],
        less=("revision", "location"),
    )


@cache.command("clear")
@as_json_option
@options("")
def clear_(settings: Settings, as_json: bool) -> None:
    """Remove all of it; agents may run meanwhile, and fetch again."""
    count, size = clear(settings.home / "cache")
    if as_json:
        document({"payloads": count, "bytes": size})
        return
    line(f"{count} payloads, {size} bytes removed")
