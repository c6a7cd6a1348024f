"""Orders that are too large for where they are handed: they lie in the result store of the run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio

from flow_agent import plugins
from flow_agent.objects.pool import clients
from flow_agent.ports import ResultStore
from flow_agent.resolver import Resolver
from flow_agent.retry import storing

FETCHED_WITHIN = 60.0
"""Seconds that they may take to be fetched."""


class Own:
    """The container's environment, as its pod has it."""

    where = "environment of the container"

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`."""
        return os.environ.get(name)


def left_in_store(text: str) -> str:
    """``text``, or the larger orders that it names, which were left in the result store of the run.

    Raises ValueError: they are not those that were left. FlowAgentError, OSError: they cannot be fetched.
    """
    told = json.loads(text)
    if "store" not in told:
        return text
    store: ResultStore = plugins.load("results", told["store"]["type"]).from_description(told["store"])

    async def fetch() -> bytes:
        async def wait(seconds: float, error: BaseException) -> None:
            print(f"flow-agent: {error}; again in {seconds:.1f} s", file=sys.stderr)  # noqa: T201 - as above

        async with clients():
            with tempfile.TemporaryDirectory() as folder:
                get = partial(store.get, told["location"], Path(folder), Resolver((Own(),)))
                return (await storing(FETCHED_WITHIN, get, wait)).read_bytes()

    data = anyio.run(fetch)
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise ValueError("the orders in the result store are not those of this attempt")
    return data.decode()
