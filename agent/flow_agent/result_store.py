"""Puts a return value where the registration says."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from flow_agent import plugins, retry, unwritten
from flow_agent.errors import FlowAgentError, ResultError, sentence
from flow_agent.hold import Hold
from flow_agent.model import Claim, Ending, Outcome, Reason, State
from flow_agent.ports import ResultStore
from flow_agent.prepare import Means, Told
from flow_agent.redact import known
from flow_agent.verify import digest_of

NOTHING = {"inline": None}
"""What the runner says of a None: there is no file, and nothing to store."""
INLINE = 65_536
"""Bytes of a JSON return value that are kept with the run where the flow has no result store."""


async def with_result(hold: Hold, outcome: Outcome, ending: Ending, *, means: Means, tell: Told) -> Outcome:
    """Put the return value where the registration says; what fails in that is the outcome then.

    What cannot be written is tried for ``means.write_for`` seconds, unless the run is cancelled meanwhile, and then
    kept on this machine: user code is not run again for it.
    """
    claim = hold.claim
    described = (ending.receipt or {}).get("result")
    if described is None or described == NOTHING:
        return replace(outcome, result=described)
    try:
        if ending.result is None or not isinstance(described, dict):
            raise ResultError("the runner left no result file")
        source, description = Path(ending.result), claim.registration.result
        if description is None:
            return replace(outcome, result=await _inline(source, described, tell))
    except (FlowAgentError, OSError) as error:
        return _failed(outcome, error)
    kept: Mapping[str, Any] | None = None
    try:
        store: ResultStore = plugins.load("results", description["type"]).from_description(description)
        location = store.render(flow=claim.run.flow, run_id=claim.run.id, attempt=claim.attempt)
        small = os.path.getsize(source) <= INLINE  # noqa: ASYNC240, PTH202 - asking a thread would take longer
        digest = digest_of(source) if small else await anyio.to_thread.run_sync(digest_of, source)
        kept = {
            "store": description,
            "location": location,
            "format": described["format"],
            "size": described["size"],
            "digest": digest,
        }
        written = await _put(store, location, source, hold=hold, means=means, tell=tell)
    except (FlowAgentError, OSError) as error:
        return _failed(outcome, error, await _keep(kept, claim, source, means))
    if not written:
        return _cancelled(outcome, await _keep(kept, claim, source, means))
    return replace(outcome, result=kept)


async def _put(store: ResultStore, location: str, source: Path, *, hold: Hold, means: Means, tell: Told) -> bool:
    """Whether it was written; if not, nobody waits for it any more."""

    async def on_wait(wait: float, error: BaseException) -> None:
        await tell("WARNING", f"the result cannot be written yet: {error}; tried again in {wait:.1f} s")

    async def end_when_unwanted() -> None:
        await hold.asked_to_end.wait()
        if hold.why in {Reason.CANCELLED, Reason.LEASE_LOST}:
            group.cancel_scope.cancel()

    write = partial(store.put, location, source, means.secrets.for_run(hold.claim.registration))
    failure: Exception | None = None
    written = False
    async with anyio.create_task_group() as group:
        group.start_soon(end_when_unwanted, name=f"end of writing {location}")
        try:
            await retry.storing(means.write_for, write, on_wait)
            written = True
        except Exception as error:  # noqa: BLE001 - raised again outside: a task group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return written


async def _keep(result: Mapping[str, Any] | None, claim: Claim, source: Path, means: Means) -> Mapping[str, Any] | None:
    """Where the result was to go and where it lies; None: it lies nowhere."""
    if result is None or means.unwritten is None:
        return None
    try:
        path = await anyio.to_thread.run_sync(unwritten.keep, means.unwritten, claim.run.id, source)
    except OSError:
        return None
    return {**result, "unwritten": {"host": socket.gethostname(), "path": str(path)}}


def _cancelled(outcome: Outcome, result: Mapping[str, Any] | None) -> Outcome:
    way_out = "; it is kept: `flow-agent result RUN --recover` writes it" if result is not None else ""
    return Outcome(
        state=State.CANCELLED,
        reason=Reason.CANCELLED,
        detail=f"the flow had returned, and was cancelled before its result could be stored{way_out}",
        exit_code=outcome.exit_code,
        result=result,
    )


def _failed(outcome: Outcome, error: Exception, result: Mapping[str, Any] | None = None) -> Outcome:
    way_out = "; it is kept: `flow-agent result RUN --recover` writes it" if result is not None else ""
    return Outcome(
        state=State.FAILED,
        reason=Reason.RESULT_FAILED,
        detail=known.text(f"the flow returned, but its result could not be stored: {sentence(error)}{way_out}"),
        exit_code=outcome.exit_code,
        result=result,
    )


async def _inline(source: Path, described: Mapping[str, Any], tell: Told) -> Mapping[str, Any] | None:
    """The value itself, for a flow without a result store."""
    if described["format"] == "json" and described["size"] <= INLINE:
        return {"inline": json.loads(await anyio.Path(source).read_bytes())}
    await tell(
        "WARNING",
        f"the return value was dropped: {described['size']} bytes of {described['format']}, and the flow has no result"
        f" store; only JSON of at most {INLINE} bytes is kept with the run",
    )
    return None
