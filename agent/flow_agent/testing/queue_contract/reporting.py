"""What agents tell: log lines, and what they are."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import replace

from flow_agent.model import LogLine
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import agent, lines, running


class Logging:
    """``append_logs``, ``last_seq``, ``logs``."""

    async def test_lines_sent_twice_are_stored_once_and_keep_their_order(self, queue: Queue):
        claim = await running(queue)
        await queue.append_logs(claim, lines(1, 2))
        await queue.append_logs(claim, [replace(lines(2)[0], text="changed"), *lines(3), *lines(1, source="agent.1")])
        stored = await queue.logs(claim.run.id)
        assert [line.text for line in stored] == ["flow 1", "flow 2", "flow 3", "agent.1 1"]
        cursors = [line.cursor for line in stored]
        assert cursors == sorted(set(cursors))
        assert cursors[0] > 0

    async def test_a_line_comes_back_as_it_was_given(self, queue: Queue):
        claim = await running(queue)
        line = LogLine(attempt=1, source="flow", seq=4, time=12.5, text="é\t\x00!", level="WARNING", logger="a.b")
        await queue.append_logs(claim, [line])
        (stored,) = await queue.logs(claim.run.id)
        assert replace(stored, cursor=0) == line

    async def test_logs_are_read_page_by_page(self, queue: Queue):
        claim, other = await running(queue), await running(queue)
        for n in range(1, 6):
            await queue.append_logs(claim, lines(n))
            await queue.append_logs(other, lines(n, source="other"))
        first = await queue.logs(claim.run.id, limit=2)
        rest = await queue.logs(claim.run.id, after=first[-1].cursor)
        assert [line.seq for line in first + rest] == [1, 2, 3, 4, 5]
        assert {line.source for line in first + rest} == {"flow"}
        assert await queue.logs(claim.run.id, after=rest[-1].cursor) == []

    async def test_last_seq_is_per_attempt_and_source(self, queue: Queue):
        claim = await running(queue)
        await queue.append_logs(claim, [*lines(1, 2, 7), *lines(3, attempt=2), *lines(5, source="agent.1")])
        run_id = claim.run.id
        assert await queue.last_seq(run_id, 1, "flow") == 7
        assert await queue.last_seq(run_id, 2, "flow") == 3
        assert await queue.last_seq(run_id, 1, "agent.1") == 5
        assert await queue.last_seq(run_id, 3, "flow") == 0


class Agents:
    """``announce``, ``retire``, ``agents``."""

    async def test_agents_are_listed_by_name_as_they_announced_themselves(self, queue: Queue, clock: ManualClock):
        two = agent("two", labels=frozenset({"eu", "é"}), launchers={"docker": "e"}, limit=4, version="1", host="h")
        await queue.announce(two)
        await queue.announce(agent("one"))
        await queue.announce(replace(two, draining=True))
        one_listed, two_listed = await queue.agents()
        assert one_listed == agent("one", seen_at=clock.now())
        assert two_listed == replace(two, draining=True, seen_at=clock.now())

    async def test_the_queue_says_how_long_ago_it_saw_an_agent(self, queue: Queue, clock: ManualClock):
        await queue.announce(agent("one", silent=5.0))
        clock.advance(30)
        await queue.extend(agent("two"), [])
        clock.advance(12.5)
        assert [(each.name, each.silent) for each in await queue.agents()] == [("one", 42.5), ("two", 12.5)]

    async def test_a_dead_agent_is_remembered_for_a_day(self, queue: Queue, clock: ManualClock):
        await queue.announce(agent())
        clock.advance(86_000)
        assert len(await queue.agents()) == 1
        clock.advance(1_000)
        assert await queue.agents() == []

    async def test_only_its_own_incarnation_retires_an_agent(self, queue: Queue):
        await queue.announce(agent(incarnation="2", started_at=20.0))
        await queue.retire(agent(incarnation="1", started_at=10.0))
        assert len(await queue.agents()) == 1
        await queue.retire(agent(incarnation="2"))
        assert await queue.agents() == []
        await queue.retire(agent(incarnation="2"))

    async def test_a_late_word_of_a_predecessor_does_not_hide_its_successor(self, queue: Queue):
        await queue.announce(agent(incarnation="2", started_at=20.0))
        await queue.extend(agent(incarnation="1", started_at=10.0), [])
        assert [a.incarnation for a in await queue.agents()] == ["2"]
