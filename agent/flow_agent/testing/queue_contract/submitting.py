"""Registrations, and runs before somebody claims them."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from flow_agent.errors import InvalidInput, NotFound
from flow_agent.model import COUNTED, PROMOTED_AT_ONCE, Limit, Parameter, Reason, Run, State, Submission
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import OpenAgain, agent, registration, submitted, won


class Registrations:
    """``register``, ``registration``, ``registrations``."""

    async def test_registering_counts_versions_per_flow(self, queue: Queue, clock: ManualClock):
        first = await queue.register([registration("a"), registration("b"), registration("a")])
        second = await queue.register([registration("a")])
        assert [(r.flow, r.version) for r in first + second] == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]
        assert first[0].created_at == clock.now()

    async def test_a_registration_comes_back_as_it_was_given(self, queue: Queue):
        given_in = registration(
            labels=("eu", "gpu"),
            parameters=(Parameter(name="x", default=[1, None]),),
            run_config={"type": "LocalRun", "env": {"A": "é"}},
            secrets=("TOKEN",),
            retries=2,
            retry_delay=1.5,
            timeout=None,
        )
        (stored,) = await queue.register([given_in])
        assert await queue.registration("add") == stored
        assert replace(stored, version=0, created_at=0.0) == given_in

    async def test_an_older_version_can_be_asked_for(self, queue: Queue):
        await queue.register([registration(size=1), registration(size=2)])
        assert (await queue.registration("add", 1)).size == 1
        assert (await queue.registration("add")).size == 2

    async def test_an_unknown_flow_names_the_nearest_known_one(self, queue: Queue):
        await queue.register([registration("report"), registration("zebra")])
        with pytest.raises(NotFound, match="'report'") as caught:
            await queue.registration("repotr")
        assert caught.value.hint

    async def test_an_unknown_version_names_the_newest(self, queue: Queue):
        await queue.register([registration()])
        with pytest.raises(NotFound, match="newest is 1"):
            await queue.registration("add", 7)

    async def test_registrations_lists_the_newest_of_each_flow_by_name(self, queue: Queue):
        await queue.register([registration("b"), registration("a"), registration("b")])
        assert [(r.flow, r.version) for r in await queue.registrations()] == [("a", 1), ("b", 2)]


class Submitting:
    """``submit``, ``get``, ``runs``, ``cancel`` before a claim, ``waiting``, ``next_due``."""

    @pytest.mark.parametrize(
        "asked",
        [
            *({"labels": frozenset({label})} for label in ("", " x", "\n", "x" * 256)),
            {"parameters": {"x": "y" * 65_536}},
            {"due_at": 1e308},
            {"priority": 2**63},
            {"version": 2**63},
            {"key": ""},
            {"key": "k" * 1_001},
            {"labels": frozenset(f"{n}{'x' * 240}" for n in range(7))},
        ],
        ids=min,
    )
    async def test_what_cannot_be_is_refused_and_nothing_is_stored(self, queue: Queue, asked):
        await queue.register([registration()])
        with pytest.raises(InvalidInput):
            await queue.submit([Submission(flow="add"), Submission(flow="add", **asked)])
        assert await queue.runs() == []

    async def test_what_is_as_long_as_may_be_is_kept(self, queue: Queue):
        def noise(length: int, of: str) -> str:  # nothing can make it shorter
            return "".join(hashlib.sha512(f"{of}{n}".encode()).hexdigest() for n in range(length // 128 + 1))[:length]

        name, key = noise(1_000, "name"), noise(1_000, "key")
        labels = frozenset(noise(246, f"label {n}") for n in range(6))
        await queue.register([registration(name)])
        await queue.set_limit(Limit(kind="flow", name=name, slots=1))
        (run,) = await queue.submit([Submission(flow=name, key=key, labels=labels)])
        assert (await queue.submit([Submission(flow=name, key=key)])) == [run]
        (claim,) = await queue.claim(agent(labels=labels), 1, "r")
        assert (claim.run.key, claim.run.labels, claim.registration.flow) == (key, labels, name)

    @pytest.mark.parametrize("asked", [{"flow": "x" * 1_001}, {"labels": ("x" * 256,)}], ids=min)
    async def test_a_flow_that_not_every_queue_can_keep_is_refused(self, queue: Queue, asked):
        with pytest.raises(InvalidInput):
            await queue.register([registration("good"), registration(**asked)])
        assert await queue.registrations() == []

    async def test_ids_are_lowercase_ulids_in_the_order_of_submission(self, queue: Queue, open_again: OpenAgain):
        await queue.register([registration()])
        ids = []
        async with open_again() as other:
            for handle in (queue, other, queue):
                ids += [run.id for run in await handle.submit([Submission(flow="add")] * 20)]
        assert ids == sorted(ids)
        assert len(set(ids)) == 60
        assert all(len(i) == 26 and i == i.lower() and i.isalnum() for i in ids)

    async def test_a_run_has_what_its_submission_and_registration_say(self, queue: Queue, clock: ManualClock):
        await queue.register([registration(labels=("eu",), launcher="process")])
        run = await submitted(
            queue, parameters={"x": [1, {"y": "é"}]}, labels=frozenset({"gpu"}), priority=7, key="k", retry_of="01abc"
        )
        assert run == Run(
            id=run.id,
            flow="add",
            version=1,
            state=State.QUEUED,
            labels=frozenset({"eu", "gpu"}),
            launcher="process",
            parameters={"x": [1, {"y": "é"}]},
            priority=7,
            created_at=clock.now(),
            key="k",
            retry_of="01abc",
        )
        assert await queue.get(run.id) == run

    async def test_the_version_is_fixed_at_submit(self, queue: Queue):
        run = await submitted(queue)
        await queue.register([registration(size=5)])
        claim = await won(queue)
        assert (claim.run.id, claim.registration.version) == (run.id, 1)

    async def test_all_submissions_are_stored_or_none(self, queue: Queue):
        await queue.register([registration()])
        with pytest.raises(NotFound):
            await queue.submit([Submission(flow="add"), Submission(flow="other")])
        with pytest.raises(NotFound):
            await queue.submit([Submission(flow="add"), Submission(flow="add", version=9)])
        assert await queue.runs() == []

    async def test_a_key_gives_the_first_run_back_unchanged(self, queue: Queue):
        first = await submitted(queue, key="k", parameters={"x": 1})
        again = await submitted(queue, key="k", parameters={"x": 2})
        one, two = await queue.submit([Submission(flow="add", key="new"), Submission(flow="add", key="new")])
        assert again == first
        assert one == two
        assert len(await queue.runs()) == 2

    async def test_a_key_is_unique_per_flow_and_outlives_its_run(self, queue: Queue):
        await queue.register([registration("other")])
        first = await submitted(queue, key="k")
        await queue.cancel(first.id)
        (elsewhere,) = await queue.submit([Submission(flow="other", key="k")])
        assert elsewhere.id != first.id
        assert (await submitted(queue, key="k")).state is State.CANCELLED

    async def test_what_is_due_later_is_scheduled_and_promoted_when_its_time_comes(
        self, queue: Queue, clock: ManualClock
    ):
        later = await submitted(queue, due_at=clock.now() + 20)
        past = await submitted(queue, due_at=clock.now() - 60)
        assert (later.state, past.state) == (State.SCHEDULED, State.QUEUED)
        assert await queue.next_due() == later.due_at
        assert [c.run.id for c in await queue.claim(agent(), 9, "r1")] == [past.id]
        clock.advance(20)
        assert [c.run.id for c in await queue.claim(agent(), 9, "r2")] == [later.id]
        assert await queue.next_due() is None

    async def test_what_is_due_waits_also_where_nobody_claims(self, queue: Queue, clock: ManualClock):
        await queue.register([registration()])
        await queue.submit([Submission(flow="add", due_at=clock.now() + 10)])
        assert await queue.reap() == []
        assert await queue.waiting() == []
        clock.advance(20)
        assert await queue.reap() == []
        assert [w.queued for w in await queue.waiting()] == [1]

    async def test_one_claim_promotes_no_more_than_a_thousand_and_the_longest_due_first(
        self, queue: Queue, clock: ManualClock
    ):
        await queue.register([registration()])
        later, soon = clock.now() + 20, clock.now() + 10
        last, *_ = await queue.submit([Submission(flow="add", due_at=later)] * 2)
        await queue.submit([Submission(flow="add", due_at=soon)] * (PROMOTED_AT_ONCE - 1))
        clock.advance(20)
        assert await queue.claim(agent(), 0, "r1") == []
        assert [w.queued for w in await queue.waiting()] == [PROMOTED_AT_ONCE]
        assert await queue.next_due() == later
        (claim,) = await queue.claim(agent(), 1, "r2")
        assert claim.run.id == last.id
        assert await queue.next_due() is None
        assert [w.queued for w in await queue.waiting()] == [PROMOTED_AT_ONCE]

    async def test_a_run_is_found_by_an_unambiguous_beginning_of_its_id(self, queue: Queue, clock: ManualClock):
        first = await submitted(queue)
        clock.advance(10_000_000)
        second = await submitted(queue)
        different = next(n for n in range(26) if first.id[n] != second.id[n]) + 1
        assert (await queue.get(first.id[: max(4, different)])).id == first.id
        assert (await queue.get(second.id.upper())).id == second.id

    async def test_an_ambiguous_beginning_names_the_candidates(self, queue: Queue):
        await queue.register([registration()])
        runs = await queue.submit([Submission(flow="add")] * 2)
        with pytest.raises(NotFound) as caught:
            await queue.get(runs[0].id[:8])
        assert all(run.id in str(caught.value) for run in runs)

    @pytest.mark.parametrize("wrong", ["zzzzzzzz", "01", "", "%%%%%%", "____"])
    async def test_what_begins_no_id_or_is_too_short_is_not_found(self, queue: Queue, wrong: str):
        await submitted(queue)
        with pytest.raises(NotFound):
            await queue.get(wrong)

    async def test_runs_come_newest_first_by_state_flow_and_page(self, queue: Queue):
        await queue.register([registration(), registration("other")])
        runs = await queue.submit([Submission(flow="add"), Submission(flow="other"), Submission(flow="add")])
        await queue.cancel(runs[0].id)
        ids = [run.id for run in runs]
        assert [r.id for r in await queue.runs()] == ids[::-1]
        assert [r.id for r in await queue.runs(limit=1)] == ids[2:]
        assert [r.id for r in await queue.runs(before=ids[2])] == [ids[1], ids[0]]
        assert [r.id for r in await queue.runs(states=[State.CANCELLED, State.FAILED])] == ids[:1]
        assert [r.id for r in await queue.runs(flow="add")] == [ids[2], ids[0]]
        assert [r.id for r in await queue.runs(flow="add", states={State.QUEUED}, before=ids[2])] == []

    @pytest.mark.parametrize("due_in", [None, 60])
    async def test_cancelling_what_waits_ends_it_at_once(self, queue: Queue, clock: ManualClock, due_in: float | None):
        run = await submitted(queue, due_at=due_in and clock.now() + due_in)
        cancelled = await queue.cancel(run.id)
        assert (cancelled.state, cancelled.reason) == (State.CANCELLED, Reason.CANCELLED)
        assert cancelled.finished_at == clock.now()
        assert await queue.cancel(run.id) == cancelled
        clock.advance(100)
        assert await queue.claim(agent(), 1, "r1") == []

    async def test_cancelling_what_does_not_exist_is_not_found(self, queue: Queue):
        with pytest.raises(NotFound):
            await queue.cancel("01zzzzzzzz")

    async def test_waiting_counts_queued_runs_by_what_they_ask_for(self, queue: Queue, clock: ManualClock):
        await queue.register([registration("docker", launcher="docker")])
        for _ in range(2):
            await submitted(queue, labels=frozenset({"gpu"}))
        await queue.submit([Submission(flow="docker")])
        await submitted(queue, due_at=clock.now() + 5)
        await queue.cancel((await submitted(queue, labels=frozenset({"eu"}))).id)
        found = {(w.labels, w.launcher): w.queued for w in await queue.waiting()}
        assert found == {(frozenset({"gpu"}), None): 2, (frozenset(), "docker"): 1}

    async def test_waiting_tells_since_when_what_was_submitted_first_waits(self, queue: Queue, clock: ManualClock):
        await queue.register([registration()])
        late = clock.now() + 5
        await submitted(queue, due_at=late)
        clock.advance(2)
        await submitted(queue, priority=7, labels=frozenset({"gpu"}))
        first = await submitted(queue, labels=frozenset({"gpu"}))
        clock.advance(20)
        await submitted(queue)
        await submitted(queue, labels=frozenset({"gpu"}))
        (claimed,) = await queue.claim(agent(labels=frozenset({"gpu"})), 1, "r1")  # and it promotes what is due
        assert claimed.run.priority == 7
        found = {w.labels: w.since for w in await queue.waiting()}
        assert found == {frozenset({"gpu"}): first.created_at, frozenset(): late}

    async def test_waiting_counts_no_more_than_it_has_to(self, queue: Queue):
        await queue.register([registration()])
        for number in range(0, COUNTED + 1, 5_000):
            await queue.submit([Submission(flow="add")] * min(5_000, COUNTED + 1 - number))
        assert [w.queued for w in await queue.waiting()] == [COUNTED]
