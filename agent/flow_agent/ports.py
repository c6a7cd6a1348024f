"""The contracts between the parts. Each docstring is the specification that a contract test checks.

Four doors, each opened by an entry point: ``flow_agent.queues`` (by URL scheme), ``flow_agent.storages``,
``flow_agent.launchers`` and ``flow_agent.secret_providers``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard, runtime_checkable

from flow_agent.model import (
    AgentInfo,
    Attempt,
    Claim,
    Ending,
    Json,
    LaunchSpec,
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


class Clock(Protocol):
    """Time as a queue sees it, so that tests can move it."""

    def now(self) -> float:
        """Seconds since the epoch (UTC)."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back and stands still while the machine sleeps."""

    def boot(self) -> str:
        """What names this boot of the machine; leases of another boot have ended."""


@dataclass(frozen=True, kw_only=True)
class Leases:
    """How long a claim holds without a sign of life, in seconds: before user code started, and after."""

    claimed: float = 30.0
    running: float = 120.0


class Queue(Protocol):
    """Registrations, runs, logs and agents.

    Every verb is one transaction: it happens whole or not at all, also when the program is killed. Every verb is
    idempotent (by request id, idempotency key, or claim), because replies get lost. Writes under a claim that is
    not its run's current one raise ClaimLost and change nothing. A run in a terminal state never changes.

    Any verb raises QueueUnavailable when there is no answer now (the same call may be repeated), and QueueError
    when the queue is broken (not a database, a newer schema, no permission).
    """

    # Registrations

    async def register(self, registrations: Sequence[Registration]) -> list[Registration]:
        """Store all of them or none; each comes back with its ``version``, one more than that flow's newest.

        A registration equal to that flow's newest one in everything but ``version``, ``created_at`` and
        ``location`` of the same ``digest`` still becomes a new version: registering is an event.
        """

    async def registration(self, flow: str, version: int | None = None) -> Registration:
        """One version of a flow, the newest if ``version`` is None.

        Raises NotFound: no such flow (the message names the nearest known one) or version.
        """

    async def registrations(self) -> list[Registration]:
        """The newest version of each flow, by name."""

    # Runs

    async def submit(self, submissions: Sequence[Submission]) -> list[Run]:
        """Store the runs, all or none, and poke waiting agents.

        Ids are lowercase ULIDs in the order of submission, also within one call and within one millisecond. The
        version is fixed now. Labels are the registration's and the submission's; the launcher is the
        registration's. ``due_at`` in the future gives ``scheduled``, else ``queued``, unless a limit is full that
        skips or replaces (see ``Limit``). A ``key`` that a run of the same flow already has gives that run back
        unchanged, also within one call.

        Raises NotFound: unknown flow or version.
        """

    async def get(self, run_id: str) -> Run:
        """The run. ``run_id`` may be any unambiguous beginning of an id, at least four characters.

        Raises NotFound: none or several; says which.
        """

    async def runs(
        self, *, states: Collection[State] = (), flow: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Run]:
        """Newest first; only those in ``states`` (empty: any) and of ``flow``; older than the run id ``before``."""

    async def attempts(self, run_id: str) -> list[Attempt]:
        """The attempts of a run in order; empty if user code never started."""

    async def cancel(self, run_id: str) -> Run:
        """Cancel the run and poke agents.

        A run that waits ends at once (``cancelled``, reason ``cancelled``). One that is claimed or running gets
        ``cancel_requested``; ``extend`` tells its agent, which ends it. A terminal run stays as it is.
        """

    # What agents do

    async def claim(self, agent: AgentInfo, limit: int, request_id: str) -> list[Claim]:
        """Win up to ``limit`` queued runs for ``agent``, higher priority first, then smaller id.

        Before that, in the same transaction: runs whose ``due_at`` has come are promoted, at most PROMOTED_AT_ONCE
        of them, longest due first (``next_due`` stays in the past while there are more), and claims whose lease has
        ended are resolved (see ``reap``), except those of this life of ``agent``, which may be about to report them.
        Only runs that ``labels.matches`` and that have a slot of each limit. Each gets ``claim`` + 1 as its
        number, ``claimed_at``, ``agent`` (the name) and the launcher it will use (the agent's default if it asked
        for none); state ``claimed``; a lease of ``leases.claimed`` seconds.

        The same ``request_id`` again gives the same claims as far as they are still in state ``claimed`` under
        the same number, and wins nothing new (an empty first answer is not remembered).
        Its cost does not depend on how many runs wait that the agent may not take.
        """

    async def started(self, claim: Claim, ref: str, *, revision: str | None = None, scope: str = "") -> None:
        """User code is about to run: state ``running``, ``attempt`` = ``claim.attempt``, ``ref``, ``revision``,
        ``started_at``, no ``losses``, and a lease of ``leases.running`` seconds. From here on the attempt counts.

        ``scope`` is the launcher's scope if the attempt outlives its lease (it may be taken over), else empty.
        Repeating it with the same ref succeeds, and the lease begins again.
        """

    async def extend(self, agent: AgentInfo, claims: Collection[Claim]) -> dict[tuple[str, int], Verdict]:
        """Extend each current claim's lease by its state's length and record the agent's sign of life.

        Keys of the answer are (run id, claim number). ``CANCEL``: still held, but somebody asked to cancel it.
        ``LOST``: not the current claim any more. An empty ``claims`` is just a sign of life.
        """

    async def finish(self, claim: Claim, outcome: Outcome, *, retry_in: float | None = None) -> Run:
        """The attempt, or what came before it, has ended.

        Without ``retry_in`` the run gets the outcome's state, which is terminal, with reason, detail, exit code
        and result. With it (seconds, >= 0) the run waits again: ``queued`` at 0, else ``scheduled`` with that
        ``due_at``; its reason and detail tell of the ended attempt. The attempt's own row gets the outcome either
        way. If cancelling was requested meanwhile, ``retry_in`` is ignored and the run is ``cancelled``.
        Repeating it with the same outcome succeeds and changes nothing, also after the run was claimed again.
        """

    async def release(self, claim: Claim, *, delay: float = 0.0, detail: str = "") -> None:
        """Give back a claim under which user code has not started: the run waits again, no attempt used.

        ``queued``, or ``scheduled`` in ``delay`` seconds; ``detail`` says why, for people. A cancelled one ends.
        The first release with a delay sets ``released_since``; ``started`` clears it.
        A claim that has started and has a scope is handed over instead: it stays ``running``, held by nobody,
        until some agent takes it over. Started without scope: ClaimLost. Repeating it succeeds.
        """

    async def take_over(self, agent: AgentInfo, limit: int, request_id: str) -> list[Claim]:
        """What ``agent`` should go on watching.

        First, whatever earlier incarnations of the same ``agent.id`` hold: claims that have not started are
        resolved as lost (see ``reap``), since what kills its agent is met again by the agent that is started anew;
        started ones are won. Then up to ``limit`` runs in all that are held by nobody
        or whose lease has ended, if they were started with a scope that ``agent`` serves with that launcher.
        Each has the same ``attempt`` and ``ref`` as before, a new number, and a running lease. The same
        ``request_id`` again gives the same claims.
        """

    async def reap(self) -> list[Run]:
        """Resolve every claim whose lease has ended (also those of another boot), and give the runs touched; before
        that, runs whose ``due_at`` has come are promoted, as in ``claim``.

        Not started: back to ``queued``, one more of ``losses``; at LOSSES_ALLOWED it ends: ``failed``,
        ``agent_error``. Started with a scope: held by nobody, for ``take_over``. Started without: the attempt is
        used, ended as ``agent_lost``; again ``queued`` or ``scheduled`` (``retry_delay``) if ``retries`` allow,
        else ``failed``, ``agent_lost``. Cancel requested: ``cancelled``, except where it may be taken over.
        """

    # Logs

    async def append_logs(self, claim: Claim, lines: Sequence[LogLine]) -> None:
        """Store the lines of one attempt in order; those there already (by seq) are left as they are."""

    async def last_seq(self, run_id: str, attempt: int, source: str) -> int:
        """The largest ``seq`` stored of that source; 0 if none."""

    async def logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Lines of the run with a ``cursor`` above ``after``, in order, at most ``limit``."""

    # Agents

    async def announce(self, agent: AgentInfo) -> None:
        """Record the agent as it is now: at its start, and when it begins to drain."""

    async def retire(self, agent: AgentInfo) -> None:
        """The agent has ended in order: it is no longer listed. Only its own incarnation is removed."""

    async def agents(self) -> list[AgentInfo]:
        """Agents by name, the dead ones too as long as they are remembered (a day); see ``seen_at``."""

    async def waiting(self) -> list[Waiting]:
        """Queued runs by requirement set, of each at most COUNTED: those that are claimed first; and those that are
        running with a scope. Sets without any are left out. Its cost does not depend on how many more wait."""

    # Limits

    async def limits(self) -> list[Limit]:
        """The limits by kind and name, each with how many runs have a slot of it now."""

    async def set_limit(self, limit: Limit) -> None:
        """Store the limit in place of one of the same kind and name, and poke waiting agents.

        From now on no claim makes more runs that it covers claimed or running than it has slots; those that are so
        already go on. A slot is nothing but its run's lease: it is free when the run has ended, waits again, or was
        found lost (see ``reap``). A run that is covered by several limits needs a slot of each. What waits for a
        slot costs no claim anything, however much of it there is.
        """

    async def remove_limit(self, kind: str, name: str) -> None:
        """Forget the limit, and poke waiting agents.

        Raises NotFound: there is none.
        """

    # What is not needed any more

    async def prune(self, rule: Pruning, *, before: str | None = None, dry_run: bool = False) -> Pruned:
        """Do one step of removing, from the newest run to the oldest, and say what it removed.

        The next step begins at ``next``, given as ``before``; when that is None it was the last one. A run goes with
        its attempts, its log and its key, which may be used again; one with a very long log takes several steps, its
        lines first. A run stays that has not ended, or that a run which stays is a retry of (``retry_of``).

        The last step also removes registrations as old that are not their flow's newest and that no run names (of
        ``rule.flow`` only, if there is one), and agents that are listed no more. ``dry_run`` removes nothing and
        counts what would go, but of registrations only those that no run names now. Repeating a step does no harm.
        """

    # Waking

    async def wait(self, seconds: float) -> None:
        """Return when something may have changed for an agent (a submit, a cancel), or after ``seconds``.

        May return for no reason. Several changes may come as one. A change between two calls is not missed.
        """

    async def next_due(self) -> float | None:
        """When (seconds since the epoch) the next scheduled run becomes due; None if none waits."""


class OpenQueue(Protocol):
    """What an entry point of ``flow_agent.queues`` names."""

    def __call__(
        self, url: str, *, leases: Leases = ..., clock: Clock | None = None, options: Mapping[str, Json] = ...
    ) -> AbstractAsyncContextManager[Queue]:
        """Open the queue at ``url``, migrating it if it is older; closing leaves nothing behind.

        Raises QueueTooNew, QueueError (with the way out), QueueUnavailable.
        """


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A payload as it lies in a folder now.

    ``payload`` is what ``LaunchSpec.payload`` will be, its paths relative to the folder; ``revision`` names what
    was fetched for people (a digest, commit, VersionId, generation, ETag). ``digest`` is the SHA-256 of the payload's
    contents (see ``storages.payload``). ``validator`` is what the storage can be asked with whether it has changed,
    None if it cannot be asked.
    """

    payload: Mapping[str, Json]
    revision: str
    digest: str
    validator: str | None = None


