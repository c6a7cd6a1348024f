"""Which agents there are, and how long ago each gave a sign of life, by the queue's own clock."""

from __future__ import annotations

from dataclasses import replace

from flow_agent.model import AgentInfo
from flow_agent.queues.rules import Moment
from flow_agent.queues.store import Store

REMEMBERED = 24 * 3600.0
"""Seconds for which an agent that shows no sign of life is listed."""


def announce(store: Store, agent: AgentInfo, moment: Moment) -> None:
    """See ``Queue.announce``."""
    known = store.agent(agent.id)
    if known and known.incarnation != agent.incarnation and known.started_at > agent.started_at:
        return  # a late word of one that has a successor already
    store.save_agent(replace(agent, seen_at=moment.now, silent=0.0))
    if known is None:
        forget_dead(store, moment.now)


def retire(store: Store, agent: AgentInfo) -> None:
    """See ``Queue.retire``."""
    store.remove_agents(lambda other: other.id == agent.id and other.incarnation == agent.incarnation)


def agents(store: Store, now: float) -> list[AgentInfo]:
    """See ``Queue.agents``."""
    return [replace(agent, silent=max(0.0, now - agent.seen_at)) for agent in store.agents(now - REMEMBERED)]


def dead(store: Store, now: float) -> int:
    """How many agents are still stored and listed no more."""
    return sum(agent.seen_at < now - REMEMBERED for agent in store.agents(float("-inf")))


def forget_dead(store: Store, now: float) -> None:
    """Remove the agents that are listed no more."""
    store.remove_agents(lambda agent: agent.seen_at < now - REMEMBERED)
