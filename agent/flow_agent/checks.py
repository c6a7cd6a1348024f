"""Checks of what an author writes, and names made of it. Standard library only."""
# ruff: noqa: PLC0415 - most flow files need none of what is imported below

from __future__ import annotations

import math
from collections.abc import Iterable

LONGEST = 255
"""Characters of a flow's name or a label."""


def texts(values: Iterable[str] | None, *, what: str, longest: int | None = LONGEST) -> tuple[str, ...]:
    """``values`` without repetition, in their order.

    Raises TypeError, ValueError: one is no text, is empty or too long, or has white space at its ends or control
    characters in it.
    """
    if isinstance(values, str):
        raise TypeError(f"{what} is the text {values!r}, expected a list: [{values!r}]")
    found = dict.fromkeys(values or ())
    for value in found:
        if not isinstance(value, str):
            raise TypeError(f"{what} is {value!r} ({type(value).__name__}), expected text")
        if not value or value != value.strip() or (longest and len(value) > longest) or not _clean(value):
            raise ValueError(
                f"{what} is {value!r}, expected {f'1 to {longest}' if longest else 'at least 1'} characters"
                " without control characters, or white space at either end"
            )
    return tuple(found)


def _clean(text: str) -> bool:
    """No control character, lone surrogate or line separator; what joins emoji is allowed."""
    if text.isprintable():
        return True
    from unicodedata import category

    return not any(category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text)


def slug(name: str) -> str:
    """``name`` as it stands in paths and keys: lowercase ASCII words, 1 to 80 characters, never empty."""
    from slugify import slugify

    found = slugify(name, max_length=80)
    if found:
        return str(found)
    from hashlib import sha256

    return f"flow-{sha256(name.encode()).hexdigest()[:8]}"


def seconds(value: float, what: str, *, zero: bool) -> float:
    """``value`` as a finite number of seconds; 0 only where ``zero``.

    Raises TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is {value!r}, expected a number of seconds")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{what} is {value!r}, expected {'0 or more' if zero else 'more than 0'} seconds")
    return float(value)
