"""Checks of what an author writes, and names made of it. Standard library only."""
# ruff: noqa: PLC0415 - every attempt imports this with its flow file: what only some need costs only them

from __future__ import annotations

import math
import re
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


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/@+:]{0,254}")
_VALUE = re.compile(r"(gh[pousr]_|github_pat_|glpat-|xox[a-z]-|ATATT|A[KS]IA[0-9A-Z]{16}|eyJ[\w-]{20})")
"""What the values of well-known tokens begin with: https://docs.github.com/en/code-security, for one."""


def secret_names(values: Iterable[str] | None, *, what: str) -> tuple[str, ...]:
    """``values``, each the name of a secret, without repetition.

    Raises TypeError, ValueError: one is no name. It is not shown: people give the value where the name belongs.
    """
    if isinstance(values, str):
        raise TypeError(f"{what}: expected a list of names, found a text")
    found = dict.fromkeys(values or ())
    for value in found:
        if not isinstance(value, str):
            raise TypeError(f"{what} is a {type(value).__name__}, expected text")
        if not _NAME.fullmatch(value) or _VALUE.match(value) or "://" in value:
            raise ValueError(
                f"{what} is a text of {len(value)} characters that is no name (it is not shown: it may be the value"
                " itself); expected the name of a secret, such as AWS_CREDENTIALS: letters, digits and _ . - / @ + :;"
                " `flow-agent secrets set NAME` keeps a value under a name"
            )
    return tuple(found)


def secret_name(value: str | None, *, what: str) -> str | None:
    """``value``, the name of a secret, or None.

    Raises TypeError, ValueError: as ``secret_names``.
    """
    return None if value is None else secret_names([value], what=what)[0]


_CREDENTIAL_WORDS = {
    *("TOKEN", "TOKENS", "PASSWORD", "PASSWD", "PASSPHRASE", "PWD", "SECRET", "SECRETS"),
    *("KEY", "KEYS", "APIKEY", "CREDENTIAL", "CREDENTIALS"),
}
_HARMLESS_ENDS = {"FILE", "PATH", "DIR", "NAME", "URL", "TYPE", "SIZE"}
"""A variable that says where a credential lies is none itself."""

_CREDENTIAL_VALUES = re.compile(
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|AccountKey=|SharedAccessSignature="
    r"|\w://[^/\s:@]*:[^/\s@]+@"
)


def credential_like(name: str, value: str) -> bool:
    """Whether the variable ``name`` with ``value`` looks like a credential: only a guess, good for a warning."""
    words = name.upper().split("_")
    named = bool(_CREDENTIAL_WORDS.intersection(words)) and words[-1] not in _HARMLESS_ENDS
    return (named and len(value) >= 6) or credential_in(value)


def credential_in(text: str) -> bool:
    """Whether ``text`` holds what the tokens of well-known services and URLs with passwords look like."""
    return _CREDENTIAL_VALUES.search(text) is not None
