"""One attempt in a container of its own: the same prepare as an agent's, then the flow under a keeper, then the result.

It is handed its orders in a file, and tells by marked lines on its standard output and by its last words, which the
kubelet keeps (see ``launchers.handed``). It knows no queue, no agent and no cluster. Its exit code is that of the
attempt, or 125: it failed before the flow began.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from flow_agent import plugins
from flow_agent.brought import install, is_brought
from flow_agent.cache import Cache
from flow_agent.errors import FlowAgentError, RunError, first_of_ours, sentence
from flow_agent.hold import Hold
from flow_agent.init import become_init
from flow_agent.inside_orders import Own, left_in_store
from flow_agent.launchers.handed import (
    FAILED,
    WORDLESS,
    Mark,
    Orders,
    end_message,
    log_message,
    termination_message,
    unpacked,
)
from flow_agent.launchers.linux import hide_memory
from flow_agent.launchers.process import ProcessLauncher, open_launcher
from flow_agent.model import Claim, Ending, LaunchSpec, LogLine, Outcome, Reason, Registration, Run, State
from flow_agent.objects.pool import clients
from flow_agent.ports import Fetched, Storage
from flow_agent.prepare import Means, fetch, spec
from flow_agent.redact import known
from flow_agent.resolver import Resolver
from flow_agent.result_store import with_result
from flow_agent.retry import Policy
from flow_agent.workspace import spool_root

FOR_EVER = 10 * 365 * 86_400.0
"""Seconds: no lease ends an attempt here, since it outlives whoever watches it."""
NAME = "inside"
TRIES = 1_000
"""Tries of one fetch, more than its seconds allow."""


class Handed:
    """The secrets that the agent handed over: those that the registration declares."""

    where = "the secrets that the agent handed over (those that the registration names)"

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets

    async def get(self, name: str) -> str | None:
        """See :meth:`flow_agent.ports.SecretProvider.get`."""
        return self._secrets.get(name)


class Voice:
    """Says marked lines; ``last_words`` is the file for the last one."""

    def __init__(self, nonce: str, last_words: Path | None) -> None:
        self._mark, self._last, self._path = Mark(nonce), Mark(nonce), last_words
        self._seq, self._turn = 0, anyio.Lock()

    async def _say(self, data: bytes) -> None:
        def write() -> None:
            left = data
            while left:
                left = left[os.write(1, left) :]

        async with self._turn:
            with suppress(BrokenPipeError):  # nobody listens, and the last words are kept
                await anyio.to_thread.run_sync(write)

    async def lines(self, lines: Sequence[LogLine]) -> None:
        """Say lines of the flow; they are numbered together with our own."""
        said = []
        for line in lines:
            self._seq += 1
            said.append(self._mark.line(**log_message(self._seq, line)))
        await self._say(b"".join(said))

    async def tell(self, level: str, text: str) -> None:
        """Say a line of our own."""
        line = LogLine(
            attempt=0, source="", seq=0, time=time.time(), text=known.text(text), level=level, logger="flow_agent"
        )
        await self.lines([line])

    async def end(self, message: dict[str, Any]) -> None:
        """Say the last line, and leave it as last words."""
        if self._path is not None:
            with suppress(OSError):
                await anyio.Path(self._path).write_bytes(termination_message(self._last, message))
        await self._say(self._mark.line(**message))


async def run(orders: Orders, home: Path, voice: Voice) -> int:
    """The whole life of the attempt; the exit code."""
    code = FAILED
    async with anyio.create_task_group() as group:
        asked = anyio.Event()
        await group.start(_hear, asked)
        try:
            async with clients():
                code = await _attempt(orders, home, voice, asked, group)
        except Exception as error:  # noqa: BLE001 - whatever it is, it has to be told
            await voice.end(_failure(error))
        group.cancel_scope.cancel()
    return code


def _failure(error: Exception) -> dict[str, Any]:
    """Why the flow never began; task groups wrap what ends them."""
    found = (first_of_ours(error) if isinstance(error, BaseExceptionGroup) else None) or error
    reason, detail = Reason.AGENT_ERROR, f"a fault in what prepares the flow: {error!r}"
    if isinstance(found, RunError):
        reason, detail = found.reason, sentence(found)
    elif isinstance(found, FlowAgentError | OSError):
        reason, detail = Reason.LAUNCH_FAILED, sentence(found)
    return {"failed": {"reason": reason.value, "detail": known.text(detail)[:4_000]}}


async def _hear(asked: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    """SIGTERM: whoever runs the container wants it to end."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        async for _ in received:
            asked.set()


async def _attempt(orders: Orders, home: Path, voice: Voice, asked: anyio.Event, tasks: anyio.abc.TaskGroup) -> int:
    means, claim = _means(orders), _claim(orders)
    root = spool_root(home, NAME)
    care = {"start": "fresh", "ahead": 0}
    async with open_launcher(home, NAME, care) as launcher:
        prepared = None
        with anyio.CancelScope() as preparing:
            tasks.start_soon(_cancel_when, asked, preparing)
            prepared = await _prepared(claim, root, means, voice)
        if prepared is None:
            await voice.end(end_message(Ending(signal=signal.SIGTERM, ended_by="stop", at=time.time()), None))
            return FAILED
        launch, fetched = prepared
        ref = await launcher.create(launch)
        tasks.start_soon(_stop_when, asked, launcher, ref, orders.grace)
        await launcher.go(ref)
        ending = await launcher.wait(ref, voice.lines, attempt=orders.attempt)
        if ending.code == 0 and ending.ended_by is None and (ending.receipt or {}).get("ok"):
            ending = await _stored(claim, ending, means, voice, tasks)
        await voice.end(end_message(ending, fetched.revision))
        await launcher.remove(ref)
    if ending.signal is not None:
        return 128 + ending.signal
    if ending.code == 0 and not (ending.receipt or {}).get("ok"):
        return WORDLESS
    return ending.code if ending.code is not None else 1


