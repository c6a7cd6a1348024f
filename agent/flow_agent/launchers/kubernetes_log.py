"""Reads the output of one pod, however often that is cut off: nothing twice, and what is lost is seen to be lost."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from flow_agent.cluster.client import Cluster
from flow_agent.errors import ClusterError
from flow_agent.launchers.kubernetes_job import CONTAINER
from flow_agent.launchers.lines import Lines
from flow_agent.launchers.marked_log import MarkedLog
from flow_agent.ports import Sink

QUIET = 240.0
"""Seconds of silence after which a stream is opened anew: nothing tells one that is dead from one that is quiet."""
BEFORE = 2.0
"""Seconds before the last line from which a new stream begins: servers count them whole, and clocks are two."""
NOTHING_YET = 400
"""What a server answers of a container that never began."""


class PodLog(MarkedLog):
    """Of the attempt ``attempt`` of ``ref``, whose lines up to ``after`` were handed over before."""

    def __init__(self, cluster: Cluster, ref: str, nonce: str, *, attempt: int, after: int) -> None:
        super().__init__(ref, nonce, attempt=attempt, after=after)
        self._cluster = cluster

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
                    await self.take(lines.feed(piece), sink)
                    if self.over:
                        return
        except ClusterError as error:
            if not error.missing and error.status != NOTHING_YET:
                raise
        await self.take(lines.feed(b"\n"), sink)  # what has no end will get none

    def last_words(self, text: str) -> None:
        """Take the termination message, where the output could not be read to its end."""
        marked = self._mark.read(text.strip().encode())
        if marked is not None and not self.over:
            self.exit, self.failed = marked[1].get("exit"), marked[1].get("failed")
