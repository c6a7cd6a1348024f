"""The values that travel through the program: frozen, and equal on every queue.

Times are seconds since the epoch (UTC) as floats; the command line shows them as ISO 8601. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

Json = Any
"""What ``json.loads`` gives: dict, list, str, int, float, bool or None."""


class State(StrEnum):
    """Where a run stands. Terminal states never change."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a run in this state has ended."""
        return self in {State.SUCCEEDED, State.FAILED, State.CANCELLED}


class Reason(StrEnum):
    """How an attempt ended: a public contract, for rules that people write."""

    COMPLETED = "completed"
    RAISED = "raised"
    EXITED = "exited"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    AGENT_STOPPING = "agent_stopping"
    AGENT_LOST = "agent_lost"
    LEASE_LOST = "lease_lost"
    FETCH_FAILED = "fetch_failed"
    FLOW_NOT_FOUND = "flow_not_found"
    DIGEST_MISMATCH = "digest_mismatch"
    SIGNATURE_REFUSED = "signature_refused"
    PYTHON_MISMATCH = "python_mismatch"
    PARAMETERS_INVALID = "parameters_invalid"
    SECRET_NOT_FOUND = "secret_not_found"  # noqa: S105 - a reason, not a password
    LAUNCH_FAILED = "launch_failed"
    RESULT_FAILED = "result_failed"
    NOT_ALLOWED = "not_allowed"
    AGENT_ERROR = "agent_error"


RETRIED = frozenset(
    {
        Reason.RAISED,
        Reason.EXITED,
        Reason.KILLED,
        Reason.OUT_OF_MEMORY,
        Reason.TIMED_OUT,
        Reason.AGENT_LOST,
        Reason.AGENT_STOPPING,
    }
)
"""The reasons that a flow's ``retries`` cover."""

LOSSES_ALLOWED = 5
"""Claims of one run that may be lost before user code started; the fifth ends it (``agent_error``), so that a
payload that kills agents cannot go round for ever."""

PROMOTED_AT_ONCE = 1_000
"""Scheduled runs that one claim makes queued ones when they are due: each claim is one transaction, which keeps other
writers waiting."""

