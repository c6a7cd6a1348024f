"""What is computed from what was measured: quantiles, medians, ratios, and whether a budget is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest of ``values`` that is not smaller than a share ``q`` (0 to 1) of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one of ``values``; the lower of the two in the middle."""
    return quantile(values, 0.5)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times theirs ours is: the median over the rounds, each divided by its own neighbour.

    Both lists are in the order of the rounds. A machine that is busy for one round is busy for both of that round.
    """
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def rate(starts: Sequence[float], ends: Sequence[float]) -> float:
    """Things that ended in a second, from the first start to the last end (seconds since any one moment)."""
    return len(ends) / (max(ends) - min(starts))


@dataclass(frozen=True)
class Budget:
    """What a figure may be: at most ``limit``, or at least if ``least``; both in ``unit``."""

    what: str
    found: float
    limit: float
    unit: str
    least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the figure is within it."""
        return self.found >= self.limit if self.least else self.found <= self.limit

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"{'>=' if self.least else '<='} {self.limit:g} {self.unit}".rstrip()
