"""How a waiting agent hears of news."""

# ruff: noqa: D102 - the names of tests are their docstrings, and tests assert
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import anyio
import pytest

from flow_agent.model import Submission
from flow_agent.ports import Queue
from flow_agent.testing.queue_contract.common import OpenAgain, agent, registration, submitted, won


class Waking:
    """``wait``."""

    @pytest.mark.parametrize("what", ["submit", "cancel", "release"])
    async def test_a_change_through_another_handle_wakes_a_waiter(self, queue: Queue, open_again: OpenAgain, what: str):
        await submitted(queue)
        claim = await won(queue)
        await self._quiet(queue)
        async with open_again() as other:
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(queue.wait, 60)
                    await anyio.wait_all_tasks_blocked()
                    match what:
                        case "submit":
                            await other.submit([Submission(flow="add")])
                        case "cancel":
                            await other.cancel(claim.run.id)
                        case "release":
                            await other.release(claim)

    async def test_a_change_between_two_waits_is_not_missed(self, queue: Queue, open_again: OpenAgain):
        await self._quiet(queue)
        async with open_again() as other:
            await submitted(other)
        with anyio.fail_after(5):
            await queue.wait(60)

    async def test_a_change_before_the_first_wait_is_not_missed(self, queue: Queue, open_again: OpenAgain):
        await queue.register([registration()])
        assert await queue.claim(agent(), 1, "r1") == []
        async with open_again() as other:
            await submitted(other)
        with anyio.fail_after(5):
            await queue.wait(60)

    async def test_an_own_change_wakes_too(self, queue: Queue):
        await self._quiet(queue)
        await submitted(queue)
        with anyio.fail_after(5):
            await queue.wait(60)

    async def test_two_tasks_may_wait_at_once(self, queue: Queue):
        await self._quiet(queue)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.wait, 60)
                tasks.start_soon(queue.wait, 60)
                await anyio.wait_all_tasks_blocked()
                await submitted(queue)

    async def test_wait_ends_after_its_time(self, queue: Queue):
        await self._quiet(queue)
        with anyio.fail_after(5):
            await queue.wait(0.01)

    @staticmethod
    async def _quiet(queue: Queue) -> None:
        """Use up what happened so far: ``wait`` may return at once for that, or for no reason."""
        for _ in range(3):
            await queue.wait(0.01)
