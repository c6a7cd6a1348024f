"""What is removed, and what stays."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import replace

import pytest

from flow_agent.errors import ClaimLost, InvalidInput, NotFound
from flow_agent.model import Full, Limit, Pruned, Pruning, State, Submission
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import (
    RAISED,
    SUCCEEDED,
    agent,
    lines,
    registration,
    running,
    submitted,
    won,
)

ALL = Pruning()


async def ended(queue: Queue, outcome=SUCCEEDED, **changes) -> str:
    """The id of a run that has ended, with two lines of log."""
    claim = await running(queue, **changes)
    await queue.append_logs(claim, lines(1, 2))
    return (await queue.finish(claim, outcome)).id


async def pruned(queue: Queue, rule: Pruning = ALL, *, dry_run: bool = False) -> Pruned:
    """All steps together."""
    total, before = Pruned(), None
    while True:
        step = await queue.prune(rule, before=before, dry_run=dry_run)
        total = Pruned(
            runs=total.runs + step.runs,
            lines=total.lines + step.lines,
            registrations=total.registrations + step.registrations,
            agents=total.agents + step.agents,
        )
        if step.next is None:
            return total
        before = step.next


async def ids(queue: Queue) -> list[str]:
    """All runs, oldest first."""
    return [run.id for run in reversed(await queue.runs(limit=5000))]


class Past:
    """``prune``."""

    async def test_a_number_that_no_queue_can_keep_is_refused(self, queue: Queue):
        for dry_run in (True, False):
            with pytest.raises(InvalidInput):
                await queue.prune(Pruning(keep_last=2**63), dry_run=dry_run)

    async def test_an_ended_run_goes_with_all_that_hangs_on_it(self, queue: Queue):
        claim = await running(queue, key="k")
        await queue.append_logs(claim, lines(1, 2, 3))
        await queue.finish(claim, SUCCEEDED)
        assert await pruned(queue, dry_run=True) == Pruned(runs=1, lines=3)
        assert await ids(queue) == [claim.run.id]
        assert await pruned(queue) == Pruned(runs=1, lines=3)
        with pytest.raises(NotFound):
            await queue.get(claim.run.id)
        assert await queue.logs(claim.run.id) == []
        assert await queue.attempts(claim.run.id) == []
        assert await queue.last_seq(claim.run.id, 1, "flow") == 0
        with pytest.raises(ClaimLost):
            await queue.finish(claim, SUCCEEDED)
        with pytest.raises(ClaimLost):
            await queue.append_logs(claim, lines(4))
        assert await pruned(queue) == Pruned()

    async def test_a_key_may_be_used_again_once_its_run_is_pruned(self, queue: Queue):
        await ended(queue, key="k")
        (known,) = await queue.submit([Submission(flow="add", key="k")])
        assert known.state is State.SUCCEEDED
        await pruned(queue)
        (fresh,) = await queue.submit([Submission(flow="add", key="k")])
        assert (fresh.state, fresh.id == known.id) == (State.QUEUED, False)

    async def test_what_has_not_ended_stays(self, queue: Queue, clock: ManualClock):
        runs = [
            await submitted(queue, due_at=clock.now() + 1e6),
            (await running(queue)).run,
            (await won(queue)).run if await submitted(queue) else None,
            await submitted(queue),
        ]
        cancelled = await running(queue)
        await queue.cancel(cancelled.run.id)
        clock.advance(20)
        assert await pruned(queue) == Pruned()
        assert len(await ids(queue)) == len(runs) + 1
        await queue.finish(cancelled, SUCCEEDED)

    async def test_only_what_ended_so_long_ago_goes(self, queue: Queue, clock: ManualClock):
        old = await ended(queue)
        late = await running(queue)
        clock.advance(100)
        young = await ended(queue)
        await queue.finish(late, SUCCEEDED)
        assert (await pruned(queue, Pruning(older_than=101))).runs == 0
        assert (await pruned(queue, Pruning(older_than=100))).runs == 1
        assert await ids(queue) == sorted([late.run.id, young])
        clock.advance(100)
        assert (await pruned(queue, Pruning(older_than=100))).runs == 2
        assert old not in await ids(queue)

    async def test_the_newest_of_each_flow_stay(self, queue: Queue):
        add = [await ended(queue) for _ in range(4)]
        other = [await ended(queue, flow="other") for _ in range(2)]
        waiting = await submitted(queue)
        assert (await pruned(queue, Pruning(keep_last=3))).runs == 1
        assert await ids(queue) == [*add[1:], *other, waiting.id]
        assert (await pruned(queue, Pruning(keep_last=1))).runs == 3
        assert await ids(queue) == [add[3], other[1], waiting.id]

    async def test_states_and_a_flow_narrow_what_goes(self, queue: Queue):
        good, bad = await ended(queue), await ended(queue, RAISED)
        other = await ended(queue, RAISED, flow="other")
        rest = [await ended(queue, RAISED), await ended(queue)]
        rule = Pruning(states=frozenset({State.FAILED}), flow="add", keep_last=1)
        assert (await pruned(queue, rule)).runs == 1
        assert await ids(queue) == [good, other, *rest]
        assert bad not in await ids(queue)

    async def test_a_run_stays_as_long_as_a_retry_of_it_does(self, queue: Queue, clock: ManualClock):
        first = await ended(queue, RAISED)
        second = await ended(queue, RAISED, retry_of=first)
        third = await submitted(queue, retry_of=second)
        clock.advance(100)
        assert (await pruned(queue)).runs == 0
        await queue.finish(await won(queue), SUCCEEDED)
        assert (await pruned(queue, Pruning(older_than=50))).runs == 0
        assert await ids(queue) == [first, second, third.id]
        clock.advance(50)
        assert await pruned(queue, Pruning(older_than=50), dry_run=True) == Pruned(runs=3, lines=4)
        assert await pruned(queue, Pruning(older_than=50)) == Pruned(runs=3, lines=4)

    async def test_many_runs_go_in_steps_that_each_do_a_bounded_part(self, queue: Queue):
        await queue.register([registration()])
        await queue.set_limit(Limit(kind="label", name="none", slots=0, when_full=Full.SKIP))
        skipped = Submission(flow="add", labels=frozenset({"none"}))
        many = await queue.submit([skipped, Submission(flow="add")] * 750)
        first = await queue.prune(ALL)
        assert 0 < first.runs < 750
        second = await queue.prune(ALL, before=first.next)
        assert (first.runs + second.runs, second.next) == (750, None)
        assert await ids(queue) == [run.id for run in many[1::2]]
        assert len(await queue.claim(agent(), 2000, "r")) == 750

    async def test_a_registration_that_no_run_names_goes_but_for_the_newest(self, queue: Queue, clock: ManualClock):
        for _ in range(3):
            await queue.register([registration()])
            await queue.register([registration("other")])
        run = await submitted(queue, version=2)
        clock.advance(100)
        await queue.register([registration()])
        assert (await pruned(queue, Pruning(older_than=200))).registrations == 0
        assert (await pruned(queue, Pruning(older_than=100), dry_run=True)).registrations == 4
        assert (await pruned(queue, Pruning(older_than=100, flow="other"))).registrations == 2
        assert (await pruned(queue, Pruning(older_than=100))).registrations == 2
        assert [each.version for each in await queue.registrations()] == [4, 3]
        assert (await queue.registration("add", 2)).version == 2
        with pytest.raises(NotFound):
            await queue.registration("add", 1)
        with pytest.raises(NotFound):
            await queue.submit([Submission(flow="add", version=3)])
        (claim,) = await queue.claim(agent(), 1, "r")
        assert (claim.run.id, claim.registration.version) == (run.id, 2)
        assert [each.version for each in await queue.register([registration()])] == [5]

    async def test_agents_that_are_listed_no_more_are_forgotten(self, queue: Queue, clock: ManualClock):
        await queue.announce(agent("one"))
        clock.advance(80_000)
        await queue.extend(agent("two"), [])
        clock.advance(10_000)
        assert (await pruned(queue, dry_run=True)).agents == 1
        assert (await pruned(queue)).agents == 1
        assert (await pruned(queue)).agents == 0
        assert [each.name for each in await queue.agents()] == ["two"]

    @pytest.mark.parametrize(
        "rule",
        [Pruning(older_than=-1), Pruning(keep_last=-1), Pruning(states=frozenset({State.QUEUED, State.FAILED}))],
    )
    async def test_what_cannot_be_is_refused(self, queue: Queue, rule: Pruning):
        run = await submitted(queue)
        with pytest.raises(ValueError, match="cannot be"):
            await queue.prune(rule)
        assert await ids(queue) == [run.id]

    async def test_a_rule_that_fits_nothing_removes_nothing(self, queue: Queue):
        run = await ended(queue)
        assert await pruned(queue, replace(ALL, flow="none")) == Pruned()
        assert await pruned(queue, replace(ALL, states=frozenset())) == Pruned()
        assert await ids(queue) == [run]
