"""Looks whether what this machine's agents need can be used, and says with whose credentials; never their values."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread

from flow_agent.errors import FlowAgentError
from flow_agent.model import Json, Registration
from flow_agent.objects.pool import clients
from flow_agent.plugins import load
from flow_agent.ports import Queue, SecretProvider
from flow_agent.redact import known
from flow_agent.resolver import Resolver

WITHIN = 25.0
"""Seconds for one check."""
LITTLE = 1_000_000_000
"""Bytes of free disk below which a warning is due."""
NOWHERE = "DOCTOR_NOT_THERE"
INSIDE = frozenset(
    {"key", "blob_name", "location", "prefix", "stored_as_script", "secrets", "path", "root", "ref", "commit"}
)
"""What says which part of a store is used: one look at the store is enough."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. ``uses`` says whose credentials were used, where there are any."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    hint: str | None = None
    uses: str | None = None


Look = Callable[[], Awaitable[Check]]


async def examine(queue: Queue, resolver: Resolver, home: Path, shown_queue: str) -> Sequence[Check]:
    """All checks, done side by side, in a fixed order."""
    registrations = await queue.registrations()
    looks: list[tuple[str, Look]] = [("home", partial(_home, home))]
    looks.append(("queue", partial(_queue, shown_queue, len(registrations))))
    looks += [(f"secrets: {each.where}", partial(_provider, each)) for each in resolver.providers]
    looks += [(store.name, partial(_store, store, resolver)) for store in _stores(registrations)]
    found: dict[int, Check] = {}

    async def one(number: int, name: str, look: Look) -> None:
        found[number] = await _looked(name, look)

    async with clients(), anyio.create_task_group() as tasks:
        for number, (name, look) in enumerate(looks):
            tasks.start_soon(one, number, name, look, name=f"check {name}")
    return [found[number] for number in sorted(found)]


async def _looked(name: str, look: Look) -> Check:
    try:
        with anyio.fail_after(WITHIN):
            return await look()
    except TimeoutError:
        return Check(name=name, state="failed", detail=f"no answer within {WITHIN:g} s")
    except FlowAgentError as error:
        return Check(name=name, state="failed", detail=known.text(str(error)), hint=error.hint)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return Check(name=name, state="failed", detail=known.text(f"{type(error).__name__}: {error}"))


async def _home(home: Path) -> Check:
    def look() -> int:
        with tempfile.NamedTemporaryFile(dir=home):
            return shutil.disk_usage(home).free

    free = await anyio.to_thread.run_sync(look)
    if os.stat(home).st_mode & 0o077:  # noqa: PTH116 - one look
        return Check(name="home", state="warning", detail=f"{home} can be read by others", hint=f"chmod 700 {home}")
    if free < LITTLE:
        return Check(name="home", state="warning", detail=f"{home}: {free // 1_000_000} MB are free")
    return Check(name="home", state="ok", detail=f"{home}: {free // 1_000_000_000} GB are free")


async def _queue(shown: str, flows: int) -> Check:
    return Check(name="queue", state="ok", detail=f"{shown}: open and up to date, {flows} flows")


async def _provider(provider: SecretProvider) -> Check:
    await provider.get(NOWHERE)
    return Check(name=f"secrets: {provider.where}", state="ok", detail="answers")


async def _store(store: _Store, resolver: Resolver) -> Check:
    """A storage or a result that lies behind a network."""
    made: Any = load(store.group, str(store.description["type"])).from_description(store.description)
    async with made.connect(resolver) as connected:
        certain = await (connected.check(store.key) if store.key is not None else connected.check())
        uses = connected.credentials
    if certain is False:
        return Check(
            name=store.name,
            state="warning",
            detail="answers, but does not tell whether these credentials may read: they may not list its objects",
            hint="nothing is wrong if a flow of it runs; objects can then be read without being listed",
            uses=uses,
        )
    return Check(name=store.name, state="ok", detail="can be reached, and lets us ask for objects", uses=uses)


@dataclass(frozen=True)
class _Store:
    """A storage or a result of the registered flows; ``key`` is that of an object in it."""

    name: str
    group: str
    description: Mapping[str, Json]
    key: str | None


def _stores(registrations: Sequence[Registration]) -> list[_Store]:
    """Each storage and each result of the registered flows once; of equal ones the newest registration's."""
    found: dict[str, _Store] = {}
    for registration in reversed(registrations):
        key = registration.location.get("key")
        pairs = [("storages", registration.storage, key), ("results", registration.result, None)]
        for group, description, key in pairs:
            if description is None or not hasattr(load(group, description["type"]), "connect"):
                continue
            bucket = next((description[name] for name in ("bucket", "container", "repo") if description.get(name)), "")
            kind = str(description["type"])
            where = {k: v for k, v in description.items() if k not in INSIDE}
            name = f"{kind} {sorted(where.items(), key=str)}"
            found.setdefault(name, _Store(f"{kind} {bucket}", group, description, key))
    return [found[key] for key in sorted(found)]
