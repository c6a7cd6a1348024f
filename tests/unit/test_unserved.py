"""Who is told of runs that nobody may take, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace

import anyio
import pytest

from flow_agent import events
from flow_agent.model import AgentInfo, Submission, Waiting
from flow_agent.ports import Queue
from flow_agent.queues import memory
from flow_agent.testing.queue_contract.common import registration
from flow_agent.unserved import PAUSE, unserved, watch_unserved
from virtual import LoopClock, VirtualLoop

GPU = Waiting(labels=frozenset({"gpu"}), launcher=None, queued=3)
ONE = AgentInfo(id="1", name="one", incarnation="i", labels=frozenset({"eu"}))


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualLoop}


@dataclass(frozen=True)
class Sight:
    queue: Queue


def test_what_some_agent_may_take_is_served_unless_it_drains():
    able = replace(ONE, labels=frozenset({"gpu", "eu"}))

    assert unserved([GPU], [ONE]) == [GPU]
    assert unserved([GPU], [ONE, able]) == []
    assert unserved([GPU], [replace(able, draining=True)]) == [GPU]
    assert unserved([replace(GPU, launcher="docker")], [able]) != []


@pytest.mark.anyio
async def test_it_is_told_once_by_one_agent_and_again_when_it_comes_back(monkeypatch):
    told: list[Waiting] = []
    monkeypatch.setattr(events, "runs_unserved", told.append)
    clock = LoopClock()
    async with memory.open_queue("memory:", clock=clock) as queue, anyio.create_task_group() as tasks:
        await queue.register([registration("on-gpu", labels=("gpu",))])
        (run,) = await queue.submit([Submission(flow="on-gpu")])
        other = replace(ONE, id="2", name="two")
        await queue.announce(ONE)
        await queue.announce(other)
        for agent in (ONE, other):
            tasks.start_soon(watch_unserved, Sight(queue), agent.id, 1e9)
        await anyio.sleep(3.5 * PAUSE)
        assert [each.queued for each in told] == [1]
        await queue.cancel(run.id)
        await anyio.sleep(PAUSE)
        await queue.submit([Submission(flow="on-gpu")])
        await anyio.sleep(PAUSE)
        assert len(told) == 2
        tasks.cancel_scope.cancel()
