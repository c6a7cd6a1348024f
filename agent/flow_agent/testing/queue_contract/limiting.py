"""How many may run at a time."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import pytest

from flow_agent.errors import InvalidInput, NotFound
from flow_agent.model import Full, Limit, Reason, Run, State, Submission
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import LEASES, RAISED, SUCCEEDED, OpenAgain, agent, registration

GPU = agent("gpu", labels=frozenset({"gpu", "eu"}))


async def _runs(queue: Queue, count: int, *labels: str, flow: str = "add", **more) -> list[Run]:
    try:
        await queue.registration(flow)
    except NotFound:
        await queue.register([registration(flow)])
    return await queue.submit([Submission(flow=flow, labels=frozenset(labels), **more)] * count)


async def _limit(queue: Queue, limit: Limit) -> None:
    if limit.kind == "flow":
        await _runs(queue, 0)
    await queue.set_limit(limit)


class Limiting:
    """``set_limit``, ``remove_limit``, ``limits``, and what they mean for ``claim`` and ``submit``."""

    async def test_limits_are_listed_with_what_is_taken(self, queue: Queue, open_again: OpenAgain):
        await _limit(queue, Limit(kind="label", name="gpu", slots=2))
        await _limit(queue, Limit(kind="flow", name="add", slots=9, when_full=Full.SKIP))
        await _limit(queue, Limit(kind="label", name="gpu", slots=3))
        await _runs(queue, 2, "gpu")
        await queue.claim(GPU, 1, "r1")
        async with open_again() as other:
            found = await other.limits()
        assert found == [
            Limit(kind="flow", name="add", slots=9, when_full=Full.SKIP, taken=1),
            Limit(kind="label", name="gpu", slots=3, taken=1),
        ]
        await queue.remove_limit("flow", "add")
        assert [limit.name for limit in await queue.limits()] == ["gpu"]
        with pytest.raises(NotFound):
            await queue.remove_limit("flow", "add")

    @pytest.mark.parametrize(
        "limit", [Limit(kind="label", name="gpu", slots=2), Limit(kind="flow", name="add", slots=2)]
    )
    @pytest.mark.parametrize("before", [True, False])
    async def test_no_more_are_won_than_there_are_slots_and_others_are_not_held_up(self, queue: Queue, limit, before):
        if before:
            await _limit(queue, limit)
        held = await _runs(queue, 5, "gpu", priority=1)
        free = await _runs(queue, 2, "eu", flow="other")
        if not before:
            await _limit(queue, limit)
        first = await queue.claim(GPU, 1, "r1")
        rest = await queue.claim(GPU, 9, "r2")
        assert [claim.run.id for claim in first + rest] == [held[0].id, held[1].id, free[0].id, free[1].id]
        assert await queue.claim(GPU, 9, "r3") == []
        assert [run.state for run in await queue.runs(flow="add")][:3] == [State.QUEUED] * 3
        await queue.finish(first[0], SUCCEEDED)
        assert [claim.run.id for claim in await queue.claim(GPU, 9, "r4")] == [held[2].id]

    async def test_what_runs_when_a_limit_is_set_counts_too(self, queue: Queue):
        await _runs(queue, 3)
        claims = await queue.claim(agent(), 2, "r1")
        await queue.started(claims[0], "ref")
        await _limit(queue, Limit(kind="flow", name="add", slots=1))
        assert (await queue.limits())[0].taken == 2
        await queue.finish(claims[0], SUCCEEDED)
        assert await queue.claim(agent(), 2, "r2") == []
        await queue.finish(claims[1], SUCCEEDED)
        assert len(await queue.claim(agent(), 2, "r3")) == 1

    @pytest.mark.parametrize("how", ["finish", "retry", "release", "lost", "cancel"])
    async def test_a_slot_is_free_when_its_run_is_held_no_more(self, queue: Queue, clock: ManualClock, how):
        await _limit(queue, Limit(kind="label", name="gpu", slots=1))
        first, second = await _runs(queue, 2, "gpu")
        (claim,) = await queue.claim(GPU, 2, "r1")
        assert claim.run.id == first.id
        match how:
            case "finish":
                await queue.finish(claim, SUCCEEDED)
            case "retry":
                await queue.started(claim, "ref")
                await queue.finish(claim, RAISED, retry_in=60)
            case "release":
                await queue.release(claim, delay=60)
            case "lost":
                clock.advance(LEASES.claimed + 1)
                await queue.cancel(first.id)
            case "cancel":
                await queue.cancel(first.id)
                assert await queue.claim(GPU, 2, "r2") == []  # it may still run
                await queue.finish(claim, RAISED, retry_in=0)
        (claim,) = await queue.claim(agent("other", labels=GPU.labels), 2, "r3")
        assert claim.run.id == second.id

    async def test_a_run_needs_a_slot_of_each_limit_that_covers_it(self, queue: Queue):
        await _limit(queue, Limit(kind="label", name="gpu", slots=2))
        await _limit(queue, Limit(kind="label", name="eu", slots=1))
        await _runs(queue, 2, "gpu", "eu")
        both, only = await queue.claim(GPU, 1, "r1"), await _runs(queue, 2, "gpu")
        claims = await queue.claim(GPU, 9, "r2")
        assert len(both) == 1
        assert [claim.run.id for claim in claims] == [only[0].id]

    async def test_a_limit_of_no_slots_holds_all_until_it_is_changed_or_removed(self, queue: Queue):
        await _limit(queue, Limit(kind="flow", name="add", slots=0))
        runs = await _runs(queue, 3)
        assert await queue.claim(agent(), 3, "r1") == []
        await _limit(queue, Limit(kind="flow", name="add", slots=1))
        assert [claim.run.id for claim in await queue.claim(agent(), 3, "r2")] == [runs[0].id]
        await queue.remove_limit("flow", "add")
        assert [claim.run.id for claim in await queue.claim(agent(), 3, "r3")] == [run.id for run in runs[1:]]

    async def test_a_repeated_claim_gives_its_slots_again(self, queue: Queue):
        await _limit(queue, Limit(kind="flow", name="add", slots=1))
        await _runs(queue, 2)
        first = await queue.claim(agent(), 2, "r1")
        assert await queue.claim(agent(), 2, "r1") == first

    async def test_a_run_that_comes_due_is_held_back_too(self, queue: Queue, clock: ManualClock):
        await _limit(queue, Limit(kind="flow", name="add", slots=1))
        await _runs(queue, 2, due_at=clock.now() + 10)
        clock.advance(11)
        assert len(await queue.claim(agent(), 2, "r1")) == 1

    async def test_skip_ends_what_is_submitted_while_the_limit_is_full(self, queue: Queue, clock: ManualClock):
        await _limit(queue, Limit(kind="flow", name="add", slots=2, when_full=Full.SKIP))
        runs = await _runs(queue, 3)
        assert [run.state for run in runs] == [State.QUEUED, State.QUEUED, State.CANCELLED]
        assert (runs[2].reason, runs[2].finished_at) == (Reason.CANCELLED, clock.now())
        assert "limit" in runs[2].detail
        assert await queue.get(runs[2].id) == runs[2]
        claims = await queue.claim(agent(), 3, "r1")
        assert len(claims) == 2
        assert (await _runs(queue, 1))[0].state is State.CANCELLED
        await queue.finish(claims[0], SUCCEEDED)
        assert (await _runs(queue, 1))[0].state is State.QUEUED
        assert (await _runs(queue, 1, due_at=clock.now() + 60))[0].state is State.SCHEDULED

    async def test_replace_cancels_the_oldest_of_the_others(self, queue: Queue):
        await _limit(queue, Limit(kind="label", name="gpu", slots=1, when_full=Full.REPLACE))
        (first,) = await _runs(queue, 1, "gpu")
        (second,) = await _runs(queue, 1, "gpu")
        assert (await queue.get(first.id)).state is State.CANCELLED
        (claim,) = await queue.claim(GPU, 2, "r1")
        await queue.started(claim, "ref")
        (third,) = await _runs(queue, 1, "gpu")
        assert (claim.run.id, (await queue.get(second.id)).cancel_requested) == (second.id, True)
        assert await queue.claim(GPU, 2, "r2") == []
        await queue.finish(claim, RAISED, retry_in=0)
        assert [claim.run.id for claim in await queue.claim(GPU, 2, "r3")] == [third.id]

    @pytest.mark.parametrize("before", [State.QUEUED, State.CLAIMED, State.RUNNING])
    async def test_a_run_that_was_replaced_says_by_which_and_for_which_limit(self, queue: Queue, before: State):
        await _limit(queue, Limit(kind="label", name="gpu", slots=1, when_full=Full.REPLACE))
        (old,) = await _runs(queue, 1, "gpu")
        claims = await queue.claim(GPU, 1, "r1") if before is not State.QUEUED else []
        for claim in claims if before is State.RUNNING else []:
            await queue.started(claim, "ref")
        (new,) = await _runs(queue, 1, "gpu")
        said = f"replaced: the limit of label 'gpu', 1, was full, and run {new.id} came"
        for claim in claims:
            await queue.started(claim, "ref")
            assert (await queue.get(old.id)).detail == said
            await queue.finish(claim, RAISED, retry_in=0)
            said += f"; {RAISED.detail}"
        ended = await queue.get(old.id)
        assert (ended.state, ended.reason, ended.detail) == (State.CANCELLED, Reason.CANCELLED, said)

    async def test_waiting_runs_of_a_limited_flow_are_counted_with_the_others(self, queue: Queue):
        await _limit(queue, Limit(kind="flow", name="add", slots=1))
        await _runs(queue, 2)
        await _runs(queue, 3, flow="other")
        (waiting,) = await queue.waiting()
        assert waiting.queued == 5

    @pytest.mark.parametrize(
        "limit", [Limit(kind="flow", name="x", slots=-1), Limit(kind="flow", name="x", slots=10**7)]
    )
    async def test_a_number_of_slots_that_cannot_be_is_refused(self, queue: Queue, limit):
        with pytest.raises(ValueError, match="slots"):
            await queue.set_limit(limit)
        assert await queue.limits() == []

    async def test_a_flow_that_nobody_registered_has_no_limit(self, queue: Queue):
        with pytest.raises(InvalidInput, match="'ad' is not registered"):
            await queue.set_limit(Limit(kind="flow", name="ad", slots=1))
        assert await queue.limits() == []
