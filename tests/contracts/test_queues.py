"""Every queue keeps the contract."""

from functools import partial

import pytest

from flow_agent.queues import http, memory, postgres, sqlite
from flow_agent.server.serve import Options, served
from flow_agent.server.tokens import Tokens
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


class TestPostgresQueue(QueueContract):
    @pytest.fixture
    def open_again(self, clock, postgres_url):
        return partial(postgres.open_queue, postgres_url, clock=clock)


class TestHttpQueueOverSqlite(QueueContract):
    """By a real server on a real socket, with the tokens' checks; only its clock is the test's."""

    @pytest.fixture
    async def open_again(self, clock, tmp_path):
        tokens = Tokens(tmp_path / "tokens.json")
        token, _ = tokens.create("all", ["admin"])
        async with (
            sqlite.open_queue(f"sqlite:{tmp_path}/home/queue.db", clock=clock) as behind,
            served(behind, Options(listen="127.0.0.1:0", tokens=tokens)) as url,
        ):
            yield partial(http.open_queue, url, options={"token": token})


class TestHttpQueueOverPostgres(QueueContract):
    @pytest.fixture
    async def open_again(self, clock, postgres_url):
        async with (
            postgres.open_queue(postgres_url, clock=clock) as behind,
            served(behind, Options(listen="127.0.0.1:0", tokens=None)) as url,
        ):
            yield partial(http.open_queue, url)


class TestHttpQueueOverMemory(QueueContract):
    @pytest.fixture
    async def open_again(self, clock):
        async with (
            memory.open_queue("memory:", clock=clock) as behind,
            served(behind, Options(listen="127.0.0.1:0", tokens=None)) as url,
        ):
            yield partial(http.open_queue, url)
