"""What limits cost in a database."""

import pytest

from flow_agent.model import Full, Limit, Submission
from flow_agent.queues import postgres, sqlite
from flow_agent.queues.postgres.statements import PostgresStatements
from flow_agent.queues.sqlite.statements import SqliteStatements
from flow_agent.testing.queue_contract.common import agent, registration

pytestmark = pytest.mark.anyio

SETS = 60


@pytest.fixture(params=["sqlite", "postgres"])
async def queue(request, tmp_path):
    if request.param == "sqlite":
        opening, url = sqlite.open_queue, f"sqlite:{tmp_path}/queue.db"
    else:
        opening, url = postgres.open_queue, request.getfixturevalue("postgres_url")
    async with opening(url) as queue:
        yield queue


async def test_a_limit_costs_a_few_statements_however_many_requirement_sets_it_covers(queue, monkeypatch):
    asked = []
    for kind in (SqliteStatements, PostgresStatements):

        def rows(self, name, *, given=kind._rows, **parameters):
            asked.append(name)
            return given(self, name, **parameters)

        monkeypatch.setattr(kind, "_rows", rows)
    await queue.register([registration()])
    await queue.submit([Submission(flow="add", labels=frozenset({"gpu", f"tenant-{n}"})) for n in range(SETS)])
    await queue.set_limit(Limit(kind="label", name="gpu", slots=2, when_full=Full.SKIP))
    labels = frozenset({"gpu", *(f"tenant-{n}" for n in range(2))})
    assert len(await queue.claim(agent(labels=labels), 1, "r1")) == 1
    asked.clear()
    assert len(await queue.claim(agent(labels=labels), 5, "r2")) == 1
    (limit,) = await queue.limits()
    assert limit.taken == 2
    (run,) = await queue.submit([Submission(flow="add", labels=frozenset({"gpu", "new"}))])
    assert run.detail.startswith("skipped")
    assert len(asked) < SETS / 2
