"""Looks whether each flow of an image can be loaded in it, in a container as its runs have one."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from flow_agent.runner.image import MARK
from flow_agent.storages.dockerfile import INSIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from flow_agent.engine.client import Engine
    from flow_agent.engine.progress import Progress
    from flow_agent.errors import RegistrationError

WITHIN = 300.0
"""Seconds for loading all flows."""
_LINES = 40
"""Last lines of what was written that stand in an error."""
COMMAND = ["python3", f"{INSIDE}/runner.pyz", "image"]


async def check(engine: Engine, image: str, progress: Progress) -> None:
    """Load each flow in a container of ``image``.

    Raises RegistrationError: one cannot be loaded, or it cannot be told. EngineError.
    """
    import anyio

    from flow_agent.engine import images
    from flow_agent.errors import EngineError, RegistrationError

    progress.say("loading each flow in the image")
    run = partial(images.run, engine, image, COMMAND, {}, progress)
    try:
        with anyio.fail_after(WITHIN):
            output = await engine.detached("looking into the image", run)
    except TimeoutError:
        raise RegistrationError(
            f"the flows were not loaded in the image within {WITHIN:.0f} s",
            hint="what runs when a file is loaded must end; ignore_healthchecks=True stores them all the same",
        ) from None
    except EngineError as error:
        if error.status != 400:
            raise
        raise RegistrationError(
            f"no python3 could be started in the image: {error}",
            hint="the base image needs Python 3.11 or newer, as python3 on its PATH",
        ) from error
    judge(output, progress.say)


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
    if not any(each.get("done") for each in said):
        raise RegistrationError(
            f"it could not be told whether the flows can be loaded in the image{_shown(rest)}",
            hint="the base image needs Python 3.11 or newer, as python3 on its PATH",
        )


def _unloadable(each: dict[str, Any], rest: list[str]) -> RegistrationError:
    from flow_agent.errors import RegistrationError

    hint = "ignore_healthchecks=True stores it all the same"
    if missing := each.get("missing"):
        hint = f"add what brings it to python_dependencies, or to the base image: python_dependencies=[{missing!r}]"
    return RegistrationError(
        f"flow {each['flow']!r} cannot be loaded in the image: {each['error']}{_shown(rest)}",
        hint=hint,
        traceback=each.get("traceback", ""),
    )


def _shown(lines: list[str]) -> str:
    return "; it wrote:" + "".join(f"\n  {line}" for line in lines[-_LINES:]) if lines else ""
