"""What only the SQLite queue promises: crashes, other processes, other files, full disks, group commit."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import anyio
import pytest

from command import as_nobody
from flow_agent.errors import ClaimLost, InvalidInput, NotFound, QueueError, QueueTooNew, QueueUnavailable
from flow_agent.model import COUNTED, AgentInfo, Outcome, Reason, Registration, State, Submission, Verdict
from flow_agent.queues import rules
from flow_agent.queues.queries import queries
from flow_agent.queues.sqlite import connection, failures, migrate, open_queue, wake, writer
from flow_agent.queues.sqlite.connection import Database
from flow_agent.queues.sqlite.migrate import shipped

pytestmark = pytest.mark.anyio

REGISTRATION = Registration(flow="add", kind="pickle", storage={"type": "Local"}, location={})
ADD = Submission(flow="add")
PREAMBLE = """
import os, sys, anyio
from flow_agent.errors import FlowAgentError
from flow_agent.model import COUNTED, AgentInfo, Registration, Submission
from flow_agent.queues.sqlite import open_queue
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "queue.db"


@pytest.fixture
def url(path):
    return f"sqlite:{path}"


@pytest.fixture
async def queue(url):
    async with open_queue(url) as queue:
        await queue.register([REGISTRATION])
        yield queue


@contextlib.contextmanager
def lock_held(path):
    """No writer gets its turn meanwhile."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def child(code, *arguments, prefix=(), **options):
    options = {"stdout": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([*prefix, sys.executable, "-c", PREAMBLE + code, *map(str, arguments)], **options)


async def until(condition, seconds=10.0):
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)


# What a session remembers

AGENT = AgentInfo(id="a", name="a", incarnation="1")


async def test_what_another_handle_writes_of_a_run_that_is_held_is_seen(queue, url):
    (run,) = await queue.submit([ADD])
    (claim,) = await queue.claim(AGENT, 1, "r")
    async with open_queue(url) as other:
        await other.cancel(run.id)
    assert await queue.extend(AGENT, [claim]) == {(run.id, 1): Verdict.CANCEL}
    async with open_queue(url) as other:
        await other.finish(claim, Outcome(state=State.CANCELLED, reason=Reason.CANCELLED))
    with pytest.raises(ClaimLost):
        await queue.started(claim, "ref")


async def test_what_was_rolled_back_is_not_remembered(queue):
    (run,) = await queue.submit([ADD])
    (claim,) = await queue.claim(AGENT, 1, "r")

    def fails(store):
        stored = store.run(run.id)
        store.save(rules.changed(stored, run=rules.changed(stored.run, ref="never")))
        raise NotFound("for the test")

    with pytest.raises(NotFound):
        await queue._writer.run(fails)
    assert await queue._writer.run(lambda store: store.run(run.id).run) == await queue.get(run.id) == claim.run


def test_a_field_that_is_not_there_cannot_be_changed():
    with pytest.raises(TypeError, match="Outcome has no colour"):
        rules.changed(Outcome(state=State.FAILED, reason=Reason.RAISED), colour="red")


# Files


async def test_file_and_folder_are_for_their_owner_only(queue, path):
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    await queue.wait(0)
    assert path.with_name("queue.db.wake").stat().st_mode & 0o777 == 0o700


async def test_closing_leaves_the_file_and_its_lock(path, url):
    async with open_queue(url) as queue:
        await queue.register([REGISTRATION])
        await queue.wait(0)
        await queue.submit([ADD])
        await queue.runs()
    assert sorted(os.listdir(path.parent)) == ["queue.db", "queue.db.lock"]


async def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    async with open_queue("sqlite:~/x/queue.db"):
        assert (tmp_path / "x" / "queue.db").exists()


@pytest.mark.parametrize("url", ["sqlite:", "memory:x", "/tmp/queue.db"])
async def test_a_url_without_a_file_is_refused(url):
    with pytest.raises(InvalidInput, match="sqlite:PATH"):
        async with open_queue(url):
            pass


@pytest.mark.parametrize("options", [{"journal": "off"}, {"synchronous": "off"}])
async def test_an_unknown_option_is_refused(url, path, options):
    with pytest.raises(InvalidInput, match="expected"):
        async with open_queue(url, options=options):
            pass
    assert not path.exists()


async def test_synchronous_is_full_unless_asked_otherwise(url):
    for options, level in (({}, 2), ({"synchronous": "normal"}, 1)):
        async with open_queue(url, options=options) as queue:
            found = await queue._writer.run(lambda s: s.connection.execute("pragma synchronous").fetchone()[0])
            assert found == level


# Crashes and other processes


async def test_every_acknowledged_run_survives_a_kill(queue, url):
    code = """
