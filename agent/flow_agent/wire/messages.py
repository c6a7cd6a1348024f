"""What a verb is asked with, where ``model`` has no value for it, and the few answers that are none of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from flow_agent.errors import InvalidInput
from flow_agent.model import AgentInfo, Limit, LogLine, Outcome, Pruning, Registration, State, Submission, Verdict
from flow_agent.ports import Leases

ITEMS = 10_000
"""Things in one request, and in one answer."""
SUBMISSIONS = 100_000
"""Runs that may be asked for at once: they are one transaction, so that a client cannot make several of it."""
Most = Annotated[int, Field(ge=-1, le=ITEMS)]
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """The request of a verb that needs no argument."""


@dataclass(frozen=True, kw_only=True)
class Register:
    """See ``Queue.register``."""

    registrations: Annotated[list[Registration], Field(max_length=ITEMS)]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """See ``Queue.registration``."""

    flow: str
    version: Number | None = None


@dataclass(frozen=True, kw_only=True)
class Submit:
    """See ``Queue.submit``."""

    submissions: Annotated[list[Submission], Field(max_length=SUBMISSIONS)]
    times: Annotated[list[Annotated[int, Field(ge=1, le=SUBMISSIONS)]], Field(max_length=SUBMISSIONS)] = field(
        default_factory=list
    )
    """How often each of them is meant; empty: each once."""

    def all(self) -> list[Submission]:
        """The submissions, each as often as it is meant.

        Raises InvalidInput: there are not as many numbers, or too many runs.
        """
        if not self.times:
            return self.submissions
        if len(self.times) != len(self.submissions) or sum(self.times) > SUBMISSIONS:
            raise InvalidInput(
                f"{len(self.submissions)} submissions are meant {len(self.times)} times, {sum(self.times)} in all;"
                f" expected a number for each, and {SUBMISSIONS} at the most"
            )
        return [each for each, times in zip(self.submissions, self.times, strict=True) for _ in range(times)]


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A verb about one run."""

    run_id: str


@dataclass(frozen=True, kw_only=True)
class Runs:
    """See ``Queue.runs``."""

    states: Annotated[list[State], Field(max_length=ITEMS)] = field(default_factory=list)
    flow: str | None = None
    limit: Most = 50
    before: str | None = None


@dataclass(frozen=True, kw_only=True)
class Take:
    """See ``Queue.claim`` and ``Queue.take_over``. ``leases`` is how long the agent takes claims to hold."""

    agent: AgentInfo
    limit: Most
    request_id: str
    leases: Leases | None = None


@dataclass(frozen=True, kw_only=True)
class Held:
    """A claim as its agent names it in what it writes under it."""

    run_id: str
    number: Number
    attempt: Number
    proof: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Started:
    """See ``Queue.started``."""

    claim: Held
    ref: str
    revision: str | None = None
    scope: str = ""


@dataclass(frozen=True, kw_only=True)
class Extend:
    """See ``Queue.extend``."""

    agent: AgentInfo
    claims: Annotated[list[Held], Field(max_length=ITEMS)]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What ``extend`` says of one claim."""

    run_id: str
    number: Number
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Finish:
    """See ``Queue.finish``."""

    claim: Held
    outcome: Outcome
    retry_in: float | None = None


@dataclass(frozen=True, kw_only=True)
class Release:
    """See ``Queue.release``."""

    claim: Held
    delay: float = 0.0
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class AppendLogs:
    """See ``Queue.append_logs``."""

    claim: Held
    lines: Annotated[list[LogLine], Field(max_length=ITEMS)]


@dataclass(frozen=True, kw_only=True)
class LastSeq:
    """See ``Queue.last_seq``."""

    run_id: str
    attempt: Number
    source: str


@dataclass(frozen=True, kw_only=True)
class Logs:
    """See ``Queue.logs``."""

    run_id: str
    after: Number = 0
    limit: Most = 1000


@dataclass(frozen=True, kw_only=True)
class OneAgent:
    """A verb about one agent; ``leases`` as in ``Take``."""

    agent: AgentInfo
    leases: Leases | None = None


@dataclass(frozen=True, kw_only=True)
class SetLimit:
    """See ``Queue.set_limit``."""

    limit: Limit


@dataclass(frozen=True, kw_only=True)
class RemoveLimit:
    """See ``Queue.remove_limit``."""

    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Prune:
    """See ``Queue.prune``."""

    rule: Pruning
    before: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Wait for news after those that ``mark`` stands for; an unknown or empty mark is answered at once."""

    mark: str = ""
    seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class News:
    """What to give as ``mark`` the next time."""

    mark: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The answer to a request that was not done: which error it is, what is, and the way out."""

    error: str
    message: str
    hint: str | None = None
