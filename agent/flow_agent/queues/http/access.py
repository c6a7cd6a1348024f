"""The token with which a client shows who it is. It stands in no URL, no argument, no log and no error."""

from __future__ import annotations

from pathlib import Path

from flow_agent.errors import InvalidInput
from flow_agent.redact import known


class Access:
    """A token that was given, or the content of a file, which may change while the program runs."""

    def __init__(self, *, token: str | None = None, file: str | Path | None = None) -> None:
        self._file = Path(file) if file else None
        self._taken = False
        self._token = self._checked(token, "the queue's token") if token else ""
        if self._file is not None and not self._token:
            self._token = self._read(self._file)

    @property
    def token(self) -> str:
        """What a request shows now; empty: nothing."""
        return self._token

    @property
    def waits(self) -> bool:
        """Whether a refusal may pass: a token of the file was taken before, and whoever revokes it will put another
        one there."""
        return self._file is not None and self._taken

    def taken(self) -> None:
        """A token was taken."""
        self._taken = True

    def renewed(self, refused: str) -> bool:
        """Whether there is another token than the one that was ``refused``: the file may hold a new one."""
        if self._file is None:
            return False
        try:
            self._token = self._read(self._file)
        except InvalidInput:
            if not self._taken:
                raise
            return False  # it is being written just now
        return self._token != refused

    @classmethod
    def _read(cls, file: Path) -> str:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidInput(f"the file of the queue's token, {file}, cannot be read: {why}") from None
        return cls._checked(text, f"the token in {file}")

    @staticmethod
    def _checked(text: str, what: str) -> str:
        token = text.strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidInput(
                f"{what} is none: expected one word of ASCII",
                hint="`flow-agent tokens create` on the server prints one",
            )
        known.add(token)
        return token
