"""What each verb does with the queue behind the server."""

from __future__ import annotations

from flow_agent import wire
from flow_agent.errors import InvalidInput
from flow_agent.model import AgentInfo, Attempt, Claim, Limit, LogLine, Pruned, Registration, Run, Verdict, Waiting
from flow_agent.ports import Leases, Queue
from flow_agent.server.callers import Caller, named, shown
from flow_agent.server.news import News

LONGEST_WAIT = 60.0


class Service:
    """The verbs of ``wire.VERBS``, each with its request and its caller."""

    def __init__(self, queue: Queue, news: News, leases: Leases) -> None:
        self._queue, self._news, self._leases = queue, news, leases

    async def register(self, asked: wire.Register, _: Caller) -> list[Registration]:
        """See ``Queue.register``."""
        return await self._queue.register(asked.registrations)

    async def registration(self, asked: wire.Flow, _: Caller) -> Registration:
        """See ``Queue.registration``."""
        return await self._queue.registration(asked.flow, asked.version)

    async def registrations(self, _asked: wire.Nothing, _: Caller) -> list[Registration]:
        """See ``Queue.registrations``."""
        return await self._queue.registrations()

    async def submit(self, asked: wire.Submit, _: Caller) -> list[Run]:
        """See ``Queue.submit``."""
        return await self._queue.submit(asked.all())

    async def get(self, asked: wire.OneRun, _: Caller) -> Run:
        """See ``Queue.get``."""
        return await self._queue.get(asked.run_id)

    async def runs(self, asked: wire.Runs, _: Caller) -> list[Run]:
        """See ``Queue.runs``."""
        return await self._queue.runs(states=asked.states, flow=asked.flow, limit=asked.limit, before=asked.before)

    async def attempts(self, asked: wire.OneRun, _: Caller) -> list[Attempt]:
        """See ``Queue.attempts``."""
        return await self._queue.attempts(asked.run_id)

    async def cancel(self, asked: wire.OneRun, _: Caller) -> Run:
        """See ``Queue.cancel``."""
        return await self._queue.cancel(asked.run_id)

    async def claim(self, asked: wire.Take, caller: Caller) -> list[Claim]:
        """See ``Queue.claim``."""
        self._check(asked.leases)
        return caller.given(await self._queue.claim(caller.own(asked.agent), asked.limit, asked.request_id))

    async def started(self, asked: wire.Started, caller: Caller) -> None:
        """See ``Queue.started``."""
        claim = caller.claim(asked.claim)
        await self._queue.started(claim, asked.ref, revision=asked.revision, scope=asked.scope)

    async def extend(self, asked: wire.Extend, caller: Caller) -> list[wire.Said]:
        """See ``Queue.extend``. A claim that the caller did not win is lost to it."""
        own = [named(held) for held in asked.claims if caller.proves(held)]
        verdicts = await self._queue.extend(caller.own(asked.agent), own)
        keys = {(held.run_id, held.number): held for held in asked.claims}
        return [
            wire.Said(
                run_id=run_id,
                number=number,
                verdict=verdicts.get((run_id, number), Verdict.LOST) if caller.proves(held) else Verdict.LOST,
            )
            for (run_id, number), held in keys.items()
        ]

    async def finish(self, asked: wire.Finish, caller: Caller) -> Run:
        """See ``Queue.finish``."""
        return await self._queue.finish(caller.claim(asked.claim), asked.outcome, retry_in=asked.retry_in)

    async def release(self, asked: wire.Release, caller: Caller) -> None:
        """See ``Queue.release``."""
        await self._queue.release(caller.claim(asked.claim), delay=asked.delay, detail=asked.detail)

    async def take_over(self, asked: wire.Take, caller: Caller) -> list[Claim]:
        """See ``Queue.take_over``."""
        self._check(asked.leases)
        agent = caller.own(asked.agent)
        return caller.given(await self._queue.take_over(agent, asked.limit, asked.request_id))

    async def reap(self, _asked: wire.Nothing, _: Caller) -> list[Run]:
        """See ``Queue.reap``."""
        return await self._queue.reap()

    async def append_logs(self, asked: wire.AppendLogs, caller: Caller) -> None:
        """See ``Queue.append_logs``."""
        await self._queue.append_logs(caller.claim(asked.claim), asked.lines)

    async def last_seq(self, asked: wire.LastSeq, _: Caller) -> int:
        """See ``Queue.last_seq``."""
        return await self._queue.last_seq(asked.run_id, asked.attempt, asked.source)

    async def logs(self, asked: wire.Logs, _: Caller) -> list[LogLine]:
        """See ``Queue.logs``."""
        return await self._queue.logs(asked.run_id, after=asked.after, limit=asked.limit)

    async def announce(self, asked: wire.OneAgent, caller: Caller) -> None:
        """See ``Queue.announce``."""
        self._check(asked.leases)
        await self._queue.announce(caller.own(asked.agent))

    async def retire(self, asked: wire.OneAgent, caller: Caller) -> None:
        """See ``Queue.retire``."""
        await self._queue.retire(caller.own(asked.agent))

    async def agents(self, _asked: wire.Nothing, _: Caller) -> list[AgentInfo]:
        """See ``Queue.agents``."""
        return [shown(agent) for agent in await self._queue.agents()]

    async def waiting(self, _asked: wire.Nothing, _: Caller) -> list[Waiting]:
        """See ``Queue.waiting``."""
        return await self._queue.waiting()

    async def limits(self, _asked: wire.Nothing, _: Caller) -> list[Limit]:
        """See ``Queue.limits``."""
        return await self._queue.limits()

    async def set_limit(self, asked: wire.SetLimit, _: Caller) -> None:
        """See ``Queue.set_limit``."""
        await self._queue.set_limit(asked.limit)

    async def remove_limit(self, asked: wire.RemoveLimit, _: Caller) -> None:
        """See ``Queue.remove_limit``."""
        await self._queue.remove_limit(asked.kind, asked.name)

    async def prune(self, asked: wire.Prune, _: Caller) -> Pruned:
        """See ``Queue.prune``."""
        return await self._queue.prune(asked.rule, before=asked.before, dry_run=asked.dry_run)

    async def next_due(self, _asked: wire.Nothing, _: Caller) -> float | None:
        """See ``Queue.next_due``."""
        return await self._queue.next_due()

    async def wait(self, asked: wire.Wait, _: Caller) -> wire.News:
        """See ``Queue.wait``."""
        return wire.News(mark=await self._news.after(asked.mark, min(max(0.0, asked.seconds), LONGEST_WAIT)))

    def _check(self, leases: Leases | None) -> None:
        """An agent that counts on longer leases than the queue gives would go on with what others may take."""
        ours = self._leases
        if leases is not None and (leases.claimed > ours.claimed or leases.running > ours.running):
            raise InvalidInput(
                f"this agent takes claims to hold for {leases.claimed:g} s and {leases.running:g} s,"
                f" the server lets them hold for {ours.claimed:g} s and {ours.running:g} s",
                hint=f"set lease.claimed to at most {ours.claimed:g} and lease.running to at most {ours.running:g}",
            )
