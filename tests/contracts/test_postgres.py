"""What the queue on PostgreSQL does beyond the contract: many writers, and a server that goes away."""

import hashlib
import json
import time
from collections import Counter
from contextlib import AsyncExitStack, contextmanager

import anyio
import anyio.to_thread
import psycopg
import pytest
from psycopg.rows import dict_row

from flow_agent.errors import InvalidInput, QueueError, QueueTooNew, QueueUnavailable
from flow_agent.model import Full, Limit, LogLine, Outcome, Reason, State, Submission
from flow_agent.ports import Leases
from flow_agent.queues import migrations, postgres
from flow_agent.queues.postgres import migrate, statements, writer
from flow_agent.testing.queue_contract.common import SUCCEEDED, agent, lines, registration, running, submitted, won
from servers.postgres import add_history, postgres_running

pytestmark = pytest.mark.anyio


@pytest.fixture
async def handles(postgres_url):
    """Four open queues on one database, as four agents have them."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(postgres.open_queue(postgres_url)) for _ in range(4)]


# Many writers


async def test_no_run_is_won_twice_and_none_is_left(handles):
    await handles[0].register([registration()])
    await handles[0].submit([Submission(flow="add", priority=n % 3) for n in range(400)])
    won_by = Counter()

    async def take(queue, name):
        empty = 0
        while empty < 3:
            claims = await queue.claim(agent(name), 7, f"{name}-{time.monotonic_ns()}")
            empty = 0 if claims else empty + 1
            for claim in claims:
                won_by[claim.run.id] += 1
                await queue.started(claim, "ref")
                await queue.append_logs(claim, lines(1, 2))
            async with anyio.create_task_group() as group:
                for claim in claims:
                    group.start_soon(queue.finish, claim, SUCCEEDED)

    async with anyio.create_task_group() as group:
        for number, queue in enumerate(handles):
            group.start_soon(take, queue, f"agent-{number}")
    assert set(won_by.values()) == {1}
    assert len(won_by) == 400
    assert {run.state for run in await handles[0].runs(limit=1000)} == {State.SUCCEEDED}


@pytest.mark.parametrize("when_full", Full)
@pytest.mark.parametrize(("kind", "name"), [("flow", "add"), ("label", "elsewhere")])
async def test_many_submit_at_once_under_a_limit(postgres_url, caplog, kind, name, when_full):
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(postgres.open_queue(postgres_url)) for _ in range(8)]
        await queues[0].register([registration()])
        await queues[0].set_limit(Limit(kind=kind, name=name, slots=3, when_full=when_full))
        runs = []

        async def submit(queue):
            for _ in range(10):
                runs.extend(await queue.submit([Submission(flow="add")]))

        async def work(queue):
            who = agent(str(id(queue)))
            for number in range(10):
                claims = await queue.claim(who, 1, f"r{number}")
                for claim in claims:
                    await queue.started(claim, "ref")
                await queue.extend(who, claims)
                for claim in claims:
                    await queue.finish(claim, SUCCEEDED)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for queue in queues:
                    group.start_soon(submit, queue)
                for queue in queues[:2]:
                    group.start_soon(work, queue)
        assert len({run.id for run in runs}) == 80
    assert "deadlock" not in caplog.text


async def test_who_counts_slots_and_who_changes_limits_do_not_lock_each_other_out(handles, monkeypatch):
    lost = []

    def transact(self, turn, *, given=writer.Writer._transact):
        try:
            given(self, turn)
        except psycopg.Error as error:
            lost.append(error.sqlstate)
            raise

    monkeypatch.setattr(writer.Writer, "_transact", transact)
    await handles[0].register([registration()])
    await handles[0].set_limit(Limit(kind="label", name="gpu", slots=3, when_full=Full.REPLACE))
    gpu = frozenset({"gpu"})

    async def work(queue, name):
        able = agent(name, labels=gpu)
        for number in range(15):
            await queue.submit([Submission(flow="add", labels=gpu)] * 2)
            claims = await queue.claim(able, 3, f"{name}-{number}")
            for claim in claims:
                await queue.started(claim, "ref")
            async with anyio.create_task_group() as group:  # one turn for all of it
                for claim in claims:
                    group.start_soon(queue.finish, claim, SUCCEEDED)
                group.start_soon(queue.submit, [Submission(flow="add", labels=gpu)])
                group.start_soon(queue.claim, able, 0, f"{name}-{number}-none")
                group.start_soon(queue.register, [registration(f"own-{name}")])

    async def change():
        for number in range(10):
            await handles[3].set_limit(Limit(kind="flow", name="add", slots=2 + number % 3))
            await handles[3].remove_limit("flow", "add")

    with anyio.fail_after(90):
        async with anyio.create_task_group() as group:
            group.start_soon(change)
            for number, queue in enumerate(handles[:3]):
                group.start_soon(work, queue, f"a{number}")
    assert lost == []


@pytest.mark.parametrize("lost", ["deadlock_detected", "serialization_failure"])
async def test_a_transaction_that_always_loses_is_one_to_ask_for_again(postgres_url, caplog, lost):
    async with postgres.open_queue(postgres_url) as queue:
        await queue.register([registration()])
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "create function lose() returns trigger language plpgsql"
                f" as $$ begin raise exception using errcode = '{lost}'; end $$"
            )
            connection.execute("create trigger lose before insert on runs for each row execute function lose()")
        with pytest.raises(QueueUnavailable, match="too busy"):
            await queue.submit([Submission(flow="add"), Submission(flow="add")])
    assert "error ignored" not in caplog.text


@pytest.mark.parametrize(("kind", "name"), [("flow", "add"), ("label", "gpu")])
async def test_a_limit_holds_however_many_claim_at_once(handles, kind, name):
    await handles[0].register([registration()])
    await handles[0].set_limit(Limit(kind=kind, name=name, slots=3))
    await handles[0].submit([Submission(flow="add", labels=frozenset({"gpu"})) for _ in range(40)])
    most, now, ended = 0, 0, 0

    async def take(queue, who):
        nonlocal most, now, ended
        while ended < 40:
            claims = await queue.claim(agent(who, labels=frozenset({"gpu"})), 5, f"{who}-{time.monotonic_ns()}")
            now += len(claims)
            most = max(most, now)
            for claim in claims:
                await queue.started(claim, "ref")
                now, ended = now - 1, ended + 1
                await queue.finish(claim, SUCCEEDED)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number, queue in enumerate(handles):
                group.start_soon(take, queue, f"agent-{number}")
    assert 1 <= most <= 3
    assert {run.state for run in await handles[0].runs(limit=100)} == {State.SUCCEEDED}


async def test_one_key_gives_one_run_however_many_submit_it_at_once(handles):
    await handles[0].register([registration()])
    found = []

    async def submit(queue):
        for number in range(20):
            found.extend(run.id for run in await queue.submit([Submission(flow="add", key=f"k{number}")]))

    async with anyio.create_task_group() as group:
        for queue in handles:
            group.start_soon(submit, queue)
    assert sorted(Counter(found).values()) == [4] * 20


async def test_versions_are_counted_without_a_gap_however_many_register_at_once(handles, monkeypatch):
    monkeypatch.setattr(writer, "TRIES", 1)  # of those that have to try again, one may lose as often as it tries
    found = []

    async def register(queue):
        for _ in range(10):
            found.extend(each.version for each in await queue.register([registration()]))

    async with anyio.create_task_group() as group:
        for queue in handles:
            group.start_soon(register, queue)
    assert sorted(found) == list(range(1, 41))


async def test_what_the_server_refuses_of_one_is_no_affair_of_those_who_write_with_it(handles):
    queue = handles[0]
    claims = [await running(queue) for _ in range(8)]
    await submitted(queue)
    long = "".join(hashlib.sha512(bytes([n])).hexdigest() for n in range(60))
    refused = []

    async def refuse():
        with pytest.raises(InvalidInput, match="keeps nothing so large"):
            await queue.claim(agent(), 1, long)
        refused.append(long)

    async with anyio.create_task_group() as group:
        for claim in claims:
            group.start_soon(queue.finish, claim, SUCCEEDED)
            group.start_soon(refuse)
    assert len(refused) == 8
    states = Counter(run.state for run in await queue.runs(limit=100))
    assert states == {State.SUCCEEDED: 8, State.QUEUED: 1}


@contextmanager
def moved_meanwhile(url, run_id):
    """A run is moved into another set as by a limit, which is committed when the block ends."""
    with psycopg.connect(url) as connection:
        (number,) = connection.execute(
            "insert into requirement_sets (labels, launcher, flow) values ('[]', '', 'add') returning id"
        ).fetchone()
        connection.execute("update runs set requirement_set = %s where id = %s", (number, run_id))
        yield


async def test_a_run_that_a_new_limit_moves_meanwhile_is_there_for_all_who_wait_for_it(postgres_url, handles):
    queue = handles[0]
    claim = await running(queue)
    ended = []

    async def finish():
        ended.append((await queue.finish(claim, SUCCEEDED)).state)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            with moved_meanwhile(postgres_url, claim.run.id):
                group.start_soon(finish)
                await anyio.sleep(0.5)
                assert ended == []
    assert ended == [State.SUCCEEDED]


async def test_a_run_that_a_new_limit_moves_meanwhile_is_there_for_its_agents_successor(postgres_url, handles):
    queue = handles[0]
    claim = await running(queue)
    found = []

    async def succeed():
        found.extend(await queue.take_over(agent(incarnation="2"), 5, "r"))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            with moved_meanwhile(postgres_url, claim.run.id):
                group.start_soon(succeed)
                await anyio.sleep(0.5)
                assert found == []
    assert [each.run.id for each in found] == [claim.run.id]


async def test_many_runs_of_one_submit_take_few_statements(handles, monkeypatch):
    asked = []

    def execute(self, name, parameters, *, given=statements.PostgresStatements._execute):
        asked.append(name)
        return given(self, name, parameters)

    monkeypatch.setattr(statements.PostgresStatements, "_execute", execute)
    queue = handles[0]
    await queue.register([registration()])
    odd = Submission(flow="add", parameters={"text": "\0\U0010fffe\u00e9"}, labels=frozenset({"\U0001f600"}))
    asked.clear()
    runs = await queue.submit([odd] * 5_000)
    assert len(asked) < 15
    found = await queue.runs(limit=10_000)
    assert found == runs[::-1]
    assert found[0].parameters == odd.parameters


async def test_sets_that_several_add_at_once_are_all_seen(handles):
    await handles[0].register([registration()])

    async def submit(queue, name):
        for number in range(25):
            await queue.submit([Submission(flow="add", labels=frozenset({f"{name}-{number % 20}", f"{number}"}))])

    labels = frozenset([*(f"{n}-{m}" for n in range(4) for m in range(25)), *(str(n) for n in range(25))])
    able = agent("able", labels=labels)
    claimed = []

    async def take():
        with anyio.fail_after(60):
            while len(claimed) < 100:
                claimed.extend(await handles[3].claim(able, 10, f"take-{len(claimed)}-{time.monotonic_ns()}"))

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        for number, queue in enumerate(handles):
            group.start_soon(submit, queue, number)
    assert len({claim.run.id for claim in claimed}) == 100


async def test_transactions_that_lock_each_other_out_are_done_again(handles):
    first, second, *_ = handles
    claims = [await running(first) for _ in range(30)]

    async def extend(queue, order):
        for _ in range(15):
            verdicts = await queue.extend(agent(), order)
            assert len(verdicts) == 30

    async with anyio.create_task_group() as group:
        group.start_soon(extend, first, claims)
        group.start_soon(extend, second, claims[::-1])
    assert {run.state for run in await first.runs(limit=100)} == {State.RUNNING}


async def test_leases_end_by_the_servers_clock(postgres_url):
    leases = Leases(claimed=0.3, running=0.5)
    async with postgres.open_queue(postgres_url, leases=leases) as queue, postgres.open_queue(postgres_url) as other:
        claim = await running(queue)
        assert await other.reap() == []
        await anyio.sleep(0.6)
        (lost,) = await other.reap()
        assert lost.id == claim.run.id
        assert abs(lost.created_at - time.time()) < 60


async def test_every_character_comes_back(postgres_url):
    text = "".join(map(chr, range(1, 0x300))) + "\0\U0010fffe0\U0010fffe\0\U0010ffff\U0001f600"
    async with postgres.open_queue(postgres_url) as queue:
        claim = await running(queue)
        await queue.append_logs(claim, [LogLine(attempt=1, source="flow", seq=1, time=1.0, text=text)])
        assert [line.text for line in await queue.logs(claim.run.id)] == [text]


# A server that goes away


@pytest.fixture
def harmed():
    with postgres_running() as server:
        yield server


async def test_a_server_that_was_killed_is_found_again_with_all_that_was_acknowledged(harmed):
    async with postgres.open_queue(harmed.url) as queue:
        claim = await running(queue)
        harmed.kill()
        for verb in (lambda: queue.get(claim.run.id), lambda: queue.extend(agent(), [claim]), lambda: queue.wait(1)):
            for _ in range(2):
                with pytest.raises(QueueUnavailable, match=r"postgresql://127\.0\.0\.1:\d+/postgres"):
                    await verb()
        harmed.start()
        assert (await queue.get(claim.run.id)).state is State.RUNNING
        assert (await queue.finish(claim, SUCCEEDED)).state is State.SUCCEEDED
        await queue.wait(0.1)


async def test_a_server_that_restarted_between_two_calls_is_not_even_noticed(harmed):
    async with postgres.open_queue(harmed.url) as queue:
        claim = await running(queue)
        assert await queue.get(claim.run.id)
        harmed.kill()
        harmed.start()
        assert (await queue.finish(claim, SUCCEEDED)).state is State.SUCCEEDED
        assert (await queue.get(claim.run.id)).state is State.SUCCEEDED


async def test_a_server_that_stands_still_is_given_up_for_now(harmed, monkeypatch):
    monkeypatch.setattr(postgres.reader, "PATIENCE", 1.0)
    async with postgres.open_queue(harmed.url) as queue:
        impatient = writer.Writer(queue._database, queue._clock, patience=1.0)
        claim = await running(queue)
        await impatient.run(lambda store: store.run(claim.run.id))
        harmed.freeze()
        try:
            with anyio.fail_after(20):
                with pytest.raises(QueueUnavailable, match="did not answer for 1 seconds"):
                    await impatient.run(lambda store: store.run(claim.run.id))
                with pytest.raises(QueueUnavailable, match="did not answer for 1 seconds"):
                    await queue.get(claim.run.id)
        finally:
            harmed.thaw()
        assert (await impatient.run(lambda store: store.run(claim.run.id))).run.id == claim.run.id
        assert (await queue.get(claim.run.id)).id == claim.run.id
        impatient.close()


async def test_a_pooler_that_forgets_prepared_statements_does_no_harm(postgres_url):
    async with postgres.open_queue(postgres_url) as queue:
        await submitted(queue)
        for _ in range(20):
            await queue.get((await submitted(queue)).id)
        for session in (queue._writer._session, *queue._reader._idle):
            session.connection.pgconn.exec_(b"deallocate all")  # behind psycopg's back
        run = await submitted(queue)
        assert (await queue.get(run.id)).id == run.id
        assert queue._writer._session.connection.prepare_threshold is None


# What may be there already


async def test_a_database_of_a_newer_program_is_refused_also_while_it_is_open(postgres_url):
    async with postgres.open_queue(postgres_url) as queue:
        await submitted(queue)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("insert into migrations values (900, '0900_more.sql', 'x', 'safe', '99.0', 0)")
        await submitted(queue)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("insert into migrations values (999, '0999_new.sql', 'x', 'breaking', '99.0', 0)")
        with pytest.raises(QueueTooNew, match="migrated by a newer flow-agent while it was open"):
            await submitted(queue)
        assert await queue.runs() != []
    with pytest.raises(QueueTooNew, match=r"written by flow-agent 99\.0 \(0999_new\.sql\)"):
        async with postgres.open_queue(postgres_url):
            pass


async def test_a_migration_waits_for_what_is_written_and_is_seen_by_what_comes_after(postgres_url, handles):
    queue = handles[0]
    claim = await running(queue)
    breaking = migrations.Migration(999, "0999_new.sql", "breaking", "select 1")
    done = []

    def change():
        with psycopg.connect(postgres_url, autocommit=True, row_factory=dict_row) as connection:
            done.extend(migrate.migrate(connection, "x", [*migrations.shipped("postgres"), breaking]))

    async def finish():
        done.append((await queue.finish(claim, SUCCEEDED)).state)

    async with anyio.create_task_group() as group:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("select 1 from runs where id = %s for update", (claim.run.id,))
            group.start_soon(finish)
            await anyio.sleep(0.5)
            group.start_soon(anyio.to_thread.run_sync, change)
            await anyio.sleep(0.5)
            assert done == []
    assert sorted(done, key=str) == ["0999_new.sql", State.SUCCEEDED]
    with pytest.raises(QueueTooNew):
        await submitted(queue)


async def test_statements_that_were_prepared_before_a_migration_are_prepared_anew(handles, postgres_url):
    """A column more changes what ``runs.*`` is, and the server refuses what was prepared before."""
    one, two, *_ = handles
    for queue in (one, two):
        for number in range(8):
            claim = await running(queue, who := agent(f"{number}-{id(queue)}"))
            await queue.extend(who, [claim])
            await queue.get(claim.run.id)
            await queue.finish(claim, SUCCEEDED)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("alter table runs add column colour text")
    for queue in (one, two):
        claim = await running(queue, who)
        assert len(await queue.runs()) > 8
        assert (await queue.extend(who, [claim])).values()
        assert (await queue.finish(claim, SUCCEEDED)).state is State.SUCCEEDED
        assert (await queue.get(claim.run.id)).state is State.SUCCEEDED


async def test_several_may_open_an_empty_schema_at_once(postgres_url):
    async def open_and_close():
        async with postgres.open_queue(postgres_url) as queue:
            assert await queue.runs() == []

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(open_and_close)


async def test_tables_of_another_program_are_left_alone(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("create table migrations (id integer, migration text)")
    with pytest.raises(QueueError, match="tables of another program in schema") as refused:
        async with postgres.open_queue(postgres_url):
            pass
    assert "a schema of its own" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("url", "expected", "words"),
    [
        ("postgresql://u:s3cret-word@127.0.0.1:1/db", QueueUnavailable, "cannot be reached"),
        ("postgresql://u:s3cret-word@127.0.0.1:PORT/nowhere", QueueError, 'lets nobody in so: .*"u" does not exist'),
        ("postgresql://u:s3cret-word@127.0.0.1:PORT/nowhere?colour=s3cret-word", InvalidInput, "URL is none"),
        ("postgresql://u:s3cret-word@[127.0.0.1", InvalidInput, "URL is none"),
        ("URL?options=-csearch_path%3Dnowhere", QueueError, "has no schema for its tables"),
        ("URL?sslmode=require", QueueError, "server does not support SSL"),
        ("URL?sslmode=s3curely", QueueError, 'invalid sslmode value: "s3curely"'),
        ("postgresql://u:s3cret-word@127.0.0.1:99999/db", QueueError, 'invalid port number: "99999"'),
        ("postgresql://u:s3cret-word@127.0.0.1:many/db", QueueError, 'invalid integer value "many"'),
    ],
)
async def test_what_is_wrong_with_a_url_is_said_without_its_password(postgres_server, url, expected, words):
    url = url.replace("PORT", str(postgres_server.port)).replace("URL", postgres_server.url)
    with pytest.raises(expected, match=words) as refused:
        async with postgres.open_queue(url):
            pass
    assert isinstance(refused.value, QueueUnavailable) == (expected is QueueUnavailable)
    assert refused.value.hint
    assert "s3cret-word" not in f"{refused.value} {refused.value.hint}"


async def test_a_schema_that_the_user_may_not_use_is_told_from_one_that_is_not_there(postgres_server, postgres_url):
    user = f"guest{time.monotonic_ns()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        (schema,) = connection.execute("select current_schema()").fetchone()
        connection.execute(f"create role {user} login")
        try:
            with pytest.raises(QueueError, match=f"is in schema {schema}, which user '{user}' may not use") as refused:
                async with postgres.open_queue(postgres_url.replace("tester@", f"{user}@")):
                    pass
            assert f"grant usage, create on schema {schema} to {user}" in refused.value.hint
        finally:
            connection.execute(f"drop role {user}")


async def test_the_claim_is_a_few_seeks_however_much_waits_that_it_may_not_take(postgres_url):
    async with postgres.open_queue(postgres_url) as queue:
        await queue.register([registration()])
        await queue.submit([Submission(flow="add")])
        await queue.submit([Submission(flow="add", labels=frozenset({"gpu"}))])
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            columns = "flow, version, requirement_set, priority, parameters, created_at, state, detail, attempt, claim"
            columns += ", losses, agent_id, incarnation, scope, cancel_requested, lease_boot"
            connection.execute(
                f"insert into runs (id, {columns}) select id || n, {columns} from runs, generate_series(1, 50000) as n"
                " where requirement_set = 2"
            )
            connection.execute("vacuum analyze runs")
            asked = {"sets": [1], "limit": 16, "most": 16}
            text = f"explain (format json) {statements.SQL['claim_heads']}"
            (plan,) = connection.execute(text, asked).fetchone()
        assert "Seq Scan" not in json.dumps(plan)
        assert "runs_queued" in json.dumps(plan)
        claim = await won(queue)
        assert claim.run.labels == frozenset()


async def test_listing_by_state_reads_no_history(postgres_url):
    """`flow-agent runs --state running` is how somebody looks for who holds a slot, and that must not take seconds."""
    async with postgres.open_queue(postgres_url) as queue:
        await queue.register([registration()])
        first = await queue.submit([Submission(flow="add")] * 6 + [Submission(flow="add", due_at=time.time() + 1e6)])
        claims = await queue.claim(agent(), 3, "r1")
        for claim in claims[:2]:
            await queue.started(claim, "ref")
        await queue.finish(claims[0], Outcome(state=State.FAILED, reason=Reason.RAISED))
        await queue.cancel(first[5].id)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            add_history(connection, 50_000)
            states = json.dumps([str(state) for state in State])
            for name, flow in [
                ("runs_live", None),
                ("runs_live", "add"),
                ("runs_unsuccessful", None),
                ("runs_unsuccessful", "add"),
                ("runs_succeeded", None),
                ("runs_succeeded_of_flow", "add"),
            ]:
                asked = {"states": states, "flow": flow, "before": "{", "limit": 50}
                text = f"explain (format json) {statements.SQL[name]}"
                (plan,) = connection.execute(text, asked).fetchone()
                scans = [each for each in nodes(plan[0]["Plan"]) if each.get("Relation Name") == "runs"]
                assert scans
                assert not [each for each in scans if each["Node Type"] == "Seq Scan"], (name, flow)
                if name == "runs_live":
                    used = {each.get("Index Name") for each in nodes(plan[0]["Plan"])}
                    assert used >= {"runs_scheduled", "runs_queued", "runs_taken"}
        for state in State:
            (found, *_) = await queue.runs(states=[state], limit=1)
            assert found.state is state
        mixed = await queue.runs(states=[State.RUNNING, State.FAILED, State.QUEUED], limit=3)
        assert [run.id for run in mixed] == [first[4].id, first[3].id, first[1].id]


def nodes(plan):
    """A plan and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
