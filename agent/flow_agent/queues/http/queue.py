"""``ports.Queue`` by requests to a server. It decides nothing and remembers nothing but which news it has heard."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import anyio
import anyio.abc

from flow_agent import retry, wire
from flow_agent.errors import QueueUnavailable
from flow_agent.model import (
    AgentInfo,
    Attempt,
    Claim,
    Limit,
    LogLine,
    Outcome,
    Pruned,
    Pruning,
    Registration,
    Run,
    State,
    Submission,
    Verdict,
    Waiting,
)
from flow_agent.ports import Leases
from flow_agent.queues.http.connection import Connection

PAGE = 1_000
"""Runs or lines of a log in one answer."""
LINES, CHARACTERS = 1_000, 500_000
"""Of a log, in one request: at six bytes for each character still less than servers take."""
STORED_A_SECOND = 1_000
"""Runs that a busy server stores at least."""
POLL = 30.0
"""Seconds for which one request for news waits at the server; shorter than what proxies allow."""

PRUNING = 60.0
"""Seconds that a step of pruning may take beside what others do: the last one reads all runs."""


class HttpQueue:
    """The queue of a server; each verb's meaning stands in ``ports.Queue``."""

    def __init__(self, connection: Connection, leases: Leases) -> None:
        self._ask = connection.ask
        self._leases = leases
        self._tasks: anyio.abc.TaskGroup | None = None
        self._listening = False
        self._deaf: QueueUnavailable | None = None
        self._broken: Exception | None = None
        self._news = anyio.Event()

    def listens_in(self, tasks: anyio.abc.TaskGroup) -> None:
        """Where the task that hears news goes, once somebody waits."""
        self._tasks = tasks

    # Registrations

    async def register(self, registrations: Sequence[Registration]) -> list[Registration]:
        """See ``Queue.register``."""
        stored: list[Registration] = await self._ask("register", wire.Register(registrations=list(registrations)))
        return stored

    async def registration(self, flow: str, version: int | None = None) -> Registration:
        """See ``Queue.registration``."""
        found: Registration = await self._ask("registration", wire.Flow(flow=flow, version=version))
        return found

    async def registrations(self) -> list[Registration]:
        """See ``Queue.registrations``."""
        found: list[Registration] = await self._ask("registrations", wire.Nothing())
        return found

    # Runs

    async def submit(self, submissions: Sequence[Submission]) -> list[Run]:
        """See ``Queue.submit``."""
        once, times = _counted(submissions)
        patience = len(submissions) / STORED_A_SECOND
        stored: list[Run] = await self._ask("submit", wire.Submit(submissions=once, times=times), patience=patience)
        return stored

    async def get(self, run_id: str) -> Run:
        """See ``Queue.get``."""
        found: Run = await self._ask("get", wire.OneRun(run_id=run_id))
        return found

    async def runs(
        self, *, states: Collection[State] = (), flow: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Run]:
        """See ``Queue.runs``."""
        found: list[Run] = []
        while (left := min(PAGE, limit - len(found))) > 0:
            request = wire.Runs(states=list(states), flow=flow, limit=left, before=before)
            page: list[Run] = await self._ask("runs", request)
            found += page
            if len(page) < left:
                break
            before = page[-1].id
        return found

    async def attempts(self, run_id: str) -> list[Attempt]:
        """See ``Queue.attempts``."""
        found: list[Attempt] = await self._ask("attempts", wire.OneRun(run_id=run_id))
        return found

    async def cancel(self, run_id: str) -> Run:
        """See ``Queue.cancel``."""
        run: Run = await self._ask("cancel", wire.OneRun(run_id=run_id))
        return run

    # What agents do

    async def claim(self, agent: AgentInfo, limit: int, request_id: str) -> list[Claim]:
        """See ``Queue.claim``."""
        request = wire.Take(agent=agent, limit=limit, request_id=request_id, leases=self._leases)
        claims: list[Claim] = await self._ask("claim", request)
        return claims

    async def started(self, claim: Claim, ref: str, *, revision: str | None = None, scope: str = "") -> None:
        """See ``Queue.started``."""
        await self._ask("started", wire.Started(claim=_held(claim), ref=ref, revision=revision, scope=scope))

    async def extend(self, agent: AgentInfo, claims: Collection[Claim]) -> dict[tuple[str, int], Verdict]:
        """See ``Queue.extend``."""
        said = await self._ask("extend", wire.Extend(agent=agent, claims=[_held(claim) for claim in claims]))
        return {(each.run_id, each.number): each.verdict for each in said}

    async def finish(self, claim: Claim, outcome: Outcome, *, retry_in: float | None = None) -> Run:
        """See ``Queue.finish``."""
        run: Run = await self._ask("finish", wire.Finish(claim=_held(claim), outcome=outcome, retry_in=retry_in))
        return run

    async def release(self, claim: Claim, *, delay: float = 0.0, detail: str = "") -> None:
        """See ``Queue.release``."""
        await self._ask("release", wire.Release(claim=_held(claim), delay=delay, detail=detail))

    async def take_over(self, agent: AgentInfo, limit: int, request_id: str) -> list[Claim]:
        """See ``Queue.take_over``."""
        request = wire.Take(agent=agent, limit=limit, request_id=request_id, leases=self._leases)
        claims: list[Claim] = await self._ask("take_over", request)
        return claims

    async def reap(self) -> list[Run]:
        """See ``Queue.reap``."""
        touched: list[Run] = await self._ask("reap", wire.Nothing())
        return touched

    # Logs

    async def append_logs(self, claim: Claim, lines: Sequence[LogLine]) -> None:
        """See ``Queue.append_logs``. Many lines go in several requests; a repeated call stores what is missing."""
        for part in _portions(lines):
            await self._ask("append_logs", wire.AppendLogs(claim=_held(claim), lines=part))

    async def last_seq(self, run_id: str, attempt: int, source: str) -> int:
        """See ``Queue.last_seq``."""
        seq: int = await self._ask("last_seq", wire.LastSeq(run_id=run_id, attempt=attempt, source=source))
        return seq

    async def logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """See ``Queue.logs``."""
        found: list[LogLine] = []
        while (left := min(PAGE, limit - len(found))) > 0:
            page: list[LogLine] = await self._ask("logs", wire.Logs(run_id=run_id, after=after, limit=left))
            found += page
            if len(page) < left:
                break
            after = page[-1].cursor
        return found

    # Agents

    async def announce(self, agent: AgentInfo) -> None:
        """See ``Queue.announce``."""
        await self._ask("announce", wire.OneAgent(agent=agent, leases=self._leases))

    async def retire(self, agent: AgentInfo) -> None:
        """See ``Queue.retire``."""
        await self._ask("retire", wire.OneAgent(agent=agent))

    async def agents(self) -> list[AgentInfo]:
        """See ``Queue.agents``."""
        found: list[AgentInfo] = await self._ask("agents", wire.Nothing())
        return found

    async def waiting(self) -> list[Waiting]:
        """See ``Queue.waiting``."""
        found: list[Waiting] = await self._ask("waiting", wire.Nothing())
        return found

    async def limits(self) -> list[Limit]:
        """See ``Queue.limits``."""
        found: list[Limit] = await self._ask("limits", wire.Nothing())
        return found

    async def set_limit(self, limit: Limit) -> None:
        """See ``Queue.set_limit``."""
        await self._ask("set_limit", wire.SetLimit(limit=limit))

    async def remove_limit(self, kind: str, name: str) -> None:
        """See ``Queue.remove_limit``."""
        await self._ask("remove_limit", wire.RemoveLimit(kind=kind, name=name))

    async def next_due(self) -> float | None:
        """See ``Queue.next_due``."""
        due: float | None = await self._ask("next_due", wire.Nothing())
        return due

    # What is not needed any more

    async def prune(self, rule: Pruning, *, before: str | None = None, dry_run: bool = False) -> Pruned:
        """See ``Queue.prune``."""
        request = wire.Prune(rule=rule, before=before, dry_run=dry_run)
        pruned: Pruned = await self._ask("prune", request, patience=PRUNING)
        return pruned

    # Waking

    async def wait(self, seconds: float) -> None:
        """See ``Queue.wait``. Being cancelled costs no connection: a task of its own asks the server."""
        if not self._listening:
            assert self._tasks is not None
            self._listening = True
            self._tasks.start_soon(self._listen, name="news of the queue")
        news = self._news
        with anyio.move_on_after(seconds):
            await news.wait()
        if self._broken is not None:
            raise self._broken
        if self._deaf is not None:
            raise QueueUnavailable(str(self._deaf), hint=self._deaf.hint)
        if self._news is news and news.is_set():
            self._news = anyio.Event()

    async def _listen(self) -> None:
        mark = ""
        try:
            while True:
                request = wire.Wait(mark=mark, seconds=POLL)
                found = await retry.answered(partial(self._ask, "wait", request, patience=POLL), self._hears_nothing)
                news, mark = found.mark != mark, found.mark
                if self._deaf is not None or news:
                    self._deaf = None
                    self._news.set()
        except Exception as error:  # noqa: BLE001 - told to whoever waits; there is nobody else to tell
            self._broken = error
            self._listening = False
            self._news.set()

    def _hears_nothing(self, _wait: float, error: BaseException) -> None:
        assert isinstance(error, QueueUnavailable)
        self._deaf = error
        self._news.set()


def _held(claim: Claim) -> wire.Held:
    return wire.Held(run_id=claim.run.id, number=claim.number, attempt=claim.attempt, proof=claim.proof)


def _counted(submissions: Sequence[Submission]) -> tuple[list[Submission], list[int]]:
    """The submissions, one that stands there several times running only once, and how often."""
    once: list[Submission] = []
    times: list[int] = []
    for submission in submissions:
        if once and submission is once[-1]:
            times[-1] += 1
        else:
            once.append(submission)
            times.append(1)
    return once, times if len(once) < len(submissions) else []


def _portions(lines: Sequence[LogLine]) -> Iterator[list[LogLine]]:
    """The lines in portions that a server takes; one without any if there are none, since that is checked too."""
    portion: list[LogLine] = []
    size = 0
    for line in lines:
        size += len(line.text)
        if portion and (len(portion) >= LINES or size > CHARACTERS):
            yield portion
            portion, size = [], len(line.text)
        portion.append(line)
    yield portion
