"""What every launcher must do; inherit ``LauncherContract`` and give it a ``launch`` fixture."""
# ruff: noqa: T201 - flows print

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from flow_agent.model import Ending, LogLine
from flow_agent.ports import Launcher


class Launched:
    """An attempt that a test created, with what it wrote."""

    def __init__(self, launcher: Launcher, ref: str) -> None:
        self.launcher, self.ref = launcher, ref
        self.lines: list[LogLine] = []

    async def sink(self, lines: Sequence[LogLine]) -> None:
        """Keep the lines."""
        self.lines.extend(lines)

    async def end(self, *, within: float = 30.0) -> Ending:
        """Wait for the end."""
        with anyio.fail_after(within):
            return await self.launcher.wait(self.ref, self.sink, attempt=1)

    async def end_once_it_writes(
        self, stop: Callable[[], Awaitable[None]] | None = None, *, grace: float = 1.0, within: float = 30.0
    ) -> Ending:
        """Stop it, by ``stop`` or else with ``grace``, when its first line has come, and wait for the end."""
        written = anyio.Event()

        async def sink(lines: Sequence[LogLine]) -> None:
            await self.sink(lines)
            written.set()

        async def once_written() -> None:
            await written.wait()
            await (stop() if stop is not None else self.launcher.stop(self.ref, grace))

        with anyio.fail_after(within):
            async with anyio.create_task_group() as group:
                group.start_soon(once_written)
                ending = await self.launcher.wait(self.ref, sink, attempt=1)
                # One that ended without a word has nothing to be stopped for.
                group.cancel_scope.cancel()
        return ending

    @property
    def texts(self) -> list[str]:
        """What was written, as plain texts."""
        return [line.text for line in self.lines]


Launch = Callable[..., Awaitable[Launched]]
"""``await launch(function, go=True, lives=60.0, grace=1.0, secrets=(), **parameters)`` creates an attempt whose
deadline is ``lives`` seconds away."""


def prints_and_returns(x: int = 1) -> dict[str, int]:
    """A flow that does what most do."""
    print("one")
    print("two")
    return {"x": x}


def sleeps(seconds: float = 60.0) -> None:
    """A flow that goes on for a while."""
    print("asleep")
    time.sleep(seconds)


def counts(to: int = 10, pause: float = 0.1) -> None:
    """A flow that writes now and then."""
    for i in range(to):
        print(f"line {i}")
        time.sleep(pause)


def raises() -> None:
    """A flow that fails."""
    raise ValueError("on purpose")


def exits(code: Any) -> None:
    """A flow that ends its interpreter."""
    raise SystemExit(code)


def tells_secret(secret: str) -> None:
    """A flow that prints what it should not."""
    print(f"the secret is {secret}!")