class SecretResolver(Protocol):
    """Finds the value of a declared secret."""

    async def get(self, name: str) -> str:
        """The value.

        Raises SecretNotFound: names every place that was looked in. SecretUnavailable: a provider did not answer.
        """


class SecretProvider(Protocol):
    """One place where secrets may be."""

    where: str
    """The place for people, as in "looked in: ..."."""

    async def get(self, name: str) -> str | None:
        """The value; None if it is not there.

        Raises SecretUnavailable: the place does not answer, or does not let us look.
        """


class OpenSecretProvider(Protocol):
    """What an entry point of ``flow_agent.secret_providers`` names."""

    def __call__(self, rest: str) -> AbstractAsyncContextManager[SecretProvider]:
        """Open the provider; ``rest`` is what stands behind the colon of its URL in the settings.

        Raises InvalidInput: it does not fit.
        """


class Storage(Protocol):
    """Where payloads live; the fetching half. (The author's half is ``storages.base.Storage``.)"""

    remote: bool
    """Whether fetching goes over a network, so that what was fetched is worth keeping on this machine."""

    async def fetch(
        self, registration: Registration, into: Path, secrets: SecretResolver, known: str | None = None
    ) -> Fetched | None:
        """Put the registration's payload under the existing empty folder ``into``.

        ``known`` is the validator of what the caller has already: None comes back, and ``into`` stays empty, if the
        source is still that. Without ``known`` the answer is never None.

        Verifies nothing but what the storage itself promises. Fetching twice gives the same revision while the
        source stays the same. Being cancelled leaves nothing outside ``into``.

        Raises FetchError: ``transient`` if another try can help; names storage and location, never a secret.
        """


