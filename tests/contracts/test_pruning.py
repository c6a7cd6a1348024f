"""Pruning while others go on: nothing that is needed goes, and nobody waits for long."""

import json
from contextlib import AsyncExitStack

import anyio
import psycopg
import pytest

from flow_agent.errors import NotFound
from flow_agent.model import Pruning, Submission
from flow_agent.queues import memory, postgres, pruning, sqlite
from flow_agent.queues.postgres import statements
from flow_agent.testing.queue_contract.common import SUCCEEDED, agent, lines, registration, running
from flow_agent.testing.queue_contract.pruning import ids, pruned
from servers.postgres import add_history

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "postgres"])
async def handles(request, tmp_path):
    """Three open queues on one database."""
    if request.param == "sqlite":
        opening, url = sqlite.open_queue, f"sqlite:{tmp_path}/queue.db"
    else:
        opening, url = postgres.open_queue, request.getfixturevalue("postgres_url")
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opening(url)) for _ in range(3)]


async def test_agents_go_on_while_two_prune(handles):
    at_work, *others = handles
    await at_work.register([registration()])
    first = await at_work.submit([Submission(flow="add", key=f"k{n}") for n in range(200)])
    ended, over = [], False

    async def work():
        nonlocal over
        while claims := await at_work.claim(agent(), 5, f"r{len(ended)}"):
            for claim in claims:
                await at_work.started(claim, "ref")
                await at_work.append_logs(claim, lines(1, 2))
                await at_work.finish(claim, SUCCEEDED)
                ended.append(claim.run.id)
        over = True

    gone = []

    async def prune(queue):
        while not over:
            gone.append((await pruned(queue)).runs)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            for queue in others:
                group.start_soon(prune, queue)
    gone.append((await pruned(at_work)).runs)
    assert sorted(ended) == [run.id for run in first]
    assert sum(gone) >= 200  # a page that two look at counts twice
    assert await ids(at_work) == []


async def test_a_registration_that_is_being_asked_for_stays(handles):
    """Else its run could not be claimed, and nothing behind it."""
    asking, pruner, _ = handles
    await asking.register([registration()])
    await asking.register([registration()])
    taken, over = 0, False

    async def ask():
        nonlocal taken, over
        try:
            for _ in range(150):
                try:
                    (run,) = await asking.submit([Submission(flow="add", version=1)])
                except NotFound:
                    return
                taken += 1
                assert (await asking.get(run.id)).version == 1
                (claim,) = await asking.claim(agent(), 1, f"r{taken}")
                assert claim.registration.version == 1
                await asking.finish(claim, SUCCEEDED)
        finally:
            over = True

    async def prune():
        while not over:
            await pruned(pruner)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(prune)
    assert await asking.claim(agent(), 9, "last") == []


async def test_what_came_to_be_used_after_the_look_stays(handles):
    """The look reads all runs, and so no transaction waits for it: what it found is asked again."""
    queue, other, _ = handles
    for _ in range(3):
        await queue.register([registration()])
    found = pruning.unused
    try:

        def looking(*what):
            answer = found(*what)
            anyio.from_thread.run(other.submit, [Submission(flow="add", version=2)])
            return answer

        pruning.unused = looking
        assert (await pruned(queue)).registrations == 1
    finally:
        pruning.unused = found
    with pytest.raises(NotFound):
        await queue.registration("add", 1)
    (claim,) = await queue.claim(agent(), 1, "r")
    assert claim.registration.version == 2


async def test_what_came_to_be_used_stays_also_where_the_last_run_of_the_look_is_gone(handles):
    """SQLite gives the number of the last run to the next one, once that has gone."""
    queue, other, _ = handles
    for _ in range(3):
        await queue.register([registration()])
    (last,) = await queue.submit([Submission(flow="add")])
    await queue.cancel(last.id)
    found = pruning.unused
    try:

        def looking(*what):
            answer = found(*what)
            anyio.from_thread.run(other._write, lambda store: store.remove_runs([last.id]))
            anyio.from_thread.run(other.submit, [Submission(flow="add", version=2)])
            return answer

        pruning.unused = looking
        assert (await pruned(queue, Pruning(keep_last=1))).registrations == 1
    finally:
        pruning.unused = found
    (claim,) = await queue.claim(agent(), 1, "r")
    assert claim.registration.version == 2


async def test_many_unused_versions_go_in_moments_whatever_has_run_lately(postgres_url):
    """Whoever removes them keeps all who submit waiting: the runs of the last hour are not read for each of them."""
    async with postgres.open_queue(postgres_url) as queue:
        await queue.register([registration()] * 1_001)
        await running(queue)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            add_history(connection, 50_000)
            (last,) = connection.execute("select max(serial) from runs").fetchone()
            asked = {"flows": '["add"]', "versions": "[1]", "since": last}
            text = f"explain (format json) {statements.SQL['remove_registrations']}"
            (plan,) = connection.execute(text, asked).fetchone()
        assert "runs_pkey" in json.dumps(plan)
        with anyio.fail_after(15):  # a look at the runs for each version takes a minute
            assert (await queue.prune(Pruning(), before=pruning.BEFORE_ALL)).registrations == 1_000


async def test_a_long_log_goes_in_several_steps(handles):
    queue = handles[0]
    claim = await running(queue)
    for start in range(1, 45_001, 5_000):
        await queue.append_logs(claim, lines(*range(start, start + 5_000)))
    await queue.finish(claim, SUCCEEDED)
    steps, before = [], None
    while True:
        step = await queue.prune(Pruning(), before=before)
        steps.append((step.runs, step.lines))
        if (before := step.next) is None:
            break
    assert steps == [(0, 20_000), (0, 20_000), (1, 5_000)]


@pytest.mark.parametrize("newest", ["ended", "waits"])
async def test_a_chain_of_retries_may_be_of_any_length(newest):
    async with memory.open_queue("memory:") as queue:
        await queue.register([registration()])
        last = None
        for number in range(3_000):
            (run,) = await queue.submit([Submission(flow="add", retry_of=last)])
            if number < 2_999 or newest == "ended":
                await queue.cancel(run.id)
            last = run.id
        expected = 3_000 if newest == "ended" else 0
        assert (await pruned(queue, dry_run=True)).runs == expected
        assert (await pruned(queue)).runs == expected
