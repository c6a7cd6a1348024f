"""Takes secret values out of what leaves the machine, in each form that programs write them in, across chunk borders.

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

    raw = value.encode(errors="surrogatepass")
    texts = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    texts |= {text.replace("/", "\\/") for text in set(texts)}  # as some write JSON
    # As Python writes it, alone, in a list or in a traceback; what it quotes depends on the other quotes in it.
    texts |= {repr(value)[1:-1], ascii(value)[1:-1], repr(raw)[2:-1]}
    texts |= {text.replace("'", "\\'") for text in (repr(value)[1:-1],) if "\\'" not in text}
    urls = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    texts |= urls | {re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), url) for url in urls}
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        value = value.replace(old, new)
    texts |= {value, value.replace('"', "&quot;"), value.replace('"', "&quot;").replace("'", "&#x27;")}
    return {raw, *(text.encode(errors="surrogatepass") for text in texts)} | _base64_forms(raw)


_ACCESS = re.compile(
    r"\b(?:AccountKey|SharedAccessSignature|sig|Password|Pwd)\s*=\s*([^;&\s]+)|://[^/@\s:]*:([^@/\s]+)@", re.IGNORECASE
)
"""What is secret in a connection string or in an address with a login; the rest of it is an address."""


def _values(secret: str) -> set[str]:
    """The secret itself, its lines, the keys in it if it is a connection string, and the texts in it if it is JSON."""
    from urllib.parse import unquote  # noqa: PLC0415 - as above

    values = {secret, secret.strip(), *(line.strip() for line in secret.splitlines())}
    for found in _ACCESS.finditer(secret):
        values |= {found[1] or found[2], unquote(found[1] or found[2])}
    try:
        stack = [json.loads(secret)]
    except (ValueError, RecursionError):
        return values
    while stack:
        match stack.pop():
            case dict() as table:
                stack.extend(table.values())
            case list() as items:
                stack.extend(items)
            case bool() | None:
                continue
            case int() as number:
                values.add(str(number))
            case str() as text:
                values |= {text, *(line.strip() for line in text.splitlines())}
    return values


def forms_of(secret: str) -> tuple[bytes, ...]:
    """What of ``secret`` is taken out, in each form that it may have; nothing shorter than SHORTEST."""
    values = {value for value in _values(secret) if len(value) >= SHORTEST}
    return tuple({form for value in values for form in _forms(value) if len(form) >= SHORTEST})


class Redactor:
    """Replaces every form of ``secrets`` by a mask; those shorter than SHORTEST are left alone."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in forms_of(secret)}
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
        self._values: dict[str, tuple[bytes, ...]] = {}

    def add(self, value: str) -> None:
        """Remember ``value``."""
        if value in self._values:
            return
        self._values[value] = forms_of(value)
        if len(self._values) > self.MOST:
            del self._values[next(iter(self._values))]

    def text(self, text: str) -> str:
        """``text`` without them."""
        if not self._values:
            return text
        data = text.encode(errors="surrogatepass")
        # One pattern of them all would be faster here, and take seconds to make for each one that is added.
        found = {form for forms in self._values.values() for form in forms if form in data}
        for form in sorted(found, key=len, reverse=True):
            data = data.replace(form, MASK.encode())
        return data.decode(errors="replace") if found else text


known = Known()
"""Of this process: what is resolved is added, what is logged or written as a detail is cleaned."""
