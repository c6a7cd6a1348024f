"""What must be the same for two attempts to come from one warm process."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import flow_agent
from flow_agent.launchers.attempt import MARK, MARK_LENGTH

READ_AT_START = ("PYTHON", "LD_", "LC_", "MALLOC_")
"""Beginnings of variables that an interpreter, or what starts it, reads once."""
NAMES_READ_AT_START = frozenset({"LANG", "LANGUAGE", "GLIBC_TUNABLES"})

PACKAGES = str(Path(flow_agent.__file__).parent.parent)
_BARE = (
    # A bare package in the place of ours: what authors import from it would cost every keeper 15 ms.
    f"import sys; package = type(sys)('flow_agent'); package.__path__ = [{PACKAGES + '/flow_agent'!r}];"
    " sys.modules['flow_agent'] = package; "
)
KEEP = f"{_BARE}from flow_agent.launchers.keeper import main; main()"
# The daemon's own flow-agent, wherever that was found; the rest of the path stays as it is.
_OURS = f"import sys; sys.path.insert(0, {PACKAGES!r}); import flow_agent; del sys.path[0]; "
RUN = f"{_OURS}from flow_agent.runner.main import main; sys.exit(main(sys.argv[1]))"
WARM = f"{_OURS}from flow_agent.launchers.zygote import main; main(*sys.argv[1:])"


@dataclass(frozen=True)
class Environment:
    """An interpreter (None: the daemon's own) with the ``variables`` that it is started with."""

    interpreter: str | None = None
    variables: tuple[tuple[str, str], ...] = ()

    def runner(self, archive: Path | None, kind: str) -> list[str]:
        """The command of one attempt as a program of its own; ``kind`` is what it shall get ready for."""
        if self.interpreter is None:
            return [sys.executable, "-P", "-c", RUN, kind]
        return [self.interpreter, "-P", str(archive), kind]

    def zygote(self, archive: Path | None, preload: Collection[str]) -> list[str]:
        """The command of a zygote."""
        if self.interpreter is None:
            return [sys.executable, "-P", "-c", WARM, *preload]
        return [self.interpreter, "-P", str(archive), "zygote", *preload]

    @property
    def env(self) -> dict[str, str]:
        """The variables, with room for the mark of an attempt."""
        return {**dict(self.variables), MARK: "-" * MARK_LENGTH}

    def __str__(self) -> str:
        return self.interpreter or sys.executable


def environment(interpreter: str | None, env: Mapping[str, str], secret: Collection[str] = ()) -> Environment:
    """The environment of an attempt with the variables ``env``; a secret's value is in none."""
    read = {
        name: value
        for name, value in env.items()
        if (name.startswith(READ_AT_START) or name in NAMES_READ_AT_START) and value not in secret
    }
    return Environment(interpreter, tuple(sorted(read.items())))


def can_fork() -> bool:
    """Whether there can be zygotes on this machine."""
    return sys.platform == "linux" and hasattr(os, "fork")