@runtime_checkable
class NearStorage(Protocol):
    """What a storage of this machine may offer beside ``Storage``: fetching together with the other work on the folder
    of the attempt, which then needs no thread of its own, or none at all."""

    def fetch_here(self, registration: Registration, into: Path, check: Callable[[], object]) -> Fetched:
        """As ``fetch``, without secrets. Blocks. ``check`` is called between pieces of work; raises to end it."""

    def lies_beside(self, registration: Registration, folder: Path) -> bool:
        """Whether the payload lies on the disk of ``folder``. Blocks."""


class ResultStore(Protocol):
    """Where return values are kept, made from what the registration keeps of it (``from_description``)."""

    def render(self, flow: str, run_id: str, attempt: int) -> str:
        """The location of one attempt's return value in this store."""

    async def put(self, location: str, source: Path, secrets: SecretResolver) -> None:
        """Write the file ``source`` to ``location``, whole or not at all; what is there is replaced.

        Raises ResultError: ``transient`` if another try can help. OSError: the disk refuses.
        """

    async def get(self, location: str, folder: Path, secrets: SecretResolver) -> Path:
        """The file that ``put`` wrote: where it lies, or a copy in the existing folder ``folder``.

        Raises ResultError: ``transient`` if another try can help. OSError: the disk refuses, or it is not there.
        """

    async def remove(self, location: str, secrets: SecretResolver) -> None:
        """Remove what ``put`` wrote; what is not there is fine.

        Raises ResultError: ``transient`` if another try can help. OSError: the disk refuses.
        """


