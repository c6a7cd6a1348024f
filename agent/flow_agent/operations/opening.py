"""From the URL of a queue to the queue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from flow_agent.errors import InvalidInput
from flow_agent.model import Json
from flow_agent.plugins import load
from flow_agent.ports import Leases, OpenQueue, Queue


def open_queue(
    url: str, *, leases: Leases | None = None, options: Mapping[str, Json] | None = None
) -> AbstractAsyncContextManager[Queue]:
    """The queue at ``url``, opened by the entry point of the URL's scheme.

    Raises InvalidInput: there is no scheme, or nothing installed opens it; and what ``ports.OpenQueue`` raises.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme.isalnum():
        raise InvalidInput(
            f"queue {shown_url(url)!r} is no URL",
            hint="expected sqlite:/path/to/queue.db, or another scheme and its address",
        )
    if scheme == "postgres":
        raise InvalidInput(
            f"the queue {shown_url(url)} has the scheme postgres", hint="expected postgresql://, the rest as it is"
        )
    opener: OpenQueue = load("queues", scheme)
    return opener(url, leases=leases or Leases(), options=options or {})


def shown_url(url: str) -> str:
    """``url`` without what may hold a password, for messages: user and query.

    A password may have any sign, though some should have been written as %XX; and what is no URL may name one.
    """
    address = re.sub(r"//.*@", "//", url, flags=re.DOTALL)
    address = re.sub(r"(?i)((?:pass\w*|pwd|secret|token)\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", r"\1***", address)
    return address.partition("?")[0] if "://" in address else address
