"""The verbs for secrets that this machine's agents find in the home."""

from __future__ import annotations

import re
import sys
import time

import click

from flow_agent.cli.listings import as_json_option
from flow_agent.cli.options import options
from flow_agent.cli.output import document, note, table
from flow_agent.errors import InvalidInput, NotFound
from flow_agent.secret_providers.home import HomeSecrets
from flow_agent.settings import Settings
from flow_agent.why import stamp

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")


@click.group()
def secrets() -> None:
    """Keep secrets in a file of the home, which only its user may read, for the agents of this machine.

    \b
    Example: flow-agent secrets set API_TOKEN < token.txt
    """


@secrets.command("set")
@click.argument("name")
@options("")
def set_(settings: Settings, name: str) -> None:
    """Set NAME to what comes on standard input, or to what you type.

    One line end at the end is left out. The value is never an argument: others can read those.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name of a secret, expected letters, digits, '_', '-' and '.'",
            hint="the value comes on standard input: `flow-agent secrets set NAME < FILE`",
        )
    value = _value(name)
    if not value:
        raise InvalidInput(f"no value came for {name}", hint="`flow-agent secrets unset` removes a secret")
    with HomeSecrets(settings.home).changed() as entries:
        entries[name] = {"value": value, "set_at": time.time()}
    note(f"{name} is set")


def _value(name: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(f"Value of {name}", hide_input=True, err=True))
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("the value is no text in UTF-8", hint="encode it, as in base64") from None
    return text.removesuffix("\n").removesuffix("\r")


@secrets.command("list")
@as_json_option
@options("")
def list_(settings: Settings, as_json: bool) -> None:
    """List names and when each was set; never a value."""
    found = sorted(HomeSecrets(settings.home).entries().items())
    if as_json:
        document([{"name": name, "set_at": stamp(entry["set_at"])} for name, entry in found])
        return
    table(("secret", "set"), [(name, stamp(entry["set_at"])) for name, entry in found])


@secrets.command("unset")
@click.argument("name")
@options("")
def unset(settings: Settings, name: str) -> None:
    """Remove NAME."""
    with HomeSecrets(settings.home).changed() as entries:
        if entries.pop(name, None) is None:
            raise NotFound(f"no secret is called {name!r}", hint="`flow-agent secrets list` lists them")
    note(f"{name} is no longer set")
