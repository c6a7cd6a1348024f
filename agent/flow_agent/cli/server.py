"""``flow-agent server``."""

from __future__ import annotations

from pathlib import Path

import anyio
import click

from flow_agent import events
from flow_agent.cli.options import options
from flow_agent.errors import FlowAgentError, InvalidInput
from flow_agent.init import become_init
from flow_agent.operations.awaiting import awaited_queue
from flow_agent.ports import Leases
from flow_agent.server.tokens import Tokens
from flow_agent.settings import Settings


@click.command()
@options("", "server", "lease", "sqlite", "log")
def server(settings: Settings) -> int:
    """Offer the queue to other machines by HTTP, so that agents and people there need no access to it.

    Who asks shows a token: `flow-agent tokens create`. The first SIGTERM or Ctrl-C ends it when what was asked has been
    answered. Agents go on with what they run meanwhile, and ask again until it is back.

    \b
    Example: flow-agent server --listen 0.0.0.0:8642 --server-certificate chain.pem --server-key key.pem
    """
    become_init()
    events.configure(style=settings.log.format, level=settings.log.level)
    try:
        return anyio.run(_serve, settings)
    finally:
        events.flush(2.0)


async def _serve(settings: Settings) -> int:
    try:
        from flow_agent.server import gate, serve  # noqa: PLC0415 - fastapi is an extra: its absence is told below
    except ImportError as error:
        raise FlowAgentError(
            f"the server cannot be imported: {error}", hint="pip install 'flow-agent-daemon[server]'"
        ) from error
    if settings.queue.startswith(("http:", "https:")):
        raise InvalidInput(
            "the queue is behind a server already", hint="give the server's own queue in --queue, as sqlite:/PATH"
        )
    chosen = settings.server
    tokens = tokens_of(settings) if chosen.access == "tokens" else None
    if tokens is not None and not tokens.content().tokens:
        events.server_without_tokens(str(tokens_path(settings)))
    how = serve.Options(
        listen=chosen.listen,
        tokens=tokens,
        leases=Leases(claimed=settings.lease.claimed, running=settings.lease.running),
        bounds=gate.Bounds(body=chosen.body, seconds=chosen.seconds),
        connections=chosen.connections,
        certificate=chosen.certificate,
        key=chosen.key,
    )
    async with awaited_queue(settings.queue, **settings.queue_arguments()) as queue:
        await serve.run(queue, how)
    return 0


def tokens_path(settings: Settings) -> Path:
    """Where the server's tokens are."""
    return settings.server.tokens or settings.home / "server" / "tokens.json"


def tokens_of(settings: Settings) -> Tokens:
    """The server's tokens."""
    return Tokens(tokens_path(settings))