COUNTED = 10_000
"""Queued runs that are counted of one requirement set. Who scales or warns by the number needs no larger one, and
counting a million takes a tenth of a second of the queue's time, each time that somebody asks."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a flow's function.

    ``kind`` is ``named``, or ``any`` for ``**kwargs``. ``default`` is JSON where it can be, else the text of its
    ``repr``; it means nothing while ``required``.
    """

    name: str
    kind: str = "named"
    required: bool = False
    default: Json = None
    annotation: str = ""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What the queue keeps of one version of a flow: no secret and no code.

    ``storage`` is ``{"type": ..., options}``, ``location`` what that storage needs to find this payload again;
    ``digest`` is the SHA-256 (hex) that the payload must have, or None for a script that follows its source.
    ``python`` is the minor version ("3.11") that a pickle needs; ``interpreter`` the program that registered a
    Local flow. ``launcher`` is None where the agent's first is wanted. ``parameters`` is None where the signature
    is not fixed (a script that is not pinned), though ``parameters_seen`` then holds it as it was.
    """

    flow: str
    kind: str
    storage: Mapping[str, Json]
    location: Mapping[str, Json]
    version: int = 0
    digest: str | None = None
    size: int | None = None
    python: str | None = None
    cloudpickle: str | None = None
    interpreter: str | None = None
    labels: tuple[str, ...] = ()
    launcher: str | None = None
    run_config: Mapping[str, Json] = field(default_factory=dict)
    result: Mapping[str, Json] | None = None
    parameters: tuple[Parameter, ...] = ()
    pinned: bool = True
    secrets: tuple[str, ...] = ()
    retries: int = 0
    retry_delay: float = 0.0
    timeout: float | None = None
    created_at: float = 0.0

    def to_json(self) -> dict[str, Json]:
        """The registration as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Registration:
        """The registration that ``to_json`` wrote; fields of a newer program are left out."""
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["labels"] = tuple(values.get("labels", ()))
        values["secrets"] = tuple(values.get("secrets", ()))
        values["parameters"] = tuple(Parameter(**p) for p in values.get("parameters", ()))
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One request to run a flow, before the queue gives it an id.

    ``version`` None means the newest. ``labels`` are added to the registration's. ``due_at`` in the future makes
    the run ``scheduled``. ``key`` is the idempotency key, unique per flow: a second submission with it gives the
    first one's run. ``retry_of`` names the run that this one repeats.
    """

    flow: str
    version: int | None = None
    parameters: Mapping[str, Json] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    priority: int = 0
    due_at: float | None = None
    key: str | None = None
    retry_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the queue holds it now.

    ``attempt`` counts the starts of user code so far. ``claim`` is the number of the newest claim (0: none yet).
    ``launcher`` is the one the run asks for (None: the agent's first), or, once claimed, the one it got.
    ``result`` is ``{"inline": value}``, or ``{"store": ..., "location": ..., "format": "json" | "pickle", "size": ...,
    "digest": ...}`` where it was written to a result store.
    """

    id: str
    flow: str
    version: int
    state: State
    labels: frozenset[str] = frozenset()
    launcher: str | None = None
    parameters: Mapping[str, Json] = field(default_factory=dict)
    priority: int = 0
    reason: Reason | None = None
    detail: str = ""
    attempt: int = 0
    claim: int = 0
    losses: int = 0
    due_at: float | None = None
    created_at: float = 0.0
    claimed_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    agent: str | None = None
    ref: str | None = None
    revision: str | None = None
    exit_code: int | None = None
    result: Mapping[str, Json] | None = None
    retry_of: str | None = None
    key: str | None = None
    cancel_requested: bool = False
    released_since: float | None = None
    """When the run was first given back with a delay since its user code last started, if it was."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of user code, for people: when, where, and how it ended (None while it goes on)."""

    number: int
    claim: int
    agent: str
    started_at: float
    finished_at: float | None = None
    reason: Reason | None = None
    detail: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class AgentInfo:
    """An agent as it presents itself to the queue.

    ``id`` is kept in the agent's home and outlives it, so that a successor is known by it; ``incarnation`` is new
    at each start. ``launchers`` maps each launcher's name to its scope: runs started in a scope outlive the agent,
    and any agent with the same launcher and scope may take them over; an empty scope means they do not.
    ``default_launcher`` serves the runs that ask for none. ``seen_at`` is when it gave its last sign of life, by the
    queue's clock, and ``silent`` how many seconds before it was listed, by the same clock: no other one tells whether
    it lives.
    """

    id: str
    name: str
    incarnation: str
    labels: frozenset[str] = frozenset()
    launchers: Mapping[str, str] = field(default_factory=lambda: {"process": ""})
    default_launcher: str = "process"
    only_labelled: bool = False
    limit: int = 1
    running: int = 0
    draining: bool = False
    host: str = ""
    pid: int = 0
    version: str = ""
    started_at: float = 0.0
    seen_at: float = 0.0
    silent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One agent's right to a run. ``number`` is the only fencing token.

    ``attempt`` is the number of the attempt that this claim will start or, where ``ref`` is set, goes on watching.
    ``lease`` is the number of seconds it holds, counted from before the request that won it. ``proof`` is what a queue
    that serves many callers wants to see again with each write; empty where there is no such thing.
    """

    run: Run
    registration: Registration
    number: int
    attempt: int
    lease: float
    ref: str | None = None
    proof: str = field(default="", repr=False)


class Verdict(StrEnum):
    """What ``Queue.extend`` says of a claim."""

    HELD = "held"
    CANCEL = "cancel"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended; ``detail`` is one sentence for a person, redacted. ``ago`` is how many seconds before it is
    reported: it may have ended while no agent watched, or while the queue was away. ``revision`` is what an attempt has
    fetched that fetches for itself; None where ``Queue.started`` was told."""

    state: State
    reason: Reason
    detail: str = ""
    exit_code: int | None = None
    result: Mapping[str, Json] | None = None
    revision: str | None = None
    ago: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a run's log.

    ``source`` is ``flow`` for what the attempt wrote, ``agent.N`` for what the agent says under claim N, or
    ``launcher`` for what a launcher has to say of the attempt;
    ``seq`` counts from 1 within (run, attempt, source), so that a line sent twice is stored once. ``level`` is
    empty for plain output, else a name of :mod:`logging`. ``cursor`` orders the lines of a run; the queue gives it.
    """

    attempt: int
    source: str
    seq: int
    time: float
    text: str
    level: str = ""
    logger: str = ""
    cursor: int = 0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How many runs of one requirement set are queued, and, in seconds since the epoch, ``since`` when the one of them
    that was submitted first waits: since then, or since it became due. ``going``: how many are running that outlive
    their agent, so that one is needed to watch them."""

    labels: frozenset[str]
    launcher: str | None
    queued: int
    since: float | None = None
    going: int = 0


