"""What may be written under a claim, from the start to the end."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import replace

import pytest

from flow_agent.errors import ClaimLost
from flow_agent.model import Claim, Outcome, Reason, State, Verdict
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import LEASES, RAISED, SUCCEEDED, agent, lines, running, submitted, won


class Ending:
    """``started``, ``extend``, ``finish``, ``release``, ``cancel`` under a claim."""

    async def test_started_counts_the_attempt_and_begins_the_longer_lease(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        claim = await won(queue)
        clock.advance(20)
        await queue.started(claim, "ref-1", revision="abc")
        run = await queue.get(claim.run.id)
        assert (run.state, run.attempt, run.ref, run.revision) == (State.RUNNING, 1, "ref-1", "abc")
        assert run.started_at == clock.now()
        (attempt,) = await queue.attempts(run.id)
        assert (attempt.number, attempt.claim, attempt.agent, attempt.finished_at) == (1, 1, "one", None)
        clock.advance(LEASES.running - 1)
        assert await queue.reap() == []
        clock.advance(1)
        assert [r.id for r in await queue.reap()] == [run.id]

    async def test_started_repeated_with_the_same_ref_changes_nothing(self, queue: Queue, clock: ManualClock):
        claim = await running(queue)
        before = await queue.get(claim.run.id)
        clock.advance(5)
        await queue.started(claim, "ref-1", revision="rev")
        assert await queue.get(claim.run.id) == before
        assert len(await queue.attempts(claim.run.id)) == 1
        with pytest.raises(ClaimLost):
            await queue.started(claim, "ref-2")

    async def test_extend_prolongs_each_lease_by_its_own_length(self, queue: Queue, clock: ManualClock):
        started = await running(queue)
        await submitted(queue)
        claimed = await won(queue)
        for _ in range(4):
            clock.advance(LEASES.claimed - 1)
            verdicts = await queue.extend(agent(), [claimed, started])
            assert set(verdicts.values()) == {Verdict.HELD}
        assert set(verdicts) == {(claimed.run.id, claimed.number), (started.run.id, started.number)}
        clock.advance(LEASES.claimed)
        assert [r.id for r in await queue.reap()] == [claimed.run.id]

    async def test_extend_tells_what_was_cancelled_and_what_was_lost(self, queue: Queue, clock: ManualClock):
        kept, cancelled, lost = [await running(queue) for _ in range(3)]
        requested = await queue.cancel(cancelled.run.id)
        assert (requested.state, requested.cancel_requested) == (State.RUNNING, True)
        await queue.finish(lost, SUCCEEDED)
        verdicts = await queue.extend(agent(), [kept, cancelled, lost])
        assert list(verdicts.values()) == [Verdict.HELD, Verdict.CANCEL, Verdict.LOST]
        clock.advance(LEASES.running - 1)
        await queue.extend(agent(), [cancelled])
        clock.advance(1)
        assert [r.id for r in await queue.reap()] == [kept.run.id]

    async def test_extend_without_claims_is_a_sign_of_life(self, queue: Queue, clock: ManualClock):
        await queue.announce(agent())
        clock.advance(50)
        assert await queue.extend(agent(running=3), []) == {}
        (known,) = await queue.agents()
        assert (known.seen_at, known.running) == (clock.now(), 3)

    async def test_finish_gives_the_run_its_outcome(self, queue: Queue, clock: ManualClock):
        claim = await running(queue)
        clock.advance(3)
        run = await queue.finish(claim, SUCCEEDED)
        assert (run.state, run.reason, run.exit_code) == (State.SUCCEEDED, Reason.COMPLETED, 0)
        assert (run.result, run.finished_at) == ({"inline": [1, "x"]}, clock.now())
        assert (run.agent, run.ref, run.attempt) == ("one", "ref-1", 1)
        assert await queue.get(run.id) == run
        (attempt,) = await queue.attempts(run.id)
        assert (attempt.reason, attempt.finished_at, attempt.exit_code) == (Reason.COMPLETED, clock.now(), 0)

    async def test_what_an_attempt_has_fetched_itself_is_told_with_its_end(self, queue: Queue):
        await submitted(queue)
        claim = await won(queue)
        await queue.started(claim, "ref-1")
        outcome = replace(RAISED, revision="abc")
        assert (await queue.finish(claim, outcome)).revision == "abc"
        assert (await queue.finish(claim, outcome)).revision == "abc"
        assert (await queue.get(claim.run.id)).revision == "abc"
        told = await running(queue)
        assert (await queue.finish(told, RAISED)).revision == "rev"

    async def test_an_end_that_is_reported_late_is_told_as_it_was(self, queue: Queue, clock: ManualClock):
        claim = await running(queue)
        clock.advance(30)
        late = replace(SUCCEEDED, ago=20.0)
        run = await queue.finish(claim, late)
        assert run.finished_at == pytest.approx(clock.now() - 20)
        clock.advance(5)
        assert await queue.finish(claim, replace(late, ago=25.0)) == run  # the same end, told again
        (attempt,) = await queue.attempts(run.id)
        assert attempt.finished_at == pytest.approx(run.finished_at)

    async def test_no_attempt_ends_before_it_began(self, queue: Queue):
        claim = await running(queue)
        run = await queue.finish(claim, replace(SUCCEEDED, ago=3600.0))
        assert run.finished_at == run.started_at

    async def test_finish_before_the_start_ends_the_run_without_an_attempt(self, queue: Queue):
        await submitted(queue)
        claim = await won(queue)
        run = await queue.finish(claim, Outcome(state=State.FAILED, reason=Reason.FETCH_FAILED, detail="gone"))
        assert (run.state, run.reason, run.detail, run.attempt) == (State.FAILED, Reason.FETCH_FAILED, "gone", 0)
        assert await queue.attempts(run.id) == []

    @pytest.mark.parametrize(("retry_in", "state"), [(0, State.QUEUED), (30.0, State.SCHEDULED)])
    async def test_a_retry_waits_and_tells_of_the_ended_attempt(
        self, queue: Queue, clock: ManualClock, retry_in: float, state: State
    ):
        claim = await running(queue)
        run = await queue.finish(claim, RAISED, retry_in=retry_in)
        assert (run.state, run.reason, run.detail, run.exit_code) == (state, Reason.RAISED, "ValueError: no", 1)
        assert (run.attempt, run.agent, run.ref, run.launcher, run.finished_at) == (1, None, None, None, None)
        clock.advance(retry_in)
        again = await won(queue)
        assert (again.number, again.attempt, again.ref) == (2, 2, None)
        await queue.started(again, "ref-2")
        now = await queue.get(run.id)
        assert (now.reason, now.detail, now.exit_code, now.attempt) == (None, "", None, 2)
        first, second = await queue.attempts(run.id)
        assert (first.reason, second.reason) == (Reason.RAISED, None)

    @pytest.mark.parametrize("retry_in", [None, 0, 30.0])
    async def test_finish_repeated_succeeds_and_changes_nothing(self, queue: Queue, retry_in: float | None):
        claim = await running(queue)
        first = await queue.finish(claim, RAISED, retry_in=retry_in)
        assert await queue.finish(claim, RAISED, retry_in=retry_in) == first
        assert await queue.get(claim.run.id) == first

    async def test_finish_repeated_after_the_run_was_claimed_again_changes_nothing(self, queue: Queue):
        claim = await running(queue)
        await queue.finish(claim, RAISED, retry_in=0)
        again = await won(queue)
        await queue.started(again, "ref-2")
        before = await queue.get(claim.run.id)
        assert await queue.finish(claim, RAISED, retry_in=0) == before
        await queue.finish(again, SUCCEEDED)
        assert (await queue.finish(claim, RAISED, retry_in=0)).state is State.SUCCEEDED

    async def test_finish_with_another_outcome_is_refused(self, queue: Queue):
        claim = await running(queue)
        run = await queue.finish(claim, RAISED)
        with pytest.raises(ClaimLost):
            await queue.finish(claim, SUCCEEDED)
        assert await queue.get(run.id) == run

    async def test_a_retry_of_a_cancelled_run_does_not_happen(self, queue: Queue):
        claim = await running(queue)
        await queue.cancel(claim.run.id)
        run = await queue.finish(claim, RAISED, retry_in=5)
        assert (run.state, run.reason) == (State.CANCELLED, Reason.CANCELLED)
        (attempt,) = await queue.attempts(run.id)
        assert attempt.reason is Reason.RAISED

    async def test_a_run_that_succeeded_before_it_could_be_cancelled_has_succeeded(self, queue: Queue):
        claim = await running(queue)
        await queue.cancel(claim.run.id)
        assert (await queue.finish(claim, SUCCEEDED)).state is State.SUCCEEDED

    async def test_release_gives_back_without_using_an_attempt(self, queue: Queue):
        await submitted(queue)
        claim = await won(queue)
        await queue.release(claim, detail="the storage is busy")
        run = await queue.get(claim.run.id)
        assert (run.state, run.detail, run.attempt, run.losses) == (State.QUEUED, "the storage is busy", 0, 0)
        assert (run.agent, run.launcher, run.released_since) == (None, None, None)
        again = await won(queue, agent("two"))
        assert (again.number, again.attempt) == (2, 1)
        await queue.release(claim, detail="the storage is busy")
        assert (await queue.get(claim.run.id)).agent == "two"

    async def test_release_with_delay_remembers_when_it_first_happened(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        since = clock.now()
        for n in range(3):
            claim = await won(queue, request_id=f"r{n}")
            await queue.release(claim, delay=10)
            run = await queue.get(claim.run.id)
            assert (run.state, run.due_at) == (State.SCHEDULED, clock.now() + 10)
            assert run.released_since == since
            assert await queue.claim(agent(), 1, f"early-{n}") == []
            clock.advance(10)
        claim = await won(queue, request_id="last")
        assert claim.run.released_since == since
        await queue.started(claim, "ref")
        assert (await queue.get(claim.run.id)).released_since is None

    async def test_release_of_a_cancelled_run_ends_it(self, queue: Queue):
        await submitted(queue)
        claim = await won(queue)
        assert (await queue.cancel(claim.run.id)).state is State.CLAIMED
        await queue.release(claim)
        run = await queue.get(claim.run.id)
        assert (run.state, run.reason) == (State.CANCELLED, Reason.CANCELLED)

    async def test_release_of_a_started_claim_without_scope_is_refused(self, queue: Queue):
        claim = await running(queue)
        with pytest.raises(ClaimLost):
            await queue.release(claim)
        assert (await queue.get(claim.run.id)).state is State.RUNNING

    @pytest.mark.parametrize("how", ["lost", "finished", "retried", "released", "handed over", "taken over"])
    async def test_every_write_under_a_stale_claim_is_refused(self, queue: Queue, clock: ManualClock, how: str):
        claim = await self._stale(queue, clock, how)
        before = (await queue.get(claim.run.id), await queue.attempts(claim.run.id), await queue.logs(claim.run.id))
        with pytest.raises(ClaimLost):
            await queue.started(claim, "ref-9")
        with pytest.raises(ClaimLost):
            await queue.finish(claim, replace(SUCCEEDED, detail="late"))
        with pytest.raises(ClaimLost):
            await queue.append_logs(claim, lines(1))
        if how not in {"released", "handed over"}:
            with pytest.raises(ClaimLost):
                await queue.release(claim)
        assert await queue.extend(agent(), [claim]) == {(claim.run.id, claim.number): Verdict.LOST}
        after = (await queue.get(claim.run.id), await queue.attempts(claim.run.id), await queue.logs(claim.run.id))
        assert after == before

    @staticmethod
    async def _stale(queue: Queue, clock: ManualClock, how: str) -> Claim:
        if how in {"lost", "released"}:
            await submitted(queue)
            claim = await won(queue)
        else:
            claim = await running(queue, scope="s" if how in {"handed over", "taken over"} else "")
        match how:
            case "lost":
                clock.advance(LEASES.claimed)
                await queue.reap()
            case "finished":
                await queue.finish(claim, RAISED)
            case "retried":
                await queue.finish(claim, RAISED, retry_in=0)
                await won(queue, agent("two"))
            case "taken over":
                clock.advance(LEASES.running)
                assert len(await queue.take_over(agent("two", launchers={"process": "s"}), 1, "t")) == 1
            case _:
                await queue.release(claim)
        return claim

    @pytest.mark.parametrize("end", [SUCCEEDED, RAISED, Outcome(state=State.CANCELLED, reason=Reason.CANCELLED)])
    async def test_a_terminal_run_never_changes(self, queue: Queue, clock: ManualClock, end: Outcome):
        claim = await running(queue)
        run = await queue.finish(claim, end)
        clock.advance(1000)
        assert await queue.cancel(run.id) == run
        assert await queue.reap() == []
        assert await queue.take_over(agent(incarnation="2"), 9, "t") == []
        assert await queue.claim(agent(), 9, "r") == []
        assert await queue.get(run.id) == run
