"""Removing what is not needed any more, step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from flow_agent.errors import InvalidInput
from flow_agent.model import Pruned, Pruning
from flow_agent.ports import Queue

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def parse_age(text: str) -> float:
    """Seconds: a number with ``s``, ``m``, ``h``, ``d`` or ``w`` behind it.

    Raises InvalidInput: it is none.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is no time span", hint="expected a number and a unit, as 90s, 30m, 12h, 30d, 8w")
    return float(match[1]) * _UNITS[match[2]]


async def prune(
    queue: Queue, rule: Pruning, *, dry_run: bool, told: Callable[[Pruned], None] = lambda _: None
) -> Pruned:
    """What all steps removed together; ``told`` hears after each what it has been so far."""
    total, before = Pruned(), None
    while True:
        step = await queue.prune(rule, before=before, dry_run=dry_run)
        total = replace(
            total,
            runs=total.runs + step.runs,
            lines=total.lines + step.lines,
            registrations=total.registrations + step.registrations,
            agents=total.agents + step.agents,
        )
        told(total)
        if step.next is None:
            return total
        before = step.next
