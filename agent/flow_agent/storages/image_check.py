"""Looks whether each flow of an image can be loaded in it, in a container as its runs have one."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from flow_agent.runner.image import MARK, WITHIN
from flow_agent.storages.dockerfile import INSIDE
from flow_agent.storages.image_layout import RUNNER

if TYPE_CHECKING:
    from collections.abc import Callable

    from flow_agent.engine.client import Engine
    from flow_agent.engine.progress import Progress
    from flow_agent.errors import RegistrationError

BEGIN_WITHIN = 60.0
"""Seconds that a busy engine may take to start a container, beside what the flows take."""
_TIDYING = 40.0
_ALL_THE_SAME = "ignore_healthchecks=True stores it all the same"
_LINES = 40
"""Last lines of what was written that stand in an error."""
_OLD = re.compile(r"this is Python ([\d.]+), expected 3\.11 or newer")
"""What the runner's archive says to an interpreter that cannot run it."""
PROGRAMS = ("python3", "python")
"""What an interpreter may be called in an image, the first that there is."""


async def check(engine: Engine, image: str, count: int, progress: Progress) -> None:
    """Load each of the ``count`` flows in a container of ``image``.

    Raises RegistrationError: one cannot be loaded, or it cannot be told. EngineError.
    """
    from flow_agent.engine.containers import lacks_program
    from flow_agent.errors import EngineError, RegistrationError

    progress.say("loading each flow in the image")
    for program in PROGRAMS:
        try:
            output = await _output(engine, image, [program, f"{INSIDE}/{RUNNER}", "image"], count, progress)
        except EngineError as error:
            if not lacks_program(error):
                raise
            continue
        judge(output, progress.say)
        return
    raise RegistrationError(
        f"the image has no Python: there is neither {' nor '.join(PROGRAMS)} on its PATH",
        hint="expected an image with Python 3.11 or newer, such as python:3.12-slim",
    )


async def _output(engine: Engine, image: str, command: list[str], count: int, progress: Progress) -> str:
    """All that ``command`` writes in a container of ``image``, which is gone then."""
    import anyio

    from flow_agent.engine import once
    from flow_agent.errors import RegistrationError

    what = "looking into the image"
    with anyio.fail_after(_TIDYING, shield=True):  # else one that is being made would not be found
        container = await engine.call(what, partial(once.prepare, engine, image, command))
    try:
        with anyio.fail_after(BEGIN_WITHIN + count * WITHIN):
            return await engine.detached(what, partial(once.run, engine, container, progress))
    except TimeoutError:
        raise RegistrationError("the flows were not loaded in the image in time", hint=_ALL_THE_SAME) from None
    finally:
        with anyio.move_on_after(_TIDYING, shield=True):
            await engine.call(what, partial(once.gone, engine, container))


def judge(output: str, say: Callable[[str], None]) -> None:
    """Whether what the check wrote says that all flows were loaded.

    Raises RegistrationError: it does not.
    """
    from flow_agent.errors import RegistrationError

    said: list[dict[str, Any]] = []
    rest: list[str] = []
    for line in output.splitlines():
        if line.startswith(MARK):
            said.append(json.loads(line.removeprefix(MARK)))
        elif line.strip():
            rest.append(line)
    for each in said:
        if "error" in each:
            for line in each.get("traceback", "").splitlines():
                say(line)
            raise _unloadable(each, rest)
    if old := next(filter(None, map(_OLD.fullmatch, rest)), None):
        raise RegistrationError(
            f"the image has Python {old[1]}, expected 3.11 or newer",
            hint="take a newer base image, such as python:3.12-slim",
        )
    if not any(each.get("done") for each in said):
        raise RegistrationError(
            f"it could not be told whether the flows can be loaded in the image{_shown(rest)}",
            hint="the base image needs Python 3.11 or newer",
        )


def _unloadable(each: dict[str, Any], rest: list[str]) -> RegistrationError:
    from flow_agent.errors import RegistrationError

    hint = _ALL_THE_SAME
    if missing := each.get("missing"):
        hint = f"add what brings it to python_dependencies, or to the base image: python_dependencies=[{missing!r}]"
    return RegistrationError(
        f"flow {each['flow']!r} cannot be loaded in the image: {each['error']}{_shown(rest)}",
        hint=hint,
        traceback=each.get("traceback", ""),
    )


def _shown(lines: list[str]) -> str:
    return "; it wrote:" + "".join(f"\n  {line}" for line in lines[-_LINES:]) if lines else ""
