"""Who wins which runs."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_agent.labels import matches
from flow_agent.model import AgentInfo, State, Submission
from flow_agent.ports import Queue
from flow_agent.testing import ManualClock
from flow_agent.testing.queue_contract.common import (
    LABELS,
    LEASES,
    SUCCEEDED,
    OpenAgain,
    agent,
    registration,
    submitted,
    won,
)


class Claiming:
    """``claim``: who gets what."""

    async def test_higher_priority_comes_first_then_the_older_run(self, queue: Queue):
        await queue.register([registration(), registration("eu", labels=("eu",))])
        runs = await queue.submit(
            [
                Submission(flow="add"),
                Submission(flow="eu", priority=5),
                Submission(flow="add", priority=5),
                Submission(flow="eu", priority=-1),
                Submission(flow="eu"),
            ]
        )
        who = agent(labels=frozenset({"eu"}))
        first = await queue.claim(who, 2, "r1")
        rest = await queue.claim(who, 9, "r2")
        assert [c.run.id for c in first + rest] == [runs[n].id for n in (1, 2, 0, 4, 3)]

    async def test_a_claim_says_all_an_agent_needs(self, queue: Queue, clock: ManualClock):
        run = await submitted(queue, parameters={"x": 1})
        claim = await won(queue, agent(launchers={"docker": "", "process": ""}, default_launcher="docker"))
        assert (claim.number, claim.attempt, claim.ref, claim.lease) == (1, 1, None, LEASES.claimed)
        assert claim.registration == await queue.registration("add")
        assert claim.run == await queue.get(run.id)
        assert claim.run == replace(
            run, state=State.CLAIMED, claim=1, claimed_at=clock.now(), agent="one", launcher="docker"
        )

    async def test_no_more_than_the_limit_is_won(self, queue: Queue):
        await queue.register([registration()])
        await queue.submit([Submission(flow="add")] * 3)
        assert await queue.claim(agent(), 0, "r0") == []
        assert len(await queue.claim(agent(), 2, "r1")) == 2

    async def test_the_same_request_gives_the_same_claims_and_no_more(self, queue: Queue):
        await queue.register([registration()])
        await queue.submit([Submission(flow="add")] * 3)
        first = await queue.claim(agent(), 2, "r1")
        assert await queue.claim(agent(), 2, "r1") == first
        await queue.started(first[0], "ref")
        assert [c.run.id for c in await queue.claim(agent(), 2, "r1")] == [first[1].run.id]
        await queue.release(first[1])
        assert await queue.claim(agent(), 2, "r1") == []

    async def test_a_repeated_request_holds_for_a_whole_lease_again(self, queue: Queue, clock: ManualClock):
        await submitted(queue)
        await queue.claim(agent(), 1, "r1")
        clock.advance(LEASES.claimed - 1)
        (claim,) = await queue.claim(agent(), 1, "r1")
        clock.advance(LEASES.claimed - 1)
        assert await queue.reap() == []
        await queue.started(claim, "ref")

    async def test_an_empty_answer_is_not_remembered(self, queue: Queue):
        assert await queue.claim(agent(), 1, "r1") == []
        run = await submitted(queue)
        assert [c.run.id for c in await queue.claim(agent(), 1, "r1")] == [run.id]

    async def test_the_same_request_id_of_two_agents_are_two_requests(self, queue: Queue):
        await queue.register([registration()])
        await queue.submit([Submission(flow="add")] * 2)
        (first,) = await queue.claim(agent("one"), 1, "r1")
        (second,) = await queue.claim(agent("two"), 1, "r1")
        assert first.run.id != second.run.id

    @pytest.mark.parametrize(
        ("labels", "launcher", "who", "taken"),
        [
            ((), None, agent(), True),
            ((), None, agent(only_labelled=True, labels=frozenset({"eu"})), False),
            (("eu",), None, agent(only_labelled=True, labels=frozenset({"eu"})), True),
            (("eu",), None, agent(), False),
            (("eu",), None, agent(labels=frozenset({"EU"})), False),
            (("eu", "gpu"), None, agent(labels=frozenset({"eu"})), False),
            (("eu", "gpu"), None, agent(labels=frozenset({"gpu", "eu", "x"})), True),
            ((), "docker", agent(), False),
            ((), "docker", agent(launchers={"process": "", "docker": "engine"}), True),
        ],
    )
    async def test_only_runs_that_match_are_won(self, queue: Queue, labels, launcher, who, taken):
        await queue.register([registration(labels=labels, launcher=launcher)])
        await submitted(queue)
        assert matches(frozenset(labels), launcher, who) is taken
        assert bool(await queue.claim(who, 1, "r1")) is taken

    async def test_an_agent_that_changes_its_labels_takes_other_runs(self, queue: Queue):
        run = await submitted(queue, labels=frozenset({"gpu"}))
        assert await queue.claim(agent(), 1, "r1") == []
        claims = await queue.claim(agent(labels=frozenset({"gpu"})), 1, "r2")
        assert [c.run.id for c in claims] == [run.id]

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        runs=st.lists(
            st.tuples(
                st.frozensets(st.sampled_from(LABELS), max_size=3),
                st.sampled_from([None, "process", "docker"]),
                st.integers(-2, 2),
            ),
            max_size=12,
        ),
        labels=st.frozensets(st.sampled_from(LABELS)),
        launchers=st.frozensets(st.sampled_from(["process", "docker", "ecs"]), min_size=1),
        only_labelled=st.booleans(),
    )
    async def test_the_claim_matches_as_the_rule_of_labels_does(
        self, queue: Queue, runs, labels, launchers, only_labelled
    ):
        await queue.register([registration(f"on-{name}", launcher=name) for name in (None, "process", "docker")])
        stored = await queue.submit(
            [Submission(flow=f"on-{name}", labels=wanted, priority=priority) for wanted, name, priority in runs]
        )
        who = agent(labels=labels, launchers=dict.fromkeys(launchers, ""), only_labelled=only_labelled)
        expected = [run for run in stored if matches(run.labels, run.launcher, who)]
        expected.sort(key=lambda run: (-run.priority, run.id))

        claims = await queue.claim(who, len(runs) + 1, f"request-{stored[0].id if stored else 'empty'}")

        assert [claim.run.id for claim in claims] == [run.id for run in expected]
        for claim in claims:
            await queue.finish(claim, SUCCEEDED)
        for run in stored:
            await queue.cancel(run.id)

    async def test_two_handles_never_win_the_same_run(self, queue: Queue, open_again: OpenAgain):
        await queue.register([registration()])
        await queue.submit([Submission(flow="add")] * 60)
        taken: list[str] = []

        async def take(handle: Queue, who: AgentInfo) -> None:
            for n in range(100):
                claims = await handle.claim(who, 3, f"{who.id}-{n}")
                taken.extend(claim.run.id for claim in claims)
                if not claims:
                    return

        async with open_again() as other, anyio.create_task_group() as tasks:
            for n, handle in enumerate((queue, other, queue, other)):
                tasks.start_soon(take, handle, agent(f"agent-{n}"))
        assert len(taken) == len(set(taken)) == 60
