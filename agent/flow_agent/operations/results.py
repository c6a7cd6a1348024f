"""Reading back what a run returned."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import anyio
import anyio.to_thread

from flow_agent import unwritten
from flow_agent.errors import NotFound, ResultError, RunError
from flow_agent.model import Json, Run, State
from flow_agent.plugins import load
from flow_agent.ports import ResultStore, SecretResolver
from flow_agent.resolver import Resolver


async def read_result(run: Run, secrets: SecretResolver | None = None, *, unpickle: bool = False) -> Any:
    """What ``run`` returned; ``secrets`` are asked for the credentials of its store, where it needs some.

    ``unpickle`` allows loading a pickle, which runs code of whoever wrote it, here.

    Raises NotFound: it has not ended, did not succeed, or nothing was kept. ResultError: it is gone, changed, not
    written yet, or a pickle that may not be loaded.
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
    store, result = _store(run), run.result
    with TemporaryDirectory(prefix="flow-agent-") as folder:
        try:
            path = await store.get(result["location"], Path(folder), secrets or Resolver(()))
        except (RunError, OSError) as error:
            raise _unreadable(run, error) from error
        return await anyio.to_thread.run_sync(_read_stored, run.id, path, result)


async def recover_result(run: Run, secrets: SecretResolver) -> bool:
    """Write the result of ``run``, which its agent kept, to where it was to go; False: it is there already.

    Raises NotFound: no result of it was kept. ResultError: it is kept elsewhere, is not what it was, or still cannot be
    written.
    """
    result = run.result or {}
    if (kept := result.get("unwritten")) is None:
        raise NotFound(f"run {run.id} has no result that waits for being written")
    path, store = Path(kept["path"]), _store(run)
    if not await anyio.to_thread.run_sync(path.is_file):
        with TemporaryDirectory(prefix="flow-agent-") as folder:
            try:
                await store.get(result["location"], Path(folder), secrets)
            except (RunError, OSError) as error:
                here = socket.gethostname()
                raise ResultError(
                    f"the result of run {run.id} is kept in {path} on {kept['host']}; this is {here}, and it is not in"
                    " its store either",
                    hint=f"run it there: `flow-agent result {run.id} --recover`",
                ) from error
        return False
    try:
        if await anyio.to_thread.run_sync(_facts, path) != (result["size"], result["digest"]):
            raise ResultError(f"the result of run {run.id} in {path} is not what the run wrote")
        await store.put(result["location"], path, secrets)
    except OSError as error:
        if not await anyio.to_thread.run_sync(path.is_file):
            return await recover_result(run, secrets)  # somebody else has recovered it meanwhile
        raise ResultError(f"the result of run {run.id} still cannot be written: {error}") from error
    await anyio.to_thread.run_sync(unwritten.forget, path)
    return True


def _store(run: Run) -> ResultStore:
    assert run.result is not None
    description = run.result["store"]
    try:
        store: ResultStore = load("results", description["type"]).from_description(description)
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(f"the result of run {run.id} cannot be read: {error}") from error
    return store


def _unreadable(run: Run, error: Exception) -> ResultError:
    kept = (run.result or {}).get("unwritten")
    if kept is not None:
        return ResultError(
            f"the result of run {run.id} was never written; it is kept in {kept['path']} on {kept['host']}",
            hint=f"there: `flow-agent result {run.id} --recover`",
        )
    return ResultError(f"the result of run {run.id} cannot be read: {error}", hint=getattr(error, "hint", None))


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


def _facts(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _read_stored(run_id: str, path: Path, result: Mapping[str, Json]) -> Any:
    try:
        size, digest = _facts(path)
        if (size, digest) != (result.get("size"), result.get("digest")):
            raise ResultError(
                f"the result of run {run_id} at {result['location']} is not what the run wrote: it has {size} bytes,"
                f" digest {digest[:12]},"
                f" expected {result.get('size')} bytes, digest {str(result.get('digest'))[:12]}"
            )
        with path.open("rb") as file:
            return _loaded(run_id, file, result.get("format"))
    except (OSError, ValueError) as error:
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
