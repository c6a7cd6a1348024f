"""What is told of waiting runs: how often the queue is asked, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from flow_agent.backlog import FRESH, PATIENCE, Backlog, Sample
from flow_agent.errors import QueueUnavailable
from flow_agent.model import COUNTED, Waiting
from flow_agent.ports import Queue
from virtual import LoopClock, VirtualLoop

pytestmark = pytest.mark.anyio
GPU = Waiting(labels=frozenset({"gpu"}), launcher=None, queued=3, since=100.0)
ANY = Waiting(labels=frozenset(), launcher="docker", queued=2, since=90.0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Asked:
    """A queue that takes ``seconds`` to answer, or fails."""

    def __init__(self, *answers: Sequence[Waiting] | Exception, seconds: float = 0.0) -> None:
        self.answers, self.seconds, self.times = list(answers), seconds, 0

    async def waiting(self) -> Sequence[Waiting]:
        self.times += 1
        await anyio.sleep(self.seconds)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def backlog(asked: Asked) -> Backlog:
    return Backlog(cast("Queue", asked), LoopClock().now)


async def test_the_queue_is_asked_once_however_many_ask_here() -> None:
    asked = Asked([GPU], [GPU, ANY], seconds=1.0)
    told = backlog(asked)
    found: list[int] = []

    async def ask() -> None:
        found.append((await told.sample()).waiting())

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert (found, asked.times) == ([3] * 50, 1)
    await anyio.sleep(FRESH - 1)
    assert (await told.sample()).waiting() == 3
    await anyio.sleep(2)
    assert ((await told.sample()).waiting(), asked.times) == (5, 2)


async def test_a_queue_that_is_away_is_told_as_such_and_asked_again_later() -> None:
    asked = Asked(QueueUnavailable("the disk is gone"), [GPU])
    told = backlog(asked)
    for _ in range(3):
        with pytest.raises(QueueUnavailable, match="the disk is gone"):
            await told.sample()
    assert asked.times == 1
    await anyio.sleep(FRESH + 0.1)
    assert (await told.sample()).waiting() == 3


async def test_a_queue_that_hangs_keeps_nobody_waiting_for_long() -> None:
    told = backlog(Asked([GPU], seconds=3600.0))
    began = anyio.current_time()
    with pytest.raises(QueueUnavailable, match="has not said within 3 s"):
        await told.sample()
    assert anyio.current_time() - began == PATIENCE


async def test_a_sample_is_told_for_those_that_count() -> None:
    sample = Sample(at=110.0, sets=[GPU, ANY])
    assert (sample.waiting(), sample.oldest()) == (5, 20.0)
    assert (sample.waiting(lambda each: "gpu" in each.labels), sample.oldest(lambda each: bool(each.labels))) == (3, 10)
    sample = replace(sample, sets=[GPU, replace(ANY, going=4)])
    assert sample.document(lambda each: not each.labels) == {
        "work": 6,
        "waiting": 2,
        "going": 4,
        "oldest_wait_seconds": 20.0,
        "exact": True,
        "sets": [{"labels": [], "launcher": "docker", "waiting": 2, "going": 4, "oldest_wait_seconds": 20.0}],
    }
    nothing = {"work": 0, "waiting": 0, "going": 0, "oldest_wait_seconds": 0.0, "exact": True, "sets": []}
    assert Sample(at=110.0).document() == nothing


async def test_what_is_not_counted_to_its_end_is_told_as_such() -> None:
    many = Waiting(labels=frozenset(), launcher=None, queued=COUNTED, since=1.0)
    assert Sample(at=2.0, sets=[many]).document()["exact"] is False
