"""Builds of an engine: with their progress, an error that shows the step, and nothing left of what failed. Blocks."""

from __future__ import annotations

import contextlib
import inspect
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from flow_agent.engine.client import Engine
from flow_agent.engine.errors import words
from flow_agent.engine.images import answers
from flow_agent.engine.once import gone
from flow_agent.engine.progress import Progress
from flow_agent.errors import EngineError

TOLD = 40
"""Last lines of a step's output that stand in its error."""
LETS_GO_WITHIN = 10.0
"""Seconds that an engine may take to end the step of a build that nobody listens to any more."""

_STEP = re.compile(r"Step (\d+/\d+) : (.*)", re.DOTALL)
_MADE = re.compile(r" ---> ([0-9a-f]{12,64})")
_RUNS = re.compile(r" ---> Running in ([0-9a-f]{12,64})")
_CODE = re.compile(r"returned a non-zero code: (\d+)")
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")
"""What colours a terminal, or moves on it."""


@dataclass
class Build:
    """One build, which another thread may interrupt; ``over`` is set when it has come to its end, whichever."""

    over: threading.Event = field(default_factory=threading.Event)
    made: list[str] = field(default_factory=list)
    """The images that it made itself and did not find: what is left of them when it fails serves nothing."""
    image: str | None = None
    step: str = ""
    line: str = ""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=TOLD))
    runs: str | None = None
    """The container of the step."""
    interrupted: bool = False
    _stream: Any = None
    _found: bool = False

    def interrupt(self) -> None:
        """End it: an engine stops to build when nobody listens."""
        from docker.types.daemon import CancellableStream  # noqa: PLC0415 - only where one is interrupted

        self.interrupted = True
        with contextlib.suppress(Exception):  # it is over, or the SDK finds no socket, as with SSH
            CancellableStream(self._stream, inspect.getgeneratorlocals(self._stream)["response"]).close()

    def hears(self, stream: Any) -> Any:
        """The engine's answer, which is what can be interrupted."""
        self._stream = stream
        if self.interrupted:
            self.interrupt()
        return stream

    def take(self, line: str, progress: Progress) -> None:
        """Take one line of what the engine says."""
        if begun := _STEP.match(line):
            self.step, self.line, self._found, self.runs = begun[1], begun[2], False, None
            self.said.clear()
            progress.say(f"step {self.step}: {_short(self.line)}")
        elif made := _MADE.fullmatch(line.rstrip()):
            if not self._found and not self.of_base:
                self.made.append(made[1])
        elif runs := _RUNS.match(line):
            self.runs = runs[1]
        elif line.startswith(" ---> "):
            self._found = self._found or line.startswith(" ---> Using cache")
        elif not line.startswith("Removing intermediate container ") and (plain := _TERMINAL.sub("", line)).strip():
            self.said.append(plain.rstrip())

    @property
    def of_base(self) -> bool:
        """Whether the step only names what is built upon."""
        return self.line.upper().startswith("FROM ")


def build(  # noqa: PLR0917 - what one build is
    engine: Engine,
    context: IO[bytes],
    image: str | None,
    dockerfile: str,
    options: Mapping[str, Any],
    progress: Progress,
    state: Build,
) -> str:
    """Build the archive ``context``, in which ``dockerfile`` lies, as ``image`` (None: without a name); gives its id.

    Raises EngineError: a step fails; the message holds the step and the last of its output. Or the engine says nothing
    for ``timeout`` of ``options``, else SILENT_FOR, seconds. What it made by then is removed.
    """
    what = f"building the image {image}" if image else "building the dockerfile"

    def ask() -> Iterable[Mapping[str, Any]]:
        found: Iterable[Mapping[str, Any]] = state.hears(
            engine.sdk.build(
                fileobj=context,
                custom_context=True,
                tag=image,
                dockerfile=dockerfile,
                decode=True,
                **{"rm": True, "forcerm": True, **options},  # else the container of a step that fails stays
            )
        )
        return found

    try:
        return _followed(engine, what, ask, state, progress)
    except BaseException:
        forget(engine, state)
        raise
    finally:
        state.over.set()


def _followed(engine: Engine, what: str, ask: Any, state: Build, progress: Progress) -> str:
    """Hear what the engine says to its end, since its connection stays open else; the id of the image.

    Raises EngineError.
    """
    failure = None
    for said in answers(engine, what, ask):
        progress.goes_on()
        if "error" in said or "errorDetail" in said:
            failure = _failed(what, said, state)
        if isinstance(aux := said.get("aux"), Mapping) and aux.get("ID"):
            state.image = str(aux["ID"])
        for line in str(said.get("stream") or "").splitlines():
            state.take(line, progress)
    if failure is not None:
        raise failure
    if state.image is None:
        raise EngineError(f"{what}: the engine ended without an image", transient=False)
    return state.image


def forget(engine: Engine, state: Build) -> None:
    """Remove the images that a build made, the last one first; what others are made of meanwhile stays, and what it is
    made of too. Of one that was interrupted the container too: an engine takes its time for it."""
    until = time.monotonic() + (LETS_GO_WITHIN if state.interrupted else 0.0)
    if state.interrupted and state.runs is not None:
        with contextlib.suppress(EngineError):
            gone(engine, state.runs)
    for image in reversed(state.made):
        while (status := _status(engine, image)) == 409 and time.monotonic() < until:
            time.sleep(0.1)
        if status not in {None, 404}:
            return


def _status(engine: Engine, image: str) -> int | None:
    """What the engine answers to being asked to remove ``image``; None: it did."""
    try:
        engine.ask("removing an image", lambda: engine.sdk.remove_image(image, noprune=True))
    except EngineError as error:
        return error.status or 500
    return None


def _failed(what: str, said: Mapping[str, Any], state: Build) -> EngineError:
    detail = said.get("errorDetail")
    message = str((detail.get("message") if isinstance(detail, Mapping) else None) or said.get("error"))
    code = _CODE.search(message)
    if not state.step:
        return EngineError(f"{what}: {words(message)}", transient=False)
    why = f"ended with exit code {code[1]}" if code else f"failed: {words(message)}"
    output = "".join(f"\n  {words(line)}" for line in state.said)
    return EngineError(
        f"{what}: step {state.step}, {_short(state.line)}, {why}" + (f"; its output:{output}" if output else ""),
        transient=False,
        hint=_way_out(state, words(message)),
    )


def _way_out(state: Build, message: str) -> str | None:
    if "'scratch' is a reserved name" in message or "No image was generated" in message:
        return "FROM scratch has nothing in it; expected a base image with Python 3.11 or newer, as python:3.12-slim"
    if state.of_base:
        return "see that the engine may pull that image, or let it take what it has (local_image=True)"
    if any("No module named pip" in line for line in state.said):
        return "the base image has no pip, which python_dependencies need; take one that has it, as python:3.12-slim"
    if "executable file not found" in message or "no such file or directory" in message:
        return "the image lacks what that step runs; a RUN without brackets needs a shell, python_dependencies python3"
    return None


def _short(line: str) -> str:
    text = words(line)
    return text if len(text) <= 120 else f"{text[:117]}..."
