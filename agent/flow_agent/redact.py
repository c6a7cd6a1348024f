"""Takes secret values out of what leaves the machine: raw, JSON-escaped, URL-encoded and base64, across chunk borders.

Standard library only: the keeper uses it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

SHORTEST = 6
"""Characters; a shorter secret would blank half of a log."""

MASK = "[redacted]"


def _base64_forms(value: bytes) -> set[bytes]:
    """What is certain of ``value`` in base64, at each of the three places it may have in a longer text."""
    import base64  # noqa: PLC0415 - most attempts have no secret, and every keeper pays for imports at the top

    forms = set()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value)
        first = -(-shift * 8 // 6)
        last = (shift + len(value)) * 8 // 6
        forms.add(encoded[first:last])
        forms.add(encoded[first:last].replace(b"+", b"-").replace(b"/", b"_"))
    return forms


def _forms(value: str) -> set[bytes]:
    from urllib.parse import quote, quote_plus  # noqa: PLC0415 - as above

    raw = value.encode()
    forms = {raw, json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode()}
    forms |= {quote(value, safe="").encode(), quote(value).encode(), quote_plus(value).encode()}
    forms |= {form.replace(b"%2f", b"%2F") for form in set(forms)}
    forms |= _base64_forms(raw)
    return forms


_ACCESS = re.compile(r"(?:AccountKey|SharedAccessSignature|sig|Password|Pwd)=([^;&]+)", re.IGNORECASE)
"""What is secret in a connection string; the rest of it is an address."""


def _values(secret: str) -> set[str]:
    """The secret itself, its lines, the keys in it if it is a connection string, and the texts in it if it is JSON."""
    values = {secret, secret.strip(), *(line.strip() for line in secret.splitlines()), *_ACCESS.findall(secret)}
    try:
        stack = [json.loads(secret)]
    except ValueError:
        return values
    while stack:
        match stack.pop():
            case dict() as table:
                stack.extend(table.values())
            case list() as items:
                stack.extend(items)
            case str() as text:
                values |= {text, *(line.strip() for line in text.splitlines())}
    return values


class Redactor:
    """Replaces every form of ``secrets`` by a mask; those shorter than SHORTEST are left alone."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {v for secret in secrets for v in _values(secret) if len(v) >= SHORTEST}
        forms = {form for value in values for form in _forms(value) if len(form) >= SHORTEST}
        self._forms = sorted(forms, key=len, reverse=True)
        self._longest = max(map(len, forms), default=0)
        self._pattern = re.compile(b"|".join(map(re.escape, self._forms))) if forms else None
        self._starts = (
            re.compile(b"[" + b"".join(map(re.escape, {form[:1] for form in forms})) + b"]") if forms else None
        )

    def clean(self, data: bytes) -> bytes:
        """``data`` without the secrets."""
        return self._pattern.sub(MASK.encode(), data) if self._pattern else data

    def text(self, text: str) -> str:
        """``text`` without the secrets."""
        return self.clean(text.encode(errors="surrogateescape")).decode(errors="replace") if self._pattern else text

    def value(self, value: object) -> object:
        """A JSON value with every text in it cleaned, keys too."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(item) for item in value]
            case dict():
                return {self.text(str(key)): self.value(item) for key, item in value.items()}
            case _:
                return value

    def settled(self, data: bytes) -> tuple[bytes, bytes]:
        """``data``, cleaned, as far as what follows cannot change it, and the rest as it is.

        A whole secret that a longer one begins with is not settled yet either.
        """
        if self._pattern is None:
            return data, b""
        end = len(data) - self._held_back(data)
        for match in self._pattern.finditer(data):
            if match.start() >= end:
                break
            end = max(end, match.end())
        return self.clean(data[:end]), data[end:]

    def _held_back(self, data: bytes) -> int:
        """How many bytes at the end of ``data`` could be the beginning of a secret."""
        if self._starts is None:
            return 0
        for start in self._starts.finditer(data, max(0, len(data) - self._longest + 1)):
            end = data[start.start() :]
            if any(form.startswith(end) for form in self._forms):
                return len(end)
        return 0


class Stream:
    """Cleans a stream of chunks; what could be the beginning of a secret waits for the next chunk."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can be shown after ``chunk`` came."""
        shown, self._rest = self._redactor.settled(self._rest + chunk)
        return shown

    def close(self) -> bytes:
        """What was still held back."""
        rest, self._rest = self._rest, b""
        return self._redactor.clean(rest)


class Known:
    """The secrets that this program has served, newest MOST of them, to keep them out of what it says itself."""

    MOST = 1_000

    def __init__(self) -> None:
        self._values: dict[str, None] = {}
        self._redactor = Redactor(())

    def add(self, value: str) -> None:
        """Remember ``value``."""
        if value in self._values:
            return
        self._values[value] = None
        if len(self._values) > self.MOST:
            del self._values[next(iter(self._values))]
        self._redactor = Redactor(self._values)

    def text(self, text: str) -> str:
        """``text`` without them."""
        return self._redactor.text(text)


known = Known()
"""Of this process: what is resolved is added, what is logged or written as a detail is cleaned."""
