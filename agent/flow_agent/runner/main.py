"""Runs one flow: waits parked for the word to go, loads the payload, calls the flow, writes result and receipt.

Descriptor 3 gives a message, one line of JSON, and descriptor 5 the word to go; descriptor 4 takes events. What is
done before the word costs the run nothing; no code of the user is loaded before it. The message also brings all that
a program usually finds at its start (environment, working folder, limits), because this one is started before anybody
knows for which run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from flow_agent.runner import foreign, limits, records, results
from flow_agent.runner.channel import Channel

MESSAGE, EVENTS, GO = 3, 4, 5
GO_WORD = b"go\n"


class Refused(Exception):
    """The attempt cannot run here; ``reason`` is one of the public reasons."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def main(kind: str, path: list[str] | None = None) -> int:
    """The whole life of the attempt; gives the exit code: 0, 1, or what the flow asked for with ``sys.exit``.

    ``path`` is ``sys.path`` as the flow shall have it, if that is not what it is: see ``first``.
    """
    channel = _get_ready()
    _load_ahead(kind)
    if path is not None:
        sys.path[:] = path
    with os.fdopen(MESSAGE, "rb") as pipe:
        line = pipe.readline()
    if not line:
        return 1  # nobody needs us
    message = json.loads(line)
    channel.nonce = message["nonce"]
    problem = _prepare(message)
    word = os.read(GO, len(GO_WORD))
    os.close(GO)
    if word != GO_WORD:
        return 1
    value = None
    try:
        value = _call(message, problem)
        receipt: dict[str, Any] = {"ok": True}
        code = 0
    except Refused as refused:
        receipt, code = _refusal(refused), 1
    except SystemExit as stop:
        receipt, code = _exited(stop)
    except BaseException as error:  # whatever ends a flow is told
        receipt, code = _raised(channel, error), 1
    if not channel.ours:
        _end_child(code)
    if receipt["ok"]:
        try:
            receipt["result"] = _save(value, message["folder"])
        except Refused as refused:
            receipt, code = _refusal(refused), 1
    with contextlib.suppress(OSError):  # the flow closed our descriptors: no receipt, and the end says so
        channel.send(end=receipt)
    return code


def _refusal(refused: Refused) -> dict[str, Any]:
    return {"ok": False, "reason": refused.reason, "detail": refused.detail}


def _end_child(code: int) -> NoReturn:
    """End a process that the flow forked and that returned from the flow: the word is its parent's, and the result."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _get_ready() -> Channel:
    """All that can be done before anybody knows for which run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.line_buffering:
            stream.reconfigure(line_buffering=True)
    sys.modules["__main__"] = ModuleType("__main__")
    if not faulthandler.is_enabled():
        faulthandler.enable(2)  # where it was is all that a crash in C can tell
    channel = Channel(EVENTS)
    records.install(channel)
    return channel


def _load_ahead(kind: str) -> None:
    """Import what the run will need, while nobody waits for it yet; a fork has it from its zygote."""
    if kind == "pickle":
        import cloudpickle  # noqa: F401 - its pickles name it

        import flow_agent.runner.stored
    import flow_agent.current
    import flow_agent.flow
    import flow_agent.runner.load  # noqa: F401 - loaded before the attempt is known


def _prepare(message: dict[str, Any]) -> Exception | None:
    """Find what a program finds at its start; the error, if that cannot be."""
    sys.argv = [message["run"]["flow"]]
    zone = os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(message["env"], FLOW_AGENT_ATTEMPT=message["mark"])
    if os.environ.get("TZ") != zone:
        time.tzset()
    try:
        os.chdir(message["cwd"])
        limits.apply(message["limits"])
    except (OSError, ValueError) as error:
        return error
    return None


def _call(message: dict[str, Any], problem: Exception | None) -> Any:
    if problem is not None:
        raise Refused("launch_failed", f"the attempt could not be made ready: {problem}")
    from flow_agent.current import bind_run

    run = message["run"]
    with bind_run(
        id=run["id"],
        attempt=run["attempt"],
        flow=run["flow"],
        parameters=message["parameters"],
        secrets=message["secrets"],
    ):
        function = _load(message)
        if function is None:
            return None
        if foreign.framework(function) is not None:
            return _run_foreign(function, message)
        if message["payload"]["kind"] != "pickle":  # a pickle's were checked against the same function at submit
            _check(function, message["parameters"])
        value = function(**message["parameters"])
        if isinstance(value, Coroutine):
            value = _await(value)
        return value


