"""What an attempt elsewhere tells in its output: nothing twice, and what is lost is seen to be lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from flow_agent import events
from flow_agent.launchers.handed import Mark, log_line
from flow_agent.model import LogLine
from flow_agent.ports import Sink
from flow_agent.redact import known

TAIL, SAID = 12, 5
"""Lines that are kept for the detail of a bad end: of the flow, and of whatever else spoke."""


class MarkedLog:
    """Of the attempt ``attempt`` of ``ref``, whose lines up to ``after`` were handed over before."""

    def __init__(self, ref: str, nonce: str, *, attempt: int, after: int) -> None:
        self._ref, self._mark = ref, Mark(nonce)
        self._attempt, self._seq = attempt, after
        self._number = 0
        self._since: float | None = None
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._said: deque[str] = deque(maxlen=SAID)
        self.exit: Mapping[str, Any] | None = None
        """How the attempt ended, by its own word."""
        self.failed: Mapping[str, Any] | None = None
        """Why the flow never began, by the word of what prepared it."""

    @property
    def over(self) -> bool:
        """Whether the last word was read."""
        return self.exit is not None or self.failed is not None

    @property
    def tail(self) -> str:
        """The last lines of the flow, at most 2,000 characters."""
        return "\n".join(self._tail)[-2000:]

    @property
    def said(self) -> str:
        """The last of what others wrote: an interpreter that could not start, for one."""
        return known.text(" / ".join(self._said))[-1000:]

    def is_torn(self, line: bytes) -> bool:
        """Whether ``line`` begins as one of the attempt's own and is not whole."""
        return self._mark.is_torn(line)

    async def take(self, lines: Sequence[bytes], sink: Sink) -> None:
        """Hand over what is new in ``lines``."""
        found: list[LogLine] = []
        for line in lines:
            if (marked := self._mark.read(line)) is None:
                if text := line.decode(errors="replace").strip():
                    self._said.append(text)
                continue
            number, message = marked
            if number <= self._number:
                continue
            self._number = number
            if "log" in message:
                found += self._lines(log_line(message, self._attempt))
            elif "exit" in message:
                self.exit = message["exit"]
            elif "failed" in message:
                self.failed = message["failed"]
        if found:
            await sink(found)

    async def miss(self, why: str, sink: Sink) -> None:
        """Say that the last lines are missing, where they would stand, and in the tail."""
        self._seq += 1
        text = known.text(f"lines are missing here: {why}")
        self._tail.append(text)
        self._said.append(text)
        await sink([self._note(self._seq, time.time(), text)])

    def _lines(self, line: LogLine) -> list[LogLine]:
        self._since = line.time
        if not line.level:
            self._tail.append(line.text)
        if line.seq <= self._seq:
            return []
        missing, first = line.seq - self._seq - 1, self._seq + 1
        self._seq = line.seq
        if not missing:
            return [line]
        events.lines_lost(self._ref, missing)
        text = f"{missing} lines are missing here: they were dropped where it ran before they could be read"
        return [self._note(first, line.time, text), line]

    def _note(self, seq: int, when: float, text: str) -> LogLine:
        return LogLine(
            attempt=self._attempt,
            source="flow",
            seq=seq,
            time=when,
            text=text,
            level="WARNING",
            logger="flow_agent.launcher",
        )