async def main():
    async with open_queue(sys.argv[1]) as queue:
        while True:
            (run,) = await queue.submit([Submission(flow="add")])
            os.write(1, (run.id + "\\n").encode())
anyio.run(main)
"""
    with child(code, url) as process:
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    found = {run.id for run in await queue.runs(limit=100_000)}
    assert found >= set(acknowledged)
    assert len(found) - len(acknowledged) <= 1
    await queue.submit([ADD])
    check = await queue._reader.run(lambda s: s.connection.execute("pragma integrity_check").fetchone()[0])
    assert check == "ok"


async def test_two_processes_never_win_the_same_run(queue, url):
    await queue.submit([ADD] * 500)
    code = """
async def main():
    agent = AgentInfo(id=sys.argv[2], name=sys.argv[2], incarnation="1")
    n = 0
    async with open_queue(sys.argv[1]) as queue:
        print("ready", flush=True)
        input()
        while claims := await queue.claim(agent, 3, f"r{(n := n + 1)}"):
            print(*(claim.run.id for claim in claims), sep="\\n")
anyio.run(main)
"""
    with child(code, url, "one", stdin=-1) as one, child(code, url, "two", stdin=-1) as two:
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            print(file=process.stdin, flush=True)
        outputs = [process.communicate(timeout=60)[0].split() for process in (one, two)]
    assert sorted(outputs[0] + outputs[1]) == sorted(run.id for run in await queue.runs(limit=1000))
    assert all(outputs)


async def test_many_openers_at_once_migrate_once(url, path):
    async def opened():
        async with open_queue(url) as queue:
            await queue.runs()

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(opened)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("select count(*) from migrations").fetchone()[0] == len(shipped())


# Migrations


async def test_migrate_tells_what_it_applied(url):
    assert await migrate(url) == [m.name for m in shipped()]
    assert await migrate(url) == []


def change(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


async def test_a_newer_database_is_refused_with_the_way_out(url, path):
    await migrate(url)
    change(path, "insert into migrations values (999, '0999_new.sql', '', 'breaking', '7.1', 0)")
    with pytest.raises(QueueTooNew, match=r"flow-agent 7\.1") as caught:
        async with open_queue(url):
            pass
    assert "flow-agent-daemon" in caught.value.hint


async def test_a_database_with_an_unknown_safe_migration_is_used(url, path):
    await migrate(url)
    change(path, "insert into migrations values (999, '0999_new.sql', '', 'safe', '7.1', 0)")
    async with open_queue(url) as queue:
        await queue.register([REGISTRATION])


async def test_a_program_that_is_overtaken_while_it_runs_stops_writing(queue, path):
    change(path, "pragma user_version = 999")
    with pytest.raises(QueueTooNew):
        await queue.submit([ADD])
    assert await queue.runs() == []


async def test_a_migration_that_was_changed_since_is_refused(url, path):
    await migrate(url)
    change(path, "update migrations set checksum = 'other'")
    with pytest.raises(QueueError, match="with other content"):
        async with open_queue(url):
            pass


async def test_a_file_of_the_first_version_is_brought_up_to_date_with_what_is_in_it(url, path):
    Database(path, {}, shipped()[:1]).create()
    change(path, "insert into requirement_sets values (7, ?, '')", '["gpu"]')
    assert await migrate(url) == [m.name for m in shipped()[1:]]
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("select id, labels, flow from requirement_sets").fetchall() == [(7, '["gpu"]', "")]


# Broken and foreign files


async def refused(url, **options):
    async def used():
        async with open_queue(url, **options) as queue:
            await queue.register([REGISTRATION])
            await queue.runs()

    with pytest.raises(QueueError) as caught:
        await used()
    assert caught.value.hint
    return caught.value


async def test_a_file_that_is_no_database_is_refused_and_left_alone(url, path):
    path.parent.mkdir()
    path.write_bytes(b"Dear diary,\n" * 1000)
    assert "is not a SQLite database" in str(await refused(url))
    assert path.read_bytes() == b"Dear diary,\n" * 1000


async def test_a_database_of_another_program_is_refused_and_left_alone(url, path):
    path.parent.mkdir()
    change(path, "create table music (title text)")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    assert "another program" in str(await refused(url))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


async def test_a_damaged_database_is_a_lasting_error(url, path):
    await migrate(url)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8 * 4096))
    error = await refused(url)
    assert not isinstance(error, QueueUnavailable)
    assert "damaged" in str(error)


async def test_a_folder_at_the_path_is_refused(url, path):
    path.mkdir(parents=True)
    assert "is a folder" in str(await refused(url))


async def test_a_file_where_the_folder_should_be_is_refused(url, path):
    path.parent.write_text("")
    assert str(path) in str(await refused(url))


@pytest.mark.parametrize("what", ["folder", "file"])
async def test_what_this_user_may_not_write_is_refused_with_the_way_out(url, path, what):
    code = """
