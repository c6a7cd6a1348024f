"""The queue on PostgreSQL through pgbouncer in transaction mode."""

import time
from collections import Counter
from contextlib import AsyncExitStack

import anyio
import pytest

from flow_agent import events
from flow_agent.model import Limit, State, Submission
from flow_agent.queues import postgres
from flow_agent.testing.queue_contract.common import SUCCEEDED, agent, lines, registration, submitted

pytestmark = pytest.mark.anyio


@pytest.fixture
async def handles(pooled_url):
    """Six open queues: more connections than the pooler has to the server."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(postgres.open_queue(pooled_url)) for _ in range(6)]


async def test_many_agents_share_few_connections_and_no_statement_is_another_ones(handles):
    """Prepared statements of two clients have the same names, and the server's connection would know only one."""
    await handles[0].register([registration()])
    await handles[0].set_limit(Limit(kind="label", name="gpu", slots=2))
    labelled = Submission(flow="add", labels=frozenset({"gpu"}))
    runs = await handles[0].submit([Submission(flow="add"), labelled] * 60)
    won_by = Counter()

    async def work(queue, name):
        who = agent(name, labels=frozenset({"gpu"}))
        await queue.announce(who)
        while len(won_by) < len(runs):
            for claim in await queue.claim(who, 4, f"{name}-{time.monotonic_ns()}"):
                won_by[claim.run.id] += 1
                await queue.started(claim, f"ref {name}")
                await queue.append_logs(claim, lines(1, 2))
                await queue.extend(who, [claim])
                assert (await queue.finish(claim, SUCCEEDED)).id == claim.run.id
                assert [line.seq for line in await queue.logs(claim.run.id)] == [1, 2]
                assert [each.claim for each in await queue.attempts(claim.run.id)] == [1]
                assert (await queue.get(claim.run.id)).ref == f"ref {name}"

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for number, queue in enumerate(handles):
                group.start_soon(work, queue, f"agent-{number}")
    assert set(won_by.values()) == {1}
    assert {run.state for run in await handles[0].runs(limit=1000)} == {State.SUCCEEDED}
    assert len(await handles[0].agents()) == len(handles)


async def test_nothing_is_kept_prepared_from_the_first_statement_on(handles):
    queue = handles[0]
    await submitted(queue)
    await queue.runs()
    sessions = [queue._writer._session, *queue._reader._idle]
    assert [session.connection.prepare_threshold for session in sessions] == [None] * len(sessions)


async def test_who_hears_nothing_says_so_once_and_looks_from_time_to_time(handles, monkeypatch):
    told = []
    monkeypatch.setattr(events, "queue_deaf", told.append)
    queue, other, *_ = handles
    await submitted(queue)
    with anyio.fail_after(30):
        await queue.wait(60)  # the first one looks at once
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(queue.wait, 0.3)
            group.start_soon(queue.wait, 0.3)
            await submitted(other)
    assert time.monotonic() - began >= 0.3
    assert len(told) == 1
    assert len(await queue.claim(agent(), 9, "r")) == 2


async def test_a_server_without_a_pooler_is_heard_and_prepares(postgres_url, monkeypatch):
    told = []
    monkeypatch.setattr(events, "queue_deaf", told.append)
    async with postgres.open_queue(postgres_url) as queue:
        await submitted(queue)
        await queue.wait(60)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(queue.wait, 60)
                await anyio.wait_all_tasks_blocked()
                await submitted(queue)
        assert queue._writer._session.connection.prepare_threshold is not None
    assert told == []