Sink = Callable[[Sequence[LogLine]], Awaitable[None]]
"""Takes what an attempt wrote, in order; returns when it is safe elsewhere."""


class OpenLauncher(Protocol):
    """What an entry point of ``flow_agent.launchers`` names."""

    def __call__(
        self, home: Path, agent: str, options: Mapping[str, Json] = ..., /
    ) -> AbstractAsyncContextManager[Launcher]:
        """Open the launcher of the agent called ``agent``; ``options`` are the settings of that launcher.

        Closing it leaves attempts that outlive an agent alone.
        """


class Launcher(Protocol):
    """Starts attempts somewhere and tells how they ended. It decides no outcome and keeps no time limit."""

    name: str
    """As run configs name it."""

    scope: str
    """Where its attempts go on without this agent; empty if they end with their lease."""

    async def create(self, spec: LaunchSpec) -> str:
        """Make everything ready, but let no user code run; return the ref by which another process could go on.

        Raises LaunchError: nothing is left behind.
        """

    async def go(self, ref: str) -> None:
        """Let user code run. Repeating it does nothing."""

    async def extend(self, ref: str, deadline: float) -> None:
        """Nothing of the attempt may run after ``deadline`` (``time.monotonic()``); moves the earlier one.

        Where there is a scope, an attempt outlives its lease, and another agent goes on with it.
        """

    async def wait(self, ref: str, sink: Sink, *, attempt: int, after: int = 0) -> Ending:
        """Hand what the attempt writes to ``sink`` as it comes, lines of seq <= ``after`` left out; return when
        nothing of it runs any more and all it wrote has been handed over."""

    async def stop(self, ref: str, grace: float) -> None:
        """End it: ask, wait up to ``grace`` seconds, kill it and all that it started. ``wait`` then returns.

        Does nothing if it has ended already.
        """

    async def adopt(self, refs: Collection[str]) -> None:
        """Called once, at the agent's start: ``refs`` go on; all else of an earlier life is ended and removed."""

    async def remove(self, ref: str) -> None:
        """Delete what is left of an ended attempt; everything of it is safe elsewhere. Repeating it does nothing."""


class RemoteLauncher(Launcher, Protocol):
    """One whose attempts prepare themselves where they run: they fetch their flow, hold its time limit, and put its
    return value away. They have a scope, and go on without this agent."""

    takes_secrets: bool
    """Whether attempts are handed the values of their secrets; if not, they find them where they run."""

    def hand_over(self, ref: str) -> None:
        """Forget the attempt, which another agent goes on with; nothing of it is ended."""


def is_remote(launcher: Launcher) -> TypeGuard[RemoteLauncher]:
    """Whether it is one; asking by the protocol takes 0.16 ms, and each run asks."""
    return hasattr(launcher, "hand_over")