async def main():
    async with open_queue(sys.argv[1]) as queue:
        await queue.register([Registration(flow="add", kind="pickle", storage={}, location={})])
try:
    anyio.run(main)
except FlowAgentError as error:
    print(type(error).__name__, error, error.hint)
"""
    await migrate(url)
    for folder in (path.parent, *path.parent.parents[:3]):
        with contextlib.suppress(PermissionError):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)
    path.chmod(0o444)
    path.with_name("queue.db.lock").chmod(0o666)
    if what == "folder":
        path.with_name("queue.db.lock").unlink()
        path.parent.chmod(0o555)
    else:
        path.parent.chmod(0o777)
    prefix = as_nobody() if os.geteuid() == 0 else []
    with child(code, url, prefix=prefix, cwd="/") as process:
        answer = process.communicate(timeout=30)[0]
    path.parent.chmod(0o755)
    for places in prefix[-1:]:
        shutil.rmtree(places)
    assert answer.startswith("QueueError")
    assert "write permission" in answer


async def test_a_full_disk_is_unavailable_and_loses_nothing(url):
    async with open_queue(url) as queue:
        await queue.register([REGISTRATION])
        first = await queue.submit([ADD])
    async with open_queue(url, options={"max_page_count": 60}) as queue:
        with pytest.raises(QueueUnavailable, match="disk is full") as caught:
            await queue.submit([Submission(flow="add", parameters={"x": "y" * 60_000})] * 100)
        assert caught.value.hint
        assert (await queue.runs(limit=1000))[-1] == first[0]
    async with open_queue(url) as queue:
        await queue.submit([Submission(flow="add", parameters={"x": "y" * 60_000})])


async def test_a_file_that_another_program_keeps_locked_is_unavailable(url, path):
    await migrate(url)
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as foreign,
        contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as ours,
    ):
        foreign.execute("begin immediate")
        with pytest.raises(sqlite3.OperationalError) as caught:
            ours.execute("begin immediate")
    error = failures.from_sqlite(caught.value, path)
    assert isinstance(error, QueueUnavailable)
    assert "locked by another program" in str(error)


async def test_a_file_that_was_moved_away_is_noticed_and_used_again_when_it_is_back(queue, path):
    await queue.submit([ADD])
    away = path.with_name("away.db")
    path.rename(away)
    for verb in (queue.submit([ADD]), queue.runs()):
        with pytest.raises(QueueUnavailable, match="moved away"):
            await verb
    assert not path.exists()
    away.rename(path)
    await queue.submit([ADD])
    assert len(await queue.runs()) == 2


async def test_no_new_queue_is_begun_over_the_last_commits_of_one_that_was_moved_away(queue, url, path):
    await queue.submit([ADD])
    away, wal = path.with_name("away.db"), path.with_name("queue.db-wal")
    path.rename(away)
    with pytest.raises(QueueUnavailable, match=r"its last commits are left in .*queue.db-wal") as caught:
        async with open_queue(url):
            pass
    assert str(wal) in caught.value.hint
    assert not path.exists()
    away.rename(path)
    async with open_queue(url) as other:
        assert len(await other.runs()) == 1
    path.unlink()
    wal.unlink()
    async with open_queue(url) as other:
        assert await other.runs() == []


async def test_a_file_that_was_replaced_is_opened_anew_without_the_old_ones_wal(queue, path, tmp_path):
    other = tmp_path / "other" / "queue.db"
    async with open_queue(f"sqlite:{other}") as fresh:
        await fresh.register([REGISTRATION, REGISTRATION])
        (kept,) = await fresh.submit([ADD])
    await queue.submit([ADD] * 20)
    old = tmp_path / "old.db"
    os.link(path, old)
    shutil.copy(other, path.with_name("new.db"))
    path.with_name("new.db").rename(path)

    assert [run.id for run in await queue.runs()] == [kept.id]
    (run,) = await queue.submit([ADD])
    assert run.version == 2
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone()[0] == "ok"
        assert database.execute("select count(*) from runs").fetchone()[0] == 2
    with contextlib.closing(sqlite3.connect(old)) as database:
        assert database.execute("select count(*) from runs").fetchone()[0] == 20


async def test_an_old_file_put_in_place_is_migrated(queue, path, tmp_path):
    empty = tmp_path / "empty.db"
    empty.touch()
    empty.rename(path)
    await queue.register([REGISTRATION])
    assert [r.version for r in await queue.registrations()] == [1]


# Group commit


async def test_one_operation_that_fails_does_not_hurt_the_others_of_its_turn(queue, path):
    (claimed,) = await queue.submit([ADD])
    results = {}

    async def call(name, verb):
        try:
            results[name] = await verb
        except Exception as error:
            results[name] = type(error)

    async with anyio.create_task_group() as tasks:
        with lock_held(path):
            tasks.start_soon(call, "good", queue.submit([ADD]))
            tasks.start_soon(call, "unknown", queue.submit([ADD, Submission(flow="other")]))
            tasks.start_soon(call, "wrong", queue.submit([Submission(flow="add", parameters={"x": object()})]))
            tasks.start_soon(call, "bytes", queue.submit([Submission(flow="add", key="\ud800")]))
            tasks.start_soon(call, "cancel", queue.cancel(claimed.id))
            await until(lambda: len(results) + len(queue._writer._pending) >= 5)
    assert len(results["good"]) == 1
    assert results["cancel"].cancel_requested
    assert (results["unknown"], results["wrong"], results["bytes"]) == (NotFound, InvalidInput, InvalidInput)
    assert {run.id for run in await queue.runs()} == {results["good"][0].id, claimed.id}


async def test_many_callers_share_one_commit(queue, path):
    with contextlib.closing(sqlite3.connect(path)) as watcher:
        commits = set()
        async with anyio.create_task_group() as tasks:
            with lock_held(path):
                for _ in range(50):
                    tasks.start_soon(queue.submit, [ADD])
                await until(lambda: len(queue._writer._pending) == 50)
                commits.add(watcher.execute("pragma data_version").fetchone()[0])
            while len(await queue.runs(limit=100)) < 50:
                commits.add(watcher.execute("pragma data_version").fetchone()[0])
        commits.add(watcher.execute("pragma data_version").fetchone()[0])
    assert len(commits) == 2


async def test_a_cancelled_leader_leaves_the_others_their_answers(queue, path):
    answers = []

    async def lead(scope):
        with scope:
            await queue.submit([ADD])

    async def follow():
        answers.extend(await queue.submit([ADD]))

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        with lock_held(path):
            tasks.start_soon(lead, scope)
            tasks.start_soon(follow)
            await until(lambda: len(queue._writer._pending) == 2)
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
    assert len(answers) == 1
    assert len(await queue.runs()) == 2


async def test_a_follower_cancelled_before_its_turn_changes_nothing(queue, path):
    async def follow(scope):
        with scope:
            await queue.submit([ADD])

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        with lock_held(path):
            tasks.start_soon(queue.submit, [ADD])
            tasks.start_soon(follow, scope)
            await until(lambda: len(queue._writer._pending) == 2)
            scope.cancel()
            await until(lambda: len(queue._writer._pending) == 1)
    assert scope.cancelled_caught
    assert len(await queue.runs()) == 1


async def test_the_next_leader_may_be_cancelled_just_when_it_is_chosen(queue):
    """A turn hands the lead to one that is cancelled in the same moment: the one behind must still be served."""
    writing, go_on = threading.Event(), threading.Event()
    answers = []
    scope = anyio.CancelScope()

    def slow(store):
        writing.set()
        go_on.wait(10)

    async def first():
        await queue._writer.run(slow)
        scope.cancel()

    async def second():
        with scope:
            answers.append(await queue._writer.run(lambda store: "second"))

    async def third():
        answers.append(await queue._writer.run(lambda store: "third"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await until(writing.is_set)
        tasks.start_soon(second)
        tasks.start_soon(third)
        await until(lambda: len(queue._writer._pending) == 2)
        go_on.set()
    assert "third" in answers


async def test_a_commit_that_fails_fails_for_all_of_its_turn_and_changes_nothing(queue, path):
    def no_commit(action, what, *_):
        return sqlite3.SQLITE_DENY if (action, what) == (sqlite3.SQLITE_TRANSACTION, "COMMIT") else sqlite3.SQLITE_OK

    errors = []

    async def call(operation):
        try:
            await queue._writer.run(operation)
        except QueueError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        with lock_held(path):
            tasks.start_soon(call, lambda s: s.connection.set_authorizer(no_commit))
            tasks.start_soon(call, lambda s: s.connection.execute("delete from flows"))
            await until(lambda: len(queue._writer._pending) == 2)
    assert len(errors) == 2
    assert errors[0] is not errors[1]
    assert len(await queue.registrations()) == 1


async def test_a_lock_that_is_never_given_back_is_said_and_waited_out(queue, path):
    impatient = writer.Writer(queue._database, lambda: None, patience=0.1)
    with lock_held(path):
        with pytest.raises(QueueUnavailable, match=r"did not answer for 0\.1 seconds"):
            await impatient.run(lambda store: store.connection.execute("delete from flows"))
        with pytest.raises(QueueUnavailable):
            await impatient.run(lambda store: None)
    assert impatient._busy.acquire(timeout=10)
    impatient._busy.release()
    assert len(await queue.registrations()) == 1
    assert await impatient.run(lambda store: "again") == "again"
    impatient.close()


async def test_opening_a_locked_queue_is_given_up(queue, url, path, monkeypatch):
    monkeypatch.setattr("flow_agent.queues.sqlite.PATIENCE", 0.1)
    with lock_held(path):
        assert "did not answer for 0.1 seconds" in str(await refused(url))


async def test_a_file_that_was_used_and_cannot_be_reached_now_may_be_so_again(queue, path):
    await queue.submit([ADD])
    away = path.parent.with_name("away")
    path.parent.rename(away)
    path.parent.write_text("")
    with pytest.raises(QueueUnavailable, match="is no folder"):
        await queue.submit([ADD])
    path.parent.unlink()
    away.rename(path.parent)
    await queue.submit([ADD])


async def test_a_turn_that_cannot_begin_while_another_is_stuck_says_so(queue, path):
    impatient = writer.Writer(queue._database, lambda: None, patience=0.1)
    assert impatient._busy.acquire(timeout=1)
    turn = writer.Turn()
    with pytest.raises(QueueUnavailable):
        await anyio.to_thread.run_sync(impatient._work, turn)
    impatient._busy.release()
    impatient.close()


async def test_an_error_nobody_foresaw_reaches_all_who_waited(queue, path):
    def unforeseen():
        raise RuntimeError("unforeseen")

    clumsy = writer.Writer(queue._database, unforeseen)
    errors = []

    async def call():
        try:
            await clumsy.run(lambda store: None, poke=True)
        except RuntimeError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        with lock_held(path):
            for _ in range(3):
                tasks.start_soon(call)
            await until(lambda: len(clumsy._pending) == 3)
    assert len(errors) == 3
    assert await clumsy.run(lambda store: "again") == "again"
    clumsy.close()


async def test_a_task_that_is_ended_from_outside_anyio_leaves_nobody_waiting(queue, path):
    answers = []

    async def follow():
        try:
            answers.append(await queue.submit([ADD]))
        except QueueUnavailable as error:
            answers.append(error)

    async with anyio.create_task_group() as tasks:
        with lock_held(path):
            leader = asyncio.ensure_future(queue.submit([ADD]))
            await until(lambda: len(queue._writer._pending) == 1)
            tasks.start_soon(follow)
            await until(lambda: len(queue._writer._pending) == 2)
            leader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leader
    assert len(answers) == 1
    await queue.submit([ADD])


async def test_callers_that_are_cancelled_at_any_time_never_lose_the_others(queue):
    """Two hundred callers, every third cancelled after a while of its own: all others get their runs."""
    answers = []

    async def call(number):
        with anyio.move_on_after(0.0005 * (number % 40) if number % 3 == 0 else 60):
            answers.extend(await queue.submit([ADD]))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(call, number)
                if number % 7 == 0:
                    await anyio.sleep(0)
    found = {run.id for run in await queue.runs(limit=1000)}
    assert {run.id for run in answers} <= found
    assert len(answers) >= 133
    assert not queue._writer._leading


async def test_what_a_failed_turn_read_is_forgotten(queue):
    def failing(store):
        store._set_id(store.run(run.id).run)
        store._set_ids["[]", "docker"] = 99
        raise ClaimLost("on purpose")

    (run,) = await queue.submit([ADD])
    with pytest.raises(ClaimLost):
        await queue._writer.run(failing)
    assert await queue._writer.run(lambda store: dict(store._set_ids)) == {}


# Waking


async def test_only_who_waits_has_a_fifo(queue, path):
    folder = path.with_name("queue.db.wake")
    await queue.submit([ADD])
    assert not folder.exists()
    await queue.wait(0)
    assert len(list(folder.iterdir())) == 1


async def test_the_fifo_of_a_dead_agent_is_removed_and_a_full_one_is_kept(queue, path):
    folder = path.with_name("queue.db.wake")
    await queue.wait(0)
    (own,) = folder.iterdir()
    os.mkfifo(folder / "1-dead")
    for _ in range(70_000):
        wake.poke(folder) if (folder / "1-dead").exists() else wake._poke_one(str(own))
    assert list(folder.iterdir()) == [own]
    with anyio.fail_after(5):
        await queue.wait(60)


async def test_a_waiter_whose_folder_was_removed_makes_it_anew(queue, path):
    folder = path.with_name("queue.db.wake")
    await queue.wait(0)
    shutil.rmtree(folder)
    await queue.wait(0)
    assert len(list(folder.iterdir())) == 1


# Plans

HOT = [
    "run",
    "run_by_key",
    "ids_beginning",
    "runs_of_flow",
    "runs_live",
    "runs_unsuccessful",
    "runs_succeeded_of_flow",
    "claim_candidates",
    "expired",
    "orphaned",
    "promote",
    "set_id",
    "sets_after",
    "claims_of",
    "claim_end",
    "logs",
    "last_seq",
    "newest_registration",
    "next_due",
]


@pytest.mark.parametrize("name", HOT)
async def test_statements_of_the_hot_path_walk_no_table(queue, name):
    statement = queries("sqlite")[name]

    def plan(session):
        parameters = dict.fromkeys(re.findall(r":(\w+)", statement), "1")
        return [row["detail"] for row in session.connection.execute("explain query plan " + statement, parameters)]

    steps = await queue._reader.run(plan)
    walked = [s for s in steps if s.startswith("SCAN") and "INDEX" not in s and "json_each" not in s]
    assert [s for s in walked if s != "SCAN q" and not s.startswith("SCAN (subquery-")] == []
    assert not any("TEMP B-TREE" in s for s in steps if name == "claim_candidates")


async def test_the_connection_refuses_what_no_path_can_be():
    assert connection.path_of("sqlite:///tmp/q.db") == connection.path_of("sqlite:/tmp/q.db")


async def test_counting_what_waits_costs_the_same_with_a_hundred_thousand_runs_more(queue, path):
    """Steps of SQLite's own machine, which do not depend on how busy this one is."""
    await queue.submit([ADD] * 12_000)

    def steps() -> int:
        taken = 0

        def step() -> int:
            nonlocal taken
            taken += 1
            return 0

        with contextlib.closing(sqlite3.connect(path)) as other:
            other.set_progress_handler(step, 100)
            (row,) = other.execute(queries("sqlite")["waiting"], {"most": COUNTED}).fetchall()
            assert row[2] == COUNTED
        return taken

    before = steps()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        columns = [name for _, name, *_ in other.execute("pragma table_info(runs)") if name not in {"serial", "id"}]
        names = ", ".join(columns)
        other.execute(
            f"with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)"
            f" insert into runs (id, {names}) select 'zz' || i, {names} from n, (select * from runs limit 1)"
        )
    assert steps() <= before * 1.05
