"""What stands in an attempt's output where an event belongs. Shared by the runner, which writes it, and the keeper."""

from __future__ import annotations

MARKER_END = b"\x1e\x00"


def marker_start(nonce: str) -> bytes:
    """What every marker of an attempt begins with."""
    return b"\x00\x1e" + nonce.encode()


def marker(nonce: str, seq: int) -> bytes:
    """What stands in the output where event number ``seq`` (eight hex digits) belongs; always of the same length."""
    return marker_start(nonce) + b"%08x" % seq + MARKER_END
