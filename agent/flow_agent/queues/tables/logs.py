"""Log lines in the database."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

from collections.abc import Sequence

from flow_agent.model import LogLine
from flow_agent.queues.tables.statements import Statements


class Logs(Statements):
    """The part of a store that keeps log lines."""

    def add_logs(self, run_id: str, lines: Sequence[LogLine]) -> None:
        self._run_many("add_log", ({**vars(line), "run_id": run_id} for line in lines))

    def last_seq(self, run_id: str, attempt: int, source: str) -> int:
        return self._one("last_seq", run_id=run_id, attempt=attempt, source=source) or 0

    def logs(self, run_id: str, after: int, limit: int) -> list[LogLine]:
        rows = self._rows("logs", run_id=run_id, after=after, limit=max(0, limit))
        return [LogLine(**dict(row)) for row in rows]