def _run_foreign(target: Any, message: dict[str, Any]) -> Any:
    try:
        return foreign.run(target, message["parameters"], message["secrets"], message["folder"])
    except foreign.Ended as ended:
        raise Refused(ended.reason, ended.detail) from None


def _await(value: Any) -> Any:
    import asyncio  # costs a plain flow 50 ms

    async def flow() -> Any:
        return await value

    return asyncio.run(flow())


def _load(message: dict[str, Any]) -> Any:
    """The function to call (None: there is none), or a flow of another framework."""
    payload, folder = message["payload"], message["folder"]
    if payload["kind"] == "pickle":
        from flow_agent.runner.stored import Mismatch, load

        try:
            return load(os.path.join(folder, payload["path"]), message["python"])
        except Mismatch as mismatch:
            raise Refused("python_mismatch", str(mismatch)) from None
    from pathlib import Path

    from flow_agent.flow import Flow
    from flow_agent.runner.load import NoSuchFlow, find_flow, flow_of_module, load_script

    try:
        if payload["kind"] == "module":
            found = flow_of_module(payload["module"], payload["attribute"], payload["flow"])
        else:
            module = load_script(Path(folder, payload["root"]), payload["path"])
            # The attempt's folder is gone when somebody reads this.
            found = find_flow(module, payload["flow"], payload["path"])
    except NoSuchFlow as error:
        raise Refused("flow_not_found", str(error.args[0])) from None
    return found.function if isinstance(found, Flow) else found


def _check(function: Callable[..., Any], parameters: dict[str, Any]) -> None:
    import inspect

    try:
        inspect.signature(function).bind(**parameters)
    except TypeError as error:
        names = ", ".join(sorted(parameters)) or "none"
        raise Refused("parameters_invalid", f"{error}; the run's parameters: {names}") from None


def _save(value: Any, folder: str) -> dict[str, Any]:
    try:
        return results.save(value, folder)
    except Exception as error:  # whatever a value's pickling raises
        raise Refused(
            "result_failed",
            f"the return value ({type(value).__name__}) cannot be stored: {type(error).__name__}: {error}",
        ) from None


def _exited(stop: SystemExit) -> tuple[dict[str, Any], int]:
    """``sys.exit`` means what it means to Python: nothing or 0 is success, text is printed and gives 1."""
    if stop.code is None or stop.code == 0:
        return {"ok": True}, 0
    if isinstance(stop.code, int):
        return {"ok": False, "reason": "exited", "detail": f"the flow called sys.exit({stop.code})"}, stop.code & 0xFF
    print(stop.code, file=sys.stderr)  # as Python does
    return {"ok": False, "reason": "exited", "detail": f"the flow called sys.exit({str(stop.code)[:200]!r})"}, 1


def _raised(channel: Channel, error: BaseException) -> dict[str, Any]:
    text = "".join(traceback.format_exception(type(error), error, _users_frames(error.__traceback__)))
    with contextlib.suppress(OSError):
        channel.send(log={"level": "ERROR", "logger": "flow_agent", "text": text.rstrip("\n")})
    if isinstance(error, MemoryError):
        return {"ok": False, "reason": "out_of_memory", "detail": _out_of_memory(error)}
    last = "".join(traceback.format_exception_only(error)).strip()
    detail = last.splitlines()[-1] if isinstance(error, SyntaxError) else last
    return {"ok": False, "reason": "raised", "detail": detail[:2000]}


def _out_of_memory(error: MemoryError) -> str:
    limit = limits.memory()
    text = "Python got no more memory" + (f", and its memory_limit is {limit} bytes" if limit else "")
    return f"{text}: {error}"[:2000] if str(error) else text


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not the runner's."""
    here = os.path.dirname(__file__)
    start = frames
    while start is not None and (
        start.tb_frame.f_code.co_filename.startswith(here) or "importlib" in start.tb_frame.f_code.co_filename
    ):
        start = start.tb_next
    return start or frames
