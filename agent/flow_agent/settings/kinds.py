"""Kinds of settings that several share: how their text is read, and how they look as options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from flow_agent.errors import InvalidInput
from flow_agent.labels import checked


@dataclass(frozen=True)
class Option:
    """How a setting looks on the command line where ``--group-name`` is not what people would type.

    ``metavar`` is the unit or the kind of value. One that is ``secret`` is no option at all: others can read those.
    """

    names: tuple[str, ...] = ()
    metavar: str = ""
    secret: bool = False


def _split(value: object) -> object:
    """A variable holds a list as ``a,b``."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_pairs(value: object) -> object:
    """A variable holds a mapping as ``A=1,B=2``, the command line gives a list of ``A=1``."""
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        return value
    pairs = {}
    for part in parts:
        name, equals, text = str(part).partition("=")
        if not equals or not name.strip():
            # The part itself stays out of the message: its value may be a password.
            raise PydanticCustomError("pair", "expected NAME=VALUE, and one of them has no name or no '='")
        pairs[name.strip()] = text
    return pairs


def _checked_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    try:
        checked(labels)
    except InvalidInput as error:
        raise PydanticCustomError("label", "{message}", {"message": str(error)}) from error
    return tuple(dict.fromkeys(labels))


def absolute(path: Path) -> Path:
    """``path`` from the root on, ``~`` replaced by the folder of the user."""
    return path.expanduser().absolute()


Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Labels = Annotated[Words, AfterValidator(_checked_labels)]
Pairs = Annotated[dict[str, str], BeforeValidator(_split_pairs)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Option(metavar="SECONDS")]


def cores() -> int:
    """The cores that this process may use, which in a container or under taskset are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def relation(message: str, hint: str) -> PydanticCustomError:
    """The error of settings that do not fit each other, with the way out."""
    return PydanticCustomError("relation", "{message}", {"message": message, "hint": hint})