class LauncherContract:
    """Create, go, wait, stop, remove, as ``ports.Launcher`` says."""

    starts_within = 0.0
    """Seconds that creating an attempt may take beyond the one that it takes a process."""
    outlives = False
    """Whether attempts have a scope, and go on when their lease has ended."""

    pytestmark = pytest.mark.anyio

    async def test_no_user_code_runs_before_go(self, launch: Launch) -> None:
        """Parked means parked."""
        attempt = await launch(prints_and_returns, go=False)
        async with anyio.create_task_group() as group:
            group.start_soon(attempt.end)
            await anyio.sleep(0.3)
            assert attempt.lines == []
            await attempt.launcher.go(attempt.ref)
        assert attempt.texts == ["one", "two"]

    async def test_lines_come_in_order_with_numbers_from_one(self, launch: Launch) -> None:
        """Sequence numbers make shipping repeatable."""
        attempt = await launch(prints_and_returns)
        await attempt.end()
        assert [(line.seq, line.text) for line in attempt.lines] == [(1, "one"), (2, "two")]

    async def test_lines_that_were_handed_over_before_are_left_out(self, launch: Launch) -> None:
        """``after`` is where another daemon stopped."""
        attempt = await launch(prints_and_returns)
        with anyio.fail_after(30):
            await attempt.launcher.wait(attempt.ref, attempt.sink, attempt=1, after=1)
        assert attempt.texts == ["two"]

    async def test_a_second_go_does_nothing(self, launch: Launch) -> None:
        """A daemon that adopts cannot know whether the word was given."""
        attempt = await launch(prints_and_returns)
        await attempt.launcher.go(attempt.ref)
        await attempt.end()
        await attempt.launcher.go(attempt.ref)
        assert attempt.texts == ["one", "two"]

    async def test_success_comes_with_a_receipt_and_a_result(self, launch: Launch) -> None:
        """Exit code 0 alone is not success."""
        attempt = await launch(prints_and_returns, x=5)
        ending = await attempt.end()
        assert (ending.code, ending.signal, ending.lost, ending.ended_by) == (0, None, None, None)
        assert ending.receipt is not None
        assert ending.receipt["ok"] is True
        assert ending.result is not None or ending.stored is not None

    async def test_an_exception_comes_with_its_traceback(self, launch: Launch) -> None:
        """The author's frames, and a receipt that says ``raised``."""
        attempt = await launch(raises)
        ending = await attempt.end()
        assert ending.code == 1
        assert ending.receipt is not None
        assert (ending.receipt["reason"], ending.receipt["detail"]) == ("raised", "ValueError: on purpose")
        assert "on purpose" in attempt.lines[-1].text
        assert attempt.lines[-1].level == "ERROR"

    async def test_an_exit_code_is_told(self, launch: Launch) -> None:
        """What ``sys.exit`` was given."""
        attempt = await launch(exits, code=7)
        ending = await attempt.end()
        assert ending.code == 7

    async def test_stop_ends_it_and_wait_returns(self, launch: Launch) -> None:
        """A flow that does not handle SIGTERM ends at once."""
        attempt = await launch(sleeps)
        started = time.monotonic()
        ending = await attempt.end_once_it_writes(grace=5)
        assert ending.ended_by == "stop"
        assert time.monotonic() - started < 20

    async def test_stop_before_go_ends_it_too(self, launch: Launch) -> None:
        """A claim that was lost before it started."""
        attempt = await launch(prints_and_returns, go=False)
        await attempt.launcher.stop(attempt.ref, 0)
        ending = await attempt.end()
        assert ending.ended_by == "stop"
        assert attempt.lines == []

    async def test_nothing_runs_after_the_deadline(self, launch: Launch) -> None:
        """Nobody extended the lease. Where there is a scope, another agent goes on with it."""
        attempt = await launch(sleeps, lives=3.0, grace=1.0, seconds=60.0 if not self.outlives else 5.0)
        ending = await attempt.end(within=10 if not self.outlives else 60)
        assert (ending.ended_by, ending.code) == ((None, 0) if self.outlives else ("deadline", ending.code))

    async def test_a_moved_deadline_holds(self, launch: Launch) -> None:
        """Each extended lease moves it on."""
        attempt = await launch(sleeps, lives=2.5 + self.starts_within, grace=0.5, seconds=1.5 + self.starts_within)
        await attempt.launcher.extend(attempt.ref, time.monotonic() + 60)
        ending = await attempt.end(within=20 + self.starts_within)
        assert ending.ended_by is None
        assert ending.code == 0

    async def test_secrets_are_redacted_in_what_it_writes(self, launch: Launch) -> None:
        """Before they leave the machine."""
        planted = "correct horse battery"
        attempt = await launch(tells_secret, secrets=(planted,), secret=planted)
        await attempt.end()
        assert attempt.texts == ["the secret is [redacted]!"]

    async def test_remove_can_be_repeated(self, launch: Launch) -> None:
        """It is the last step, and may be cut off."""
        attempt = await launch(prints_and_returns)
        await attempt.end()
        await attempt.launcher.remove(attempt.ref)
        await attempt.launcher.remove(attempt.ref)