async def _prepared(claim: Claim, root: Path, means: Means, voice: Voice) -> tuple[LaunchSpec, Fetched]:
    async def on_wait(number: int, wait: float, error: BaseException) -> None:
        await voice.tell("WARNING", f"{error}; try {number + 1} in {wait:.1f} s")

    folder, fetched = await fetch(claim, root, means, on_wait)
    # What lies in the image lies here.
    payload = {name: value for name, value in fetched.payload.items() if name not in {"image", "pull", "host"}}
    registration = replace(claim.registration, run_config={**claim.registration.run_config, "image": None})
    here = replace(claim, registration=registration)
    deadline = anyio.current_time() + FOR_EVER
    launch = await spec(
        here, folder, replace(fetched, payload=payload), deadline=deadline, means=means, tell=voice.tell
    )
    if is_brought():  # what was put here for us is no package of this interpreter's
        launch = replace(launch, interpreter=sys.executable)
    return launch, fetched


async def _cancel_when(asked: anyio.Event, scope: anyio.CancelScope) -> None:
    await asked.wait()
    scope.cancel()


async def _stop_when(asked: anyio.Event, launcher: ProcessLauncher, ref: str, grace: float) -> None:
    await asked.wait()
    await launcher.stop(ref, grace)


async def _stored(claim: Claim, ending: Ending, means: Means, voice: Voice, tasks: anyio.abc.TaskGroup) -> Ending:
    """Put the return value where the registration says; what fails in that is told as the runner's own word."""
    good = Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED, exit_code=0)
    outcome = await with_result(Hold(claim, math.inf, tasks=tasks), good, ending, means=means, tell=voice.tell)
    if outcome.state is State.SUCCEEDED:
        return replace(ending, stored={"result": outcome.result}, receipt={"ok": True})
    return replace(ending, receipt={"ok": False, "reason": outcome.reason.value, "detail": outcome.detail})


def _claim(orders: Orders) -> Claim:
    registration = orders.registration
    run = Run(
        id=orders.run_id,
        flow=registration.flow,
        version=registration.version,
        state=State.RUNNING,
        launcher="process",
        parameters=orders.parameters,
        attempt=orders.attempt,
        claim=orders.claim,
    )
    return Claim(run=run, registration=registration, number=orders.claim, attempt=orders.attempt, lease=FOR_EVER)


def _means(orders: Orders) -> Means:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLOW_AGENT_", "KUBERNETES_"))}
    return Means(
        storage=_storage,
        secrets=Resolver((Own(), Handed(orders.secrets))),
        cache=Cache(Path(), 0),
        write_for=orders.write_for,
        fetch=Policy(tries=TRIES, seconds=orders.fetch_for),
        env={**own, **orders.env},
        environment={},
        grace=orders.grace,
        output_limit=orders.output_limit,
    )


def _storage(registration: Registration) -> Storage:
    made: Storage = plugins.load("storages", registration.storage["type"]).from_description(registration.storage)
    return made


def begin(path: Path, last_words: Path | None) -> int:
    """Take the orders in the file ``path`` and carry them out; the exit code."""
    become_init()
    hide_memory()  # it holds the secrets of the run
    return _carried_out(str(path), lambda: path.read_text(encoding="utf-8"), last_words)


def begin_with_variable(name: str) -> int:
    """Take the orders in the environment variable ``name``, or where these say they are, and carry them out; the exit
    code."""
    become_init()
    hide_memory()
    return _carried_out(f"the variable {name}", lambda: left_in_store(unpacked(os.environ[name])), None)


def _carried_out(where: str, read: Callable[[], str], last_words: Path | None) -> int:
    try:
        orders = Orders.of(read())
    except (FlowAgentError, OSError, ValueError, KeyError, TypeError) as error:
        said = known.text(sentence(error)) if isinstance(error, FlowAgentError) else type(error).__name__
        print(f"flow-agent: {where} holds no orders: {said}", file=sys.stderr)  # noqa: T201 - its log is the output
        return FAILED
    home = Path(os.environ.get("FLOW_AGENT_HOME") or "/tmp/flow-agent")  # noqa: S108 - of the container
    return anyio.run(run, orders, home, Voice(orders.nonce, last_words))


def main(arguments: Sequence[str]) -> int:
    """``[inside] ORDERS [--last-words FILE]``, ``--variable NAME`` in place of ORDERS, or ``--install FOLDER``: for
    images without our command line."""
    arguments = arguments[1:] if arguments[:1] == ["inside"] else arguments
    if arguments[:1] == ["--variable"]:
        return begin_with_variable(arguments[1])
    if arguments[:1] == ["--install"]:
        install(Path(arguments[1]))
        return 0
    return begin(Path(arguments[0]), Path(arguments[2]) if arguments[1:2] == ["--last-words"] else None)
