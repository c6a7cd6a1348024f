"""What becomes of claims whose agent is gone."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import pytest

from flow_agent.model import LOSSES_ALLOWED, Reason, State, Verdict
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import LEASES, SUCCEEDED, agent, registration, running, submitted, won


class Losing:
    """``reap`` and ``take_over``."""

    async def test_a_claim_lost_before_the_start_uses_no_attempt(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        await won(queue)
        clock.advance(LEASES.claimed - 0.001)
        assert await queue.reap() == []
        clock.advance(0.001)
        (run,) = await queue.reap()
        assert (run.state, run.losses, run.attempt, run.agent) == (State.QUEUED, 1, 0, None)
        assert await queue.reap() == []

    async def test_claiming_resolves_what_was_lost(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        first = await won(queue)
        clock.advance(LEASES.claimed)
        (second,) = await queue.claim(agent("two"), 1, "r2")
        assert (second.run.id, second.number, second.attempt) == (first.run.id, 2, 1)

    async def test_the_fifth_loss_ends_the_run(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        for n in range(LOSSES_ALLOWED):
            await won(queue, request_id=f"r{n}")
            clock.advance(LEASES.claimed)
            (run,) = await queue.reap()
            assert run.losses == n + 1
        assert (run.state, run.reason) == (State.FAILED, Reason.AGENT_ERROR)
        assert run.finished_at == clock.now()

    async def test_an_attempt_lost_after_the_start_is_used(self, queue: Queue, clock: ManualClock):
        claim = await running(queue)
        clock.advance(LEASES.running)
        (run,) = await queue.reap()
        assert (run.state, run.reason, run.attempt) == (State.FAILED, Reason.AGENT_LOST, 1)
        (attempt,) = await queue.attempts(claim.run.id)
        assert (attempt.reason, attempt.finished_at) == (Reason.AGENT_LOST, clock.now())

    @pytest.mark.parametrize(("delay", "state"), [(0.0, State.QUEUED), (45.0, State.SCHEDULED)])
    async def test_a_lost_attempt_is_retried_as_the_flow_allows(
        self, queue: Queue, clock: ManualClock, delay: float, state: State
    ):
        await queue.register([registration(retries=1, retry_delay=delay)])
        await running(queue)
        clock.advance(LEASES.running)
        (run,) = await queue.reap()
        assert (run.state, run.reason, run.attempt) == (state, Reason.AGENT_LOST, 1)
        assert delay == 0 or run.due_at == clock.now() + delay
        clock.advance(delay)
        await queue.started(await won(queue), "ref-2")
        clock.advance(LEASES.running)
        (run,) = await queue.reap()
        assert (run.state, run.attempt) == (State.FAILED, 2)

    @pytest.mark.parametrize("has_started", [False, True])
    async def test_a_lost_run_that_was_to_be_cancelled_is_cancelled(
        self, queue: Queue, clock: ManualClock, has_started: bool
    ):
        await queue.register([registration(retries=3)])
        await submitted(queue)
        claim = await won(queue)
        if has_started:
            await queue.started(claim, "ref")
        await queue.cancel(claim.run.id)
        clock.advance(LEASES.running)
        (run,) = await queue.reap()
        assert (run.state, run.reason) == (State.CANCELLED, Reason.CANCELLED)

    async def test_leases_end_with_the_boot_of_their_machine(self, queue: Queue, clock: ManualClock):
        claim = await running(queue)
        clock.reboot("boot-0")
        (run,) = await queue.reap()
        assert (run.id, run.state) == (claim.run.id, State.FAILED)
        other = await running(queue)
        clock.reboot("boot-9")
        assert [r.id for r in await queue.reap()] == [other.run.id]

    async def test_a_suspended_machine_loses_nothing(self, queue: Queue, clock: ManualClock):
        claim = await running(queue)
        clock.sleep(100_000)
        assert await queue.reap() == []
        await queue.finish(claim, SUCCEEDED)

    async def test_a_lost_attempt_with_a_scope_waits_to_be_taken_over(self, queue: Queue, clock: ManualClock):
        claim = await running(queue, agent(launchers={"process": "engine-1"}), scope="engine-1")
        await queue.cancel(claim.run.id)
        clock.advance(LEASES.running)
        (run,) = await queue.reap()
        assert (run.state, run.agent, run.attempt, run.ref) == (State.RUNNING, None, 1, "ref-1")
        assert [(each.queued, each.since, each.going) for each in await queue.waiting()] == [(0, None, 1)]
        assert await queue.take_over(agent("other"), 9, "t0") == []
        assert await queue.take_over(agent("other", launchers={"process": "engine-2"}), 9, "t1") == []
        assert await queue.take_over(agent("other", launchers={"docker": "engine-1"}), 9, "t2") == []
        heir = agent("two", launchers={"process": "engine-1"})
        (taken,) = await queue.take_over(heir, 9, "t3")
        assert (taken.number, taken.attempt, taken.ref, taken.lease) == (2, 1, "ref-1", LEASES.running)
        assert (taken.run.agent, taken.run.state) == ("two", State.RUNNING)
        assert await queue.extend(heir, [taken]) == {(run.id, 2): Verdict.CANCEL}
        assert [each.going for each in await queue.waiting()] == [1]
        await queue.finish(taken, SUCCEEDED)
        assert await queue.waiting() == []
        (attempt,) = await queue.attempts(run.id)
        assert attempt.reason is Reason.COMPLETED

    async def test_a_lease_that_ended_unnoticed_can_be_taken_over(self, queue: Queue, clock: ManualClock):
        await running(queue, scope="s")
        heir = agent("two", launchers={"process": "s"})
        assert await queue.take_over(heir, 9, "t1") == []
        clock.advance(LEASES.running)
        assert len(await queue.take_over(heir, 9, "t1")) == 1

    async def test_a_started_claim_with_a_scope_is_handed_over_by_release(self, queue: Queue):
        claim = await running(queue, scope="s")
        await queue.release(claim)
        await queue.release(claim)
        run = await queue.get(claim.run.id)
        assert (run.state, run.agent, run.attempt) == (State.RUNNING, None, 1)
        assert await queue.reap() == []
        (taken,) = await queue.take_over(agent("two", launchers={"process": "s"}), 9, "t")
        assert (taken.ref, taken.attempt) == ("ref-1", 1)

    async def test_a_successor_wins_what_its_predecessor_started_and_gives_back_the_rest(self, queue: Queue):
        started = await running(queue)
        await submitted(queue)
        claimed = await won(queue)
        await submitted(queue)
        cancelled = await won(queue)
        await queue.cancel(cancelled.run.id)
        foreign = await running(queue, agent("other"))

        successor = agent(incarnation="2")
        (taken,) = await queue.take_over(successor, 0, "t")

        assert (taken.run.id, taken.number, taken.attempt, taken.ref) == (started.run.id, 2, 1, "ref-1")
        back = await queue.get(claimed.run.id)
        assert (back.state, back.losses, back.attempt) == (State.QUEUED, 1, 0)
        assert (await queue.get(cancelled.run.id)).state is State.CANCELLED
        assert (await queue.get(foreign.run.id)).agent == "other"
        assert await queue.take_over(successor, 9, "t2") == []

    async def test_a_run_that_ends_each_life_of_its_agent_is_given_up(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        for life in range(LOSSES_ALLOWED):
            claim = await won(queue, agent(incarnation=f"{life}"))
            assert await queue.take_over(agent(incarnation=f"{life + 1}"), 9, f"t{life}") == []
            run = await queue.get(claim.run.id)
            assert (run.losses, run.attempt, run.agent is None) == (life + 1, 0, life + 1 < LOSSES_ALLOWED)
            assert (run.state is State.QUEUED) is (life + 1 < LOSSES_ALLOWED)
        assert (run.state, run.reason, run.finished_at) == (State.FAILED, Reason.AGENT_ERROR, clock.now())

    async def test_an_agent_that_stops_in_order_loses_nothing(self, queue: Queue):
        await submitted(queue)
        await queue.release(await won(queue))
        assert await queue.take_over(agent(incarnation="2"), 9, "t") == []
        (run,) = await queue.runs()
        assert (run.state, run.losses) == (State.QUEUED, 0)

    async def test_no_more_than_the_limit_is_taken_over(self, queue: Queue):
        claims = [await running(queue, scope="s") for _ in range(3)]
        for claim in claims:
            await queue.release(claim)
        heir = agent("two", launchers={"process": "s"})
        assert len(await queue.take_over(heir, 2, "t1")) == 2
        assert len(await queue.take_over(heir, 2, "t2")) == 1

    async def test_the_same_takeover_request_gives_the_same_claims(self, queue: Queue):
        claims = [await running(queue, scope="s") for _ in range(2)]
        for claim in claims:
            await queue.release(claim)
        heir = agent("two", launchers={"process": "s"})
        first = await queue.take_over(heir, 1, "t1")
        assert await queue.take_over(heir, 1, "t1") == first
        await queue.started(first[0], "ref-1")
        assert len(await queue.attempts(first[0].run.id)) == 1
