"""The jobs that RQ runs."""

from __future__ import annotations

import time


def first_line() -> float:
    return time.time()


def nothing() -> None:
    return None
