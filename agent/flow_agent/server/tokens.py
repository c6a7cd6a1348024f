"""Tokens: who may ask for what. Kept as hashes in one file, which a running server reads again when it changes.

A token is ``fa_ID_SECRET``, its secret 256 random bits, so that a plain hash of it tells nothing. A name may have
several tokens at a time: rotating is creating the next one, handing it out, and revoking the old one.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flow_agent.asked import LATEST
from flow_agent.errors import FlowAgentError, InvalidInput, NotFound
from flow_agent.wire import SCOPES

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TOKEN = re.compile(r"fa_(?P<id>[0-9a-f]{12})_(?P<secret>[\w-]{43})")


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is kept of a token. Times are seconds since the epoch; ``expires_at`` None is never."""

    id: str
    name: str
    scopes: tuple[str, ...]
    hash: str
    created_at: float
    expires_at: float | None = None

    def allows(self, scopes: Collection[str]) -> bool:
        """Whether it has one of them, or all by being an administrator's."""
        return "admin" in self.scopes or not set(scopes).isdisjoint(self.scopes)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the file holds: ``key`` is what proofs of claims are made with."""

    key: bytes
    tokens: tuple[Token, ...] = ()


class Tokens:
    """The file at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._content = Content(key=b"")

    def create(self, name: str, scopes: Collection[str], *, days: float | None = None) -> tuple[str, Token]:
        """A new token of ``name``, which is told only now, and what is kept of it.

        Raises InvalidInput: the name, a scope or the days cannot be.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} is no name of a token: expected 1 to 63 of a-z, 0-9, '.', '_' and '-'")
        if unknown := sorted(set(scopes) - set(SCOPES)):
            raise InvalidInput(f"there is no scope {unknown[0]!r}", hint=f"the scopes are {', '.join(SCOPES)}")
        if not scopes:
            raise InvalidInput("a token without a scope may do nothing", hint=f"give --scope: {', '.join(SCOPES)}")
        # The comparison is false for what is no number, too: such a token would be valid for ever, or never.
        if days is not None and not 0 < days <= (LATEST - time.time()) / 86_400:
            raise InvalidInput(
                f"a token cannot be valid for {days:g} days: expected more than 0, and an end before 9999-12-31",
                hint="leave --days out for one that is valid until it is revoked",
            )
        now, number, secret = time.time(), secrets.token_hex(6), secrets.token_urlsafe(32)
        kept = Token(
            id=number,
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            hash=_hash(secret),
            created_at=now,
            expires_at=None if days is None else now + days * 86_400,
        )
        with self._changing() as content:
            self._write(replace(content, tokens=(*content.tokens, kept)))
        return f"fa_{number}_{secret}", kept

    def revoke(self, token_id: str) -> Token:
        """Forget the token with that id; a running server does so within a second.

        Raises NotFound.
        """
        with self._changing() as content:
            found = next((token for token in content.tokens if token.id == token_id), None)
            if found is None:
                raise NotFound(f"no token has the id {token_id!r}", hint="`flow-agent tokens list` shows them")
            self._write(replace(content, tokens=tuple(token for token in content.tokens if token is not found)))
        return found

    def content(self) -> Content:
        """What the file holds now; it is read only when it has changed.

        Raises FlowAgentError: it cannot be read.
        """
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._content, self._seen = _parsed(self._path.read_text("utf-8")), seen
        except FileNotFoundError:
            return Content(key=b"")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlowAgentError(
                f"the file of tokens {self._path} cannot be read: {error}", hint="server.tokens names it"
            ) from error
        return self._content

    def known(self, text: str) -> Token | None:
        """The token that ``text`` is, unless it is none, was revoked or has expired."""
        match = _TOKEN.fullmatch(text)
        given = _hash(match["secret"]) if match else ""
        found = next((token for token in self.content().tokens if match and token.id == match["id"]), None)
        if found is None or not hmac.compare_digest(found.hash, given):
            return None
        return found if found.expires_at is None or found.expires_at > time.time() else None

    @contextmanager
    def _changing(self) -> Iterator[Content]:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FlowAgentError(
                f"the file of tokens {self._path} cannot be written: {error.strerror}", hint="server.tokens names it"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.content()
            yield content if content.key else Content(key=secrets.token_bytes(32))
        finally:
            os.close(lock)

    def _write(self, content: Content) -> None:
        text = json.dumps({"key": content.key.hex(), "tokens": [asdict(token) for token in content.tokens]}, indent=1)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _parsed(text: str) -> Content:
    data = json.loads(text)
    tokens = (Token(**{**each, "scopes": tuple(each["scopes"])}) for each in data["tokens"])
    return Content(key=bytes.fromhex(data["key"]), tokens=tuple(tokens))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
