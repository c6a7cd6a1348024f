"""A queue behind a server: ``http://HOST:PORT`` or ``https://HOST:PORT``, with a path in front where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio

from flow_agent.errors import InvalidInput
from flow_agent.model import Json
from flow_agent.ports import Clock, Leases
from flow_agent.queues.http.access import Access
from flow_agent.queues.http.connection import Connection
from flow_agent.queues.http.queue import HttpQueue

OPTIONS = {"token", "token_file", "ca"}


@asynccontextmanager
async def open_queue(
    url: str,
    *,
    leases: Leases = Leases(),  # noqa: B008 - frozen
    clock: Clock | None = None,  # noqa: ARG001 - its clock counts
    options: Mapping[str, Json] = {},
) -> AsyncIterator[HttpQueue]:
    """Open the queue of the server at ``url``; nothing is asked of it yet.

    The server's leases hold; an agent that takes claims to hold for longer is refused.

    Options: ``token``, or ``token_file`` that holds it (read again when the server refuses the old one); ``ca`` is a
    file or folder of authorities in place of the usual ones.

    Raises InvalidInput: the URL or an option cannot be used.
    """
    if unknown := set(options) - OPTIONS:
        raise InvalidInput(f"a queue over HTTP has no option {min(unknown)!r}; it has {', '.join(sorted(OPTIONS))}")
    access = Access(token=options.get("token"), file=options.get("token_file"))
    async with Connection(url, access, options.get("ca")) as connection:
        queue = HttpQueue(connection, leases)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            queue.listens_in(tasks)
            try:
                yield queue
            except Exception as error:  # noqa: BLE001 - raised again outside, where the group does not wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
