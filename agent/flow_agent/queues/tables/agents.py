"""Agents in the database: few, and each a JSON document."""

# ruff: noqa: D102 - what the methods of a store do is said in store.Store

from __future__ import annotations

from collections.abc import Callable

from flow_agent.model import AgentInfo
from flow_agent.queues.tables.rows import agent_of, agent_text
from flow_agent.queues.tables.statements import Statements


class Agents(Statements):
    """The part of a store that keeps agents."""

    def agent(self, agent_id: str) -> AgentInfo | None:
        text = self._one("agent", id=agent_id)
        return agent_of(text) if text else None

    def agents(self, since: float) -> list[AgentInfo]:
        found = [agent_of(row["agent"]) for row in self._rows("agents", since=since)]
        return sorted(found, key=lambda agent: (agent.name, agent.id))

    def save_agent(self, agent: AgentInfo) -> None:
        self._run("save_agent", id=agent.id, seen_at=agent.seen_at, agent=agent_text(agent))

    def remove_agents(self, gone: Callable[[AgentInfo], bool]) -> None:
        for agent in self.agents(since=float("-inf")):
            if gone(agent):
                self._run("remove_agent", id=agent.id)
