"""Puts a return value where the registration says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from flow_agent import plugins, retry
from flow_agent.errors import FlowAgentError, ResultError, sentence
from flow_agent.model import Claim, Ending, Outcome, Reason, State
from flow_agent.prepare import Told
from flow_agent.verify import digest_of

INLINE = 65_536
"""Bytes of a JSON return value that are kept with the run where the flow has no result store."""
WRITE_FOR = 600.0
"""Seconds for which a full disk is waited for; user code is not run again for it."""


async def with_result(claim: Claim, outcome: Outcome, ending: Ending, tell: Told) -> Outcome:
    """Put the return value where the registration says; what fails in that is the outcome then."""
    try:
        return replace(outcome, result=await _stored(claim, ending, tell))
    except (FlowAgentError, OSError) as error:
        detail = f"the flow returned, but its result could not be stored: {sentence(error)}"
        return Outcome(state=State.FAILED, reason=Reason.RESULT_FAILED, detail=detail, exit_code=outcome.exit_code)


async def _stored(claim: Claim, ending: Ending, tell: Told) -> Mapping[str, Any] | None:
    described = (ending.receipt or {}).get("result")
    if described is None:
        return None
    if ending.result is None or not isinstance(described, dict):
        raise ResultError("the runner left no result file")
    source, description = Path(ending.result), claim.registration.result
    if description is not None:
        store = plugins.load("results", description["type"]).from_description(description)
        location = store.render(flow=claim.run.flow, run_id=claim.run.id, attempt=claim.attempt)
        digest = await anyio.to_thread.run_sync(digest_of, source)

        async def on_wait(wait: float, error: BaseException) -> None:
            await tell("WARNING", f"the result cannot be written yet: {error}; tried again in {wait:.1f} s")

        write = partial(anyio.to_thread.run_sync, store.write, location, source)
        await retry.when_there_is_room(WRITE_FOR, write, on_wait)
        return {
            "store": description,
            "location": location,
            "format": described["format"],
            "size": described["size"],
            "digest": digest,
        }
    if described["format"] == "json" and described["size"] <= INLINE:
        return {"inline": json.loads(await anyio.Path(source).read_bytes())}
    await tell(
        "WARNING",
        f"the return value was dropped: {described['size']} bytes of {described['format']}, and the flow has no result"
        f" store; only JSON of at most {INLINE} bytes is kept with the run",
    )
    return None
