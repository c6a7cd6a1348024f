"""Reads the output of one pod, however often that is cut off: nothing twice, and what is lost is seen to be lost."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flow_agent import events
from flow_agent.cluster.client import Cluster
from flow_agent.errors import ClusterError
from flow_agent.launchers.handed import Mark, log_line
from flow_agent.launchers.kubernetes_job import CONTAINER
from flow_agent.launchers.lines import Lines
from flow_agent.model import LogLine
from flow_agent.ports import Sink
from flow_agent.redact import known

QUIET = 240.0
"""Seconds of silence after which a stream is opened anew: nothing tells one that is dead from one that is quiet."""
BEFORE = 2.0
"""Seconds before the last line from which a new stream begins: servers count them whole, and clocks are two."""
NOTHING_YET = 400
"""What a server answers of a container that never began."""
TAIL, SAID = 12, 5
"""Lines that are kept for the detail of a bad end: of the flow, and of whatever else spoke."""


class PodLog:
    """Of the attempt ``attempt`` of ``ref``, whose lines up to ``after`` were handed over before."""

    def __init__(self, cluster: Cluster, ref: str, nonce: str, *, attempt: int, after: int) -> None:
        self._cluster, self._ref, self._mark = cluster, ref, Mark(nonce)
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

    async def read(self, namespace: str, pod: str, sink: Sink, *, follow: bool) -> None:
        """Hand over what is new; with ``follow`` until the stream ends, the last word has come, or this is cancelled.

        Raises ClusterError: the stream failed; the next one goes on where it did. A pod that is gone has none.
        """
        query: dict[str, Any] = {"container": CONTAINER}
        if follow:
            query["follow"] = "true"
        if self._since is not None:
            since = math.floor(self._since - BEFORE)
            query["sinceTime"] = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path, lines = f"/api/v1/namespaces/{namespace}/pods/{pod}/log", Lines()
        self._said.clear()
        try:
            what = f"the output of pod {pod}"
            async with self._cluster.lines(path, what, query=query, quiet=QUIET) as pieces:
                async for piece in pieces:
                    await self._take(lines.feed(piece), sink)
                    if self.over:
                        return
        except ClusterError as error:
            if not error.missing and error.status != NOTHING_YET:
                raise
        await self._take(lines.feed(b"\n"), sink)  # what has no end will get none

    async def _take(self, lines: list[bytes], sink: Sink) -> None:
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
        text = f"{missing} lines are missing here: the node of the pod dropped them before they could be read"
        gap = LogLine(
            attempt=self._attempt,
            source="flow",
            seq=first,
            time=line.time,
            text=text,
            level="WARNING",
            logger="flow_agent.launcher",
        )
        return [gap, line]

    def last_words(self, text: str) -> None:
        """Take the termination message, where the output could not be read to its end."""
        marked = self._mark.read(text.strip().encode())
        if marked is not None and not self.over:
            self.exit, self.failed = marked[1].get("exit"), marked[1].get("failed")
