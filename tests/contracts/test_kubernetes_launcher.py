"""The Kubernetes launcher: the contract, and what any cluster shows.

It runs against the cluster that the file ``FLOW_AGENT_TEST_KUBECONFIG`` leads to, with the image
``FLOW_AGENT_TEST_KUBERNETES_IMAGE``; without them against the stand-in.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import pytest

from flow_agent.errors import ClaimLost
from flow_agent.testing import launcher_contract as flows
from flow_agent.testing.launcher_contract import Launch, Launched, LauncherContract
from jobs import Jobs, jobs, kubeconfig_of
from servers.kubernetes_api import Kubernetes

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
async def attempts(kubernetes: Kubernetes) -> AsyncIterator[Jobs]:
    async with jobs(kubeconfig_of(kubernetes)) as found:
        yield found


@pytest.fixture
def launch(attempts: Jobs) -> Launch:
    async def launch(function, *, go=True, lives=60.0, grace=1.0, secrets=(), **parameters) -> Launched:
        return await attempts(function, go=go, grace=grace, secrets=secrets, given=parameters)

    return launch


class TestKubernetesLauncher(LauncherContract):
    """All of the contract."""

    pytestmark = pytestmark
    starts_within = 20.0
    outlives = True


async def until(condition, seconds: float = 60) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.05)


async def test_a_deadline_of_the_template_is_told(attempts: Jobs) -> None:
    container = {"job_template": {"spec": {"activeDeadlineSeconds": 3}}}
    attempt = await attempts(flows.sleeps, container=container)
    ending = await attempt.end(within=60)
    assert ending.cpu is not None
    assert "activeDeadlineSeconds: DeadlineExceeded" in ending.cpu


async def test_a_job_that_somebody_deletes_is_told(attempts: Jobs) -> None:
    attempt = await attempts(flows.sleeps)

    async def delete() -> None:
        await until(lambda: attempt.texts)
        await attempt.launcher._jobs.delete(attempt.ref)

    async with anyio.create_task_group() as group:
        group.start_soon(delete)
        ending = await attempt.end(within=60)
    assert ending.lost == "its Job was deleted, by somebody other than its agent"


async def test_another_agent_goes_on_where_one_stopped(kubernetes: Kubernetes) -> None:
    where = kubeconfig_of(kubernetes)
    async with jobs(where) as first, jobs(where, agent="other") as second:
        assert first.launcher.scope == second.launcher.scope
        attempt = await first(flows.counts, given={"to": 20, "pause": 0.1})
        with anyio.move_on_after(60):
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    await first.launcher.wait(attempt.ref, attempt.sink, attempt=1)

                group.start_soon(watch)
                await until(lambda: len(attempt.lines) > 5)
                group.cancel_scope.cancel()
        first.launcher.hand_over(attempt.ref)
        first.refs.clear()
        second.refs.append(attempt.ref)
        before = [line.seq for line in attempt.lines]
        await second.launcher.adopt({attempt.ref})
        await second.launcher.go(attempt.ref)
        ending = await second.launcher.wait(attempt.ref, attempt.sink, attempt=1, after=before[-1])
        assert ending.code == 0
        assert attempt.texts == [f"line {i}" for i in range(20)]


async def test_a_time_limit_is_held_in_the_pod(attempts: Jobs) -> None:
    attempt = await attempts(flows.sleeps, timeout=1.0)
    began = time.monotonic()
    assert (await attempt.end(within=60)).ended_by == "timeout"
    assert time.monotonic() - began < 40


async def test_the_second_of_two_jobs_of_one_attempt_takes_the_place_of_the_first(attempts: Jobs) -> None:
    spec = attempts.spec(flows.prints_and_returns)
    first = await attempts.launcher.create(spec)
    attempts.launcher.hand_over(first)
    second = await attempts.launcher.create(spec)
    attempts.refs.append(second)
    await attempts.launcher.go(second)
    attempt = Launched(attempts.launcher, second)
    assert (await attempt.end(within=120)).code == 0
    assert attempt.texts == ["one", "two"]


async def test_whoever_has_lost_the_claim_hears_it_as_it_was_said(attempts: Jobs) -> None:
    attempt = await attempts(flows.counts, given={"to": 50})

    async def lost(lines) -> None:
        raise ClaimLost("another agent has it")

    with anyio.fail_after(120), pytest.raises(ClaimLost):
        await attempt.launcher.wait(attempt.ref, lost, attempt=1)


async def test_a_job_that_was_removed_is_told_as_such(attempts: Jobs) -> None:
    attempt = await attempts(flows.prints_and_returns)
    await attempt.end(within=120)
    await attempt.launcher.remove(attempt.ref)
    ending = await attempt.end()
    assert ending.lost is not None
