"""What a task is told to do: in its request or, where that is too large, in the result store until it has ended."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import anyio

from flow_agent import events, plugins, retry
from flow_agent.errors import LaunchError, ResultError
from flow_agent.launchers.ecs_client import Nobody
from flow_agent.launchers.ecs_task import Wishes
from flow_agent.launchers.handed import orders_of, packed, unpacked
from flow_agent.model import LaunchSpec
from flow_agent.ports import ResultStore

LARGEST_ORDERS = 4_096
"""Characters of orders that travel with the request; larger ones go through the result store."""
STORED_WITHIN = 60.0
REMOVED_WITHIN = 10.0


async def left(spec: LaunchSpec, wishes: Wishes, nonce: str) -> str:
    """The orders of ``spec``, or, where they are large, where in its result store they lie now.

    Raises LaunchError: they cannot be left there.
    """
    text = orders_of(spec, nonce, fetch_for=wishes.fetch_for, write_for=wishes.write_for).text()
    short = packed(text)
    registration = spec.registration
    assert registration is not None
    if len(short) <= LARGEST_ORDERS or registration.result is None:
        return short
    store = _store(registration.result)
    location = f"{store.render(spec.flow, spec.run_id, spec.attempt)}.orders"

    async def on_wait(wait: float, error: BaseException) -> None:
        events.cloud_waits(f"orders of {spec.run_id}", wait, error)

    with tempfile.TemporaryDirectory() as folder:
        path = anyio.Path(folder) / "orders"
        await path.write_text(text, encoding="utf-8")
        try:
            await retry.storing(STORED_WITHIN, lambda: store.put(location, Path(path), Nobody()), on_wait)
        except (ResultError, OSError) as error:
            raise LaunchError(
                f"the orders of flow {spec.flow!r} are too large for ECS, and could not be left in its result"
                f" store: {error}",
                transient=getattr(error, "transient", False),
                hint="let the agent's own credentials write there, or submit smaller parameters",
            ) from error
    told = {"store": dict(registration.result), "location": location}
    return packed(json.dumps({**told, "sha256": hashlib.sha256(text.encode()).hexdigest()}, default=dict))


async def remove(ref: str, short: str) -> None:
    """Remove what ``left`` left in a store, whose answer ``short`` was. If it cannot be removed, that is told."""
    told = json.loads(unpacked(short)) if short else {}
    if "store" not in told:
        return
    store = _store(told["store"])

    async def on_wait(wait: float, error: BaseException) -> None:
        events.cloud_waits(f"orders of {ref}", wait, error)

    try:
        await retry.storing(REMOVED_WITHIN, lambda: store.remove(told["location"], Nobody()), on_wait)
    except (ResultError, OSError) as error:
        events.orders_left(ref, told["location"], error)


def _store(description: Any) -> ResultStore:
    found: ResultStore = plugins.load("results", description["type"]).from_description(description)
    return found