class Full(StrEnum):
    """What becomes of a run that is submitted while its limit is full."""

    QUEUE = "queue"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At most ``slots`` runs of a flow, or with a label (``kind`` says which), are claimed or running at a time.

    ``when_full`` is about runs that are due when they are submitted, while as many as there are slots wait or run:
    ``queue`` lets them wait, ``skip`` ends them as cancelled at once, ``replace`` cancels the oldest of the others.
    ``taken`` is how many runs have a slot now.
    """

    kind: Literal["flow", "label"]
    name: str
    slots: int
    when_full: Full = Full.QUEUE
    taken: int = 0

    def covers(self, flow: str, labels: frozenset[str]) -> bool:
        """Whether it is about runs of that flow with these labels."""
        return self.name == flow if self.kind == "flow" else self.name in labels


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """All that a launcher may know of an attempt.

    ``payload`` is ``{"kind": "pickle", "path": ...}``, ``{"kind": "script", "root": ..., "path": ...}`` or
    ``{"kind": "module", ...}``, paths relative to ``folder``, the attempt's spool. ``deadline`` is the time of
    ``time.monotonic()`` by which nothing of it may run any more; ``Launcher.extend`` moves it on. ``timeout`` is how
    many seconds user code may take: who can holds it while no agent lives, too. ``tell`` writes a line into the run's
    log (level, text), where the making of an attempt takes long.

    For launchers of containers: ``image`` is the one that run config or storage name, ``container`` what else the run
    config says, ``registry`` the value of the secret for the image's registry by its name. ``env`` then has nothing
    of the agent's own environment.

    For launchers whose attempts prepare themselves where they run: ``registration`` is the run's, with the secrets that
    the attempt gets; ``folder`` and ``payload`` are empty, and ``env`` has only what the settings give to all runs.
    """

    run_id: str
    flow: str
    claim: int
    attempt: int
    folder: str
    payload: Mapping[str, Json]
    parameters: Mapping[str, Json]
    deadline: float
    grace: float
    interpreter: str | None = None
    python: str | None = None
    working_dir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    redacted: tuple[str, ...] = field(default=(), repr=False)
    output_limit: int = 1_000_000_000
    memory_limit: int | None = None
    cpu_time_limit: float | None = None
    nice: int | None = None
    image: str | None = None
    container: Mapping[str, Json] = field(default_factory=dict)
    registry: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    registration: Registration | None = None
    tell: Callable[[str, str], Awaitable[None]] | None = field(default=None, repr=False, compare=False)


MORE_CALLS = "  ..."
"""Stands below the report of a crash in ``Ending.tail`` if that told as many calls as it can: the stack was deep."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a launcher found when an attempt had ended; ``execute`` makes an outcome of it.

    ``code`` is the exit code, ``signal`` the signal that ended it instead. ``receipt`` is the runner's final
    event: ``{"ok": true, "result": ...}``, or ``{"ok": false, "reason": ..., "detail": ...}``; None if none came.
    ``result`` is the file that holds the return value. ``tail`` are the last lines of output. ``lost`` says that
    nobody saw the end. ``at`` is when it came, if that is known: seconds since the epoch, by the clock of where it
    ran. ``memory`` is what shows that memory ran out, ``cpu`` that CPU time did. ``ended_by`` is ``stop``,
    ``deadline``, ``timeout`` or ``memory`` if we ended it, ``keeper`` if somebody else had its keeper end.
    ``stored`` is ``{"result": ...}``, as ``Run.result``, where the attempt has put its return value away itself, and
    ``revision`` what it has fetched itself.
    """

    code: int | None = None
    signal: int | None = None
    receipt: Mapping[str, Json] | None = None
    result: str | None = None
    tail: str = ""
    lost: str | None = None
    at: float | None = None
    memory: str | None = None
    cpu: str | None = None
    ended_by: str | None = None
    stored: Mapping[str, Json] | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Which runs may go: those that ended ``older_than`` seconds ago or more in one of ``states``, of ``flow`` (None:
    of any), but for the ``keep_last`` newest of each flow in those states."""

    older_than: float = 0.0
    keep_last: int = 0
    states: frozenset[State] = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
    flow: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What one step of pruning removed; ``next`` is where the next one begins, None after the last."""

    runs: int = 0
    lines: int = 0
    registrations: int = 0
    agents: int = 0
    next: str | None = None
