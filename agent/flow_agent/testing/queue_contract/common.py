"""What the tests of a queue are written with."""


# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from flow_agent.errors import NotFound
from flow_agent.model import AgentInfo, Claim, LogLine, Outcome, Reason, Registration, Run, State, Submission
from flow_agent.ports import Leases, Queue

OpenAgain = Callable[[], AbstractAsyncContextManager[Queue]]

LEASES = Leases()
SUCCEEDED = Outcome(state=State.SUCCEEDED, reason=Reason.COMPLETED, exit_code=0, result={"inline": [1, "x"]})
RAISED = Outcome(state=State.FAILED, reason=Reason.RAISED, detail="ValueError: no", exit_code=1)
LABELS = ("a", "A", "eu", "a b", "é", "'", '"', "%", "a,eu")


def registration(flow: str = "add", **changes) -> Registration:
    """A registration of a pickle that needs nothing."""
    base = Registration(flow=flow, kind="pickle", storage={"type": "Local"}, location={"path": "x"}, digest="0" * 64)
    return replace(base, **changes)


def agent(name: str = "one", incarnation: str = "1", **changes) -> AgentInfo:
    """An agent without labels, with the process launcher."""
    return replace(AgentInfo(id=f"id-{name}", name=name, incarnation=incarnation), **changes)


def lines(*numbers: int, source: str = "flow", attempt: int = 1) -> list[LogLine]:
    """Log lines with these sequence numbers."""
    return [LogLine(attempt=attempt, source=source, seq=n, time=float(n), text=f"{source} {n}") for n in numbers]


async def submitted(queue: Queue, **changes) -> Run:
    """One run of the flow ``add``, registered if it is not yet."""
    try:
        await queue.registration(changes.get("flow", "add"))
    except NotFound:
        await queue.register([registration(changes.get("flow", "add"))])
    (run,) = await queue.submit([replace(Submission(flow="add"), **changes)])
    return run


async def won(queue: Queue, who: AgentInfo | None = None, request_id: str = "") -> Claim:
    """The one claim that ``who`` wins now."""
    who = who or agent()
    count = len(await queue.runs(limit=1000))
    request_id = request_id or f"{who.id}-{who.incarnation}-{count}-{await _claims_so_far(queue)}"
    (claim,) = await queue.claim(who, 1, request_id)
    return claim


async def _claims_so_far(queue: Queue) -> int:
    return sum(run.claim for run in await queue.runs(limit=1000))


async def running(queue: Queue, who: AgentInfo | None = None, *, scope: str = "", **changes) -> Claim:
    """A claim whose user code has started."""
    await submitted(queue, **changes)
    claim = await won(queue, who)
    await queue.started(claim, "ref-1", revision="rev", scope=scope)
    return claim
