"""Lines out of chunks that end anywhere."""

from __future__ import annotations


class Lines:
    """Takes chunks and gives whole lines. A line of many chunks is put together once, not at each of them."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their ends."""
        first, *others = chunk.split(b"\n")
        self._pieces.append(first)
        if not others:
            return []
        lines = [b"".join(self._pieces), *others[:-1]]
        self._pieces = others[-1:]
        return lines
