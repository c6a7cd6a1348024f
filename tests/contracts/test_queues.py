"""Every queue keeps the contract."""

from functools import partial

import pytest

from flow_agent.queues import memory, sqlite
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract import QueueContract


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def queue(open_again):
    async with open_again() as queue:
        yield queue


class TestMemoryQueue(QueueContract):
    @pytest.fixture
    def open_again(self, clock, request):
        return partial(memory.open_queue, f"memory:{request.node.nodeid}", clock=clock)


class TestSqliteQueue(QueueContract):
    @pytest.fixture
    def open_again(self, clock, tmp_path):
        return partial(sqlite.open_queue, f"sqlite:{tmp_path}/home/queue.db", clock=clock)
