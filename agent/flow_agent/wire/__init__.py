"""What the HTTP queue says to its server, and hears: one request and one answer for each verb, as JSON.

Both ends are made from ``VERBS``, so that they cannot differ. Values are the dataclasses of ``model``; a field that one
side does not know is left out, so that client and server may be of neighbouring versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flow_agent import errors
from flow_agent.model import AgentInfo, Attempt, Claim, Limit, LogLine, Pruned, Registration, Run, Waiting
from flow_agent.wire.codec import checked, decode, encode, parse
from flow_agent.wire.messages import (
    AppendLogs,
    Extend,
    Finish,
    Flow,
    Held,
    LastSeq,
    Logs,
    News,
    Nothing,
    OneAgent,
    OneRun,
    Prune,
    Refusal,
    Register,
    Release,
    RemoveLimit,
    Runs,
    Said,
    SetLimit,
    Started,
    Submit,
    Take,
    Wait,
)

__all__ = [
    "ERRORS",
    "PREFIX",
    "SCOPES",
    "VERBS",
    "AppendLogs",
    "Extend",
    "Finish",
    "Flow",
    "Held",
    "LastSeq",
    "Logs",
    "News",
    "Nothing",
    "OneAgent",
    "OneRun",
    "Prune",
    "Refusal",
    "Register",
    "Release",
    "RemoveLimit",
    "Runs",
    "Said",
    "Scope",
    "SetLimit",
    "Started",
    "Submit",
    "Take",
    "Verb",
    "Wait",
    "checked",
    "decode",
    "encode",
    "parse",
]

PREFIX = "/v1/"
Scope = Literal["submit", "register", "agent", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("submit", "register", "agent", "read", "admin")
"""``register`` is code execution on every agent; ``admin`` is all of them."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb: what it is asked with, what it answers, and the scopes of which one suffices."""

    request: Any
    answer: Any
    scopes: tuple[Scope, ...]
    about: str


VERBS: Mapping[str, Verb] = {
    "register": Verb(
        request=Register, answer=list[Registration], scopes=("register",), about="Store versions of flows, all or none"
    ),
    "registration": Verb(
        request=Flow, answer=Registration, scopes=("read", "submit", "register", "agent"), about="One version of a flow"
    ),
    "registrations": Verb(
        request=Nothing,
        answer=list[Registration],
        scopes=("read", "submit", "register", "agent"),
        about="The newest version of each flow",
    ),
    "submit": Verb(request=Submit, answer=list[Run], scopes=("submit",), about="Ask for runs, all or none"),
    "get": Verb(request=OneRun, answer=Run, scopes=("read", "submit", "agent"), about="One run"),
    "runs": Verb(request=Runs, answer=list[Run], scopes=("read",), about="Runs, newest first"),
    "attempts": Verb(request=OneRun, answer=list[Attempt], scopes=("read",), about="The attempts of a run"),
    "cancel": Verb(request=OneRun, answer=Run, scopes=("submit",), about="Cancel a run"),
    "claim": Verb(request=Take, answer=list[Claim], scopes=("agent",), about="Win queued runs"),
    "started": Verb(request=Started, answer=None, scopes=("agent",), about="User code is about to run"),
    "extend": Verb(request=Extend, answer=list[Said], scopes=("agent",), about="Extend leases; a sign of life"),
    "finish": Verb(request=Finish, answer=Run, scopes=("agent",), about="An attempt has ended"),
    "release": Verb(request=Release, answer=None, scopes=("agent",), about="Give a claim back"),
    "take_over": Verb(request=Take, answer=list[Claim], scopes=("agent",), about="Go on watching what others left"),
    "reap": Verb(
        request=Nothing,
        answer=list[Run],
        scopes=(
            "agent",
            "submit",
            "read",
        ),  # whoever waits for a run asks for it: where no agent lives, nobody else does
        about="Resolve claims whose lease has ended",
    ),
    "append_logs": Verb(request=AppendLogs, answer=None, scopes=("agent",), about="Store lines of a log"),
    "last_seq": Verb(request=LastSeq, answer=int, scopes=("agent", "read"), about="How far a log has come"),
    "logs": Verb(request=Logs, answer=list[LogLine], scopes=("read",), about="Lines of a run's log"),
    "announce": Verb(request=OneAgent, answer=None, scopes=("agent",), about="An agent as it is now"),
    "retire": Verb(request=OneAgent, answer=None, scopes=("agent",), about="An agent has ended in order"),
    "agents": Verb(request=Nothing, answer=list[AgentInfo], scopes=("read", "submit", "agent"), about="Agents by name"),
    "waiting": Verb(
        request=Nothing,
        answer=list[Waiting],
        scopes=("read", "submit", "agent"),
        about="Queued runs by what they ask for",
    ),
    "limits": Verb(
        request=Nothing,
        answer=list[Limit],
        scopes=("read", "submit"),
        about="Concurrency limits and what is taken of them",
    ),
    "set_limit": Verb(request=SetLimit, answer=None, scopes=("admin",), about="Set a concurrency limit"),
    "remove_limit": Verb(request=RemoveLimit, answer=None, scopes=("admin",), about="Forget a concurrency limit"),
    "prune": Verb(request=Prune, answer=Pruned, scopes=("admin",), about="One step of removing old runs"),
    "next_due": Verb(
        request=Nothing, answer=float | None, scopes=("read", "agent"), about="When the next scheduled run is due"
    ),
    "wait": Verb(
        request=Wait, answer=News, scopes=("read", "submit", "agent"), about="Answer when something may have changed"
    ),
}


ERRORS: Mapping[str, tuple[type[Exception], int]] = {
    "not_found": (errors.NotFound, 404),
    "claim_lost": (errors.ClaimLost, 409),
    "queue_unavailable": (errors.QueueUnavailable, 503),
    "queue_too_new": (errors.QueueTooNew, 500),
    "queue_error": (errors.QueueError, 500),
    "invalid_input": (errors.InvalidInput, 422),
    "value_error": (ValueError, 422),
    "too_large": (errors.QueueError, 413),
    "too_slow": (errors.QueueUnavailable, 408),
    "no_token": (errors.QueueError, 401),
    "no_scope": (errors.QueueError, 403),
    "server_error": (errors.QueueUnavailable, 500),
}
"""Each refusal's word, the error that the client makes of it, and its status. The more special ones come first."""
