"""Reading back what a run returned."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pprint import pformat
from typing import Any, BinaryIO

import anyio

from flow_agent.errors import NotFound, ResultError
from flow_agent.model import Json, Run, State
from flow_agent.plugins import load


async def read_result(run: Run, *, unpickle: bool = False) -> Any:
    """What ``run`` returned.

    ``unpickle`` allows loading a pickle, which runs code of whoever wrote it, here.

    Raises NotFound: it has not ended, did not succeed, or nothing was kept. ResultError: it is gone, changed, or a
    pickle that may not be loaded.
    """
    if run.result is None:
        raise _no_result(run)
    if "inline" in run.result:
        return run.result["inline"]
    if is_pickled(run) and not unpickle:
        raise ResultError(
            f"the result of run {run.id} is a pickle; reading it runs code of the flow's author on this machine",
            hint=f"if you trust it: `flow-agent result {run.id} --unpickle`",
        )
    return await anyio.to_thread.run_sync(_read_stored, run.id, run.result)


def _no_result(run: Run) -> NotFound:
    if not run.state.terminal:
        return NotFound(
            f"run {run.id} is {run.state} and has no result yet",
            hint=f"`flow-agent why {run.id}` says what it waits for",
        )
    if run.state is State.SUCCEEDED:
        return NotFound(f"run {run.id} succeeded, and no result was kept of it", hint="its log says why, if it had one")
    return NotFound(
        f"run {run.id} ended as {run.state} and has no result", hint=f"`flow-agent logs {run.id}` shows what it wrote"
    )


def _read_stored(run_id: str, result: Mapping[str, Json]) -> Any:
    store, location = result["store"], result["location"]
    try:
        path = load("results", store["type"]).from_description(store).read(location)
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if (size, digest) != (result.get("size"), result.get("digest")):
                raise ResultError(
                    f"the result of run {run_id} at {path} is not what the run wrote: it has {size} bytes,"
                    f" digest {digest[:12]},"
                    f" expected {result.get('size')} bytes, digest {str(result.get('digest'))[:12]}"
                )
            file.seek(0)
            return _loaded(run_id, file, result.get("format"))
    except (OSError, ValueError, KeyError) as error:
        raise ResultError(f"the result of run {run_id} cannot be read: {error}") from error


def _loaded(run_id: str, file: BinaryIO, form: Json) -> Any:
    if form == "json":
        return json.load(file)
    try:
        return pickle.load(file)  # noqa: S301 - the caller was asked
    except Exception as error:
        raise ResultError(
            f"the result of run {run_id} cannot be unpickled here: {type(error).__name__}: {error}",
            hint="use the Python version of the flow, with what it imports installed",
        ) from error


def is_pickled(run: Run) -> bool:
    """Whether what ``run`` returned is kept as a pickle, since JSON would not give the same value back."""
    return run.result is not None and run.result.get("format") == "pickle"


def python_text(run_id: str, value: object) -> str:
    """``value`` as Python writes it, in several lines where it is long.

    Raises ResultError: its class, which is the author's, cannot write it.
    """
    try:
        return pformat(value, width=100, sort_dicts=False)
    except Exception as error:
        raise ResultError(
            f"the result of run {run_id} is a {type(value).__name__} that cannot be shown: {type(error).__name__}:"
            f" {error}",
            hint="read it from Python, with the `result()` of the run's handle",
        ) from error


def no_json(run_id: str, value: object) -> ResultError:
    """The error for a result that JSON cannot say."""
    return ResultError(
        f"the result of run {run_id} is a {type(value).__name__}, which JSON cannot say", hint="leave out --json"
    )
