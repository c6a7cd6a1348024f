"""The verbs for tokens of the server."""

from __future__ import annotations

import time

import click

from flow_agent import operations
from flow_agent.cli.listings import as_json_option
from flow_agent.cli.options import options
from flow_agent.cli.output import document, line, note, table
from flow_agent.cli.server import tokens_of
from flow_agent.model import Json
from flow_agent.server.tokens import Token
from flow_agent.settings import Settings
from flow_agent.why import stamp
from flow_agent.wire import SCOPES


@click.group()
def tokens() -> None:
    """Who may ask the server for what. Run these on the machine of the server; it need not be restarted.

    \b
    Example: flow-agent tokens create build-1 --scope agent > token
    """


@tokens.command("create")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, metavar="SCOPE", help=f"What it may do: {', '.join(SCOPES)}."
)
@click.option("--days", type=float, metavar="N", help="Days for which it is valid.")
@as_json_option
@options("", "server")
def create(settings: Settings, name: str, scopes: tuple[str, ...], days: float | None, as_json: bool) -> None:
    """Make a token of NAME and print it; nothing can show it again.

    A name may have several: to rotate one, create the next, hand it out, and revoke the old one.
    """
    text, kept = tokens_of(settings).create(name, scopes, days=days)
    if as_json:
        document({**_shown(kept), "token": text})
        return
    line(text)
    note(f"token {kept.id} of {kept.name}: {', '.join(kept.scopes)}")


@tokens.command("list")
@as_json_option
@options("", "server")
def list_(settings: Settings, as_json: bool) -> None:
    """List the tokens; what they are is not kept, only hashes of it."""
    found = tokens_of(settings).content().tokens
    if as_json:
        document([_shown(token) for token in found])
        return
    table(
        ("id", "name", "scopes", "created", "expires"),
        [
            (t.id, t.name, ",".join(t.scopes), stamp(t.created_at), stamp(t.expires_at) if t.expires_at else "never")
            for t in found
        ],
        less=("created",),
    )


@tokens.command("revoke")
@click.argument("token_id", metavar="ID")
@options("", "server")
def revoke(settings: Settings, token_id: str) -> None:
    """Let the token with that ID do nothing any more, from within a second on."""
    gone = tokens_of(settings).revoke(token_id)
    note(f"token {gone.id} of {gone.name} is revoked")


def _shown(token: Token) -> dict[str, Json]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": list(token.scopes),
        "created_at": operations.iso(token.created_at),
        "expires_at": operations.iso(token.expires_at),
        "expired": token.expires_at is not None and token.expires_at <= time.time(),
    }
