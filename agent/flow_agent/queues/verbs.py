"""What the verbs of a queue do inside one transaction, over the few things a store must be able to do."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import replace

from flow_agent.asked import check_labels
from flow_agent.errors import ClaimLost, NotFound
from flow_agent.model import (
    PROMOTED_AT_ONCE,
    AgentInfo,
    Attempt,
    Claim,
    LogLine,
    Outcome,
    Registration,
    Run,
    State,
    Submission,
    Verdict,
)
from flow_agent.queues import rules
from flow_agent.queues.ids import new_id
from flow_agent.queues.limits import Arrivals, Slots, held
from flow_agent.queues.presence import announce
from flow_agent.queues.rules import Moment, Stored
from flow_agent.queues.store import Store

SHORTEST_PREFIX = 4


# Registrations


def register(store: Store, registrations: Sequence[Registration], moment: Moment) -> list[Registration]:
    """See ``Queue.register``."""
    store.hold_versions()
    stored = []
    for given in registrations:
        newest = store.newest(given.flow)
        registration = replace(
            given, version=newest.version + 1 if newest else 1, created_at=given.created_at or moment.now
        )
        store.add_registration(registration)
        stored.append(registration)
    return stored


def registration_of(store: Store, flow: str, version: int | None) -> Registration:
    """See ``Queue.registration``."""
    if version is not None and (found := store.registration(flow, version)) is not None:
        return found
    newest = store.newest(flow)
    if newest is None:
        near = difflib.get_close_matches(flow, store.flow_names(), n=1, cutoff=0)
        known = f"the nearest known one is {near[0]!r}" if near else "the queue knows no flow yet"
        raise NotFound(f"flow {flow!r} is not registered; {known}", hint="register it with `flow-agent register FILE`")
    if version is None:
        return newest
    raise NotFound(f"flow {flow!r} has no version {version}; its newest is {newest.version}")


def _named(store: Store, run: Run) -> Registration:
    return store.registration_of(run) or registration_of(store, run.flow, run.version)


# Runs


def submit(store: Store, submissions: Sequence[Submission], moment: Moment) -> list[Run]:
    """See ``Queue.submit``."""
    store.hold_flows()
    # All are looked up before the first is stored, for stores that cannot roll back.
    named = {key: registration_of(store, *key) for key in dict.fromkeys((s.flow, s.version) for s in submissions)}
    registrations = [named[s.flow, s.version] for s in submissions]
    labels = [frozenset(r.labels) | s.labels for s, r in zip(submissions, registrations, strict=True)]
    for each in set(labels):
        check_labels(each)
    arrivals = Arrivals(store, moment, lambda run_id, why: cancel(store, run_id, moment, why))
    runs = []
    for submission, registration, wanted in zip(submissions, registrations, labels, strict=True):
        known = submission.key is not None and store.by_key(submission.flow, submission.key)
        if known:
            runs.append(known.run)
            continue
        due = submission.due_at
        run = Run(
            id=new_id(moment.now),
            flow=submission.flow,
            version=registration.version,
            state=State.SCHEDULED if due is not None and due > moment.now else State.QUEUED,
            labels=wanted,
            launcher=registration.launcher,
            parameters=submission.parameters,
            priority=submission.priority,
            due_at=due,
            created_at=moment.now,
            retry_of=submission.retry_of,
            key=submission.key,
        )
        stored = arrivals.arrive(Stored(run=run, asked=run.launcher))
        store.add_run(stored)
        runs.append(stored.run)
    return runs


def find(store: Store, run_id: str) -> Stored:
    """The run with that id, or with the only id that begins so."""
    wanted = run_id.lower()
    if stored := store.run(wanted):
        return stored
    if len(wanted) < SHORTEST_PREFIX:
        raise NotFound(f"{run_id!r} is too short for a run id: expected {SHORTEST_PREFIX} characters or more")
    ids = store.ids_beginning(wanted, 4)
    if len(ids) > 1:
        some = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        raise NotFound(f"several runs begin with {run_id!r}: {some}", hint="give more of the id")
    stored = store.run(ids[0]) if ids else None
    if stored is None:
        raise NotFound(f"no run begins with {run_id!r}", hint="`flow-agent runs` lists them")
    return stored


def cancel(store: Store, run_id: str, moment: Moment, why: str = "") -> Run:
    """See ``Queue.cancel``; ``why`` becomes its detail."""
    stored = find(store, run_id)
    if stored.run.state.terminal:
        return stored.run
    if stored.run.state in {State.SCHEDULED, State.QUEUED}:
        stored = rules.cancelled(stored, moment)
    stored = replace(stored, run=replace(stored.run, cancel_requested=True, detail=why or stored.run.detail))
    store.save(stored)
    return stored.run


# Claims


def _current(store: Store, claim: Claim) -> Stored:
    stored = store.run(claim.run.id)
    if stored is None:
        raise ClaimLost(f"run {claim.run.id} is not in the queue any more")
    rules.check_current(stored, claim)
    return stored


def _answer(store: Store, stored: Stored, moment: Moment) -> Claim:
    run = stored.run
    running = run.state is State.RUNNING
    return Claim(
        run=run,
        registration=_named(store, run),
        number=run.claim,
        attempt=run.attempt if running else run.attempt + 1,
        lease=moment.lease(run.state),
        ref=run.ref if running else None,
    )


def _repeated(store: Store, agent: AgentInfo, request_id: str, state: State, moment: Moment) -> list[Claim] | None:
    """What the same request won before, as far as it still holds; None if it won nothing."""
    known = store.claims_of(agent.id, request_id)
    if not known:
        return None
    claims = []
    for run_id, number in known:
        stored = store.run(run_id)
        if stored and stored.held_under(number) and stored.run.state is state:
            # The agent counts from before this request, so the lease must begin again.
            stored = rules.extended(stored, moment)
            store.save(stored)
            claims.append(_answer(store, stored, moment))
    return claims


def reap(store: Store, moment: Moment, *, but: AgentInfo | None = None) -> list[Run]:
    """Resolve the claims whose lease has ended; those of the agent ``but`` are left as they are."""
    touched = []
    for stored in store.expired(moment):
        if but is not None and (stored.agent_id, stored.incarnation) == (but.id, but.incarnation):
            continue
        registration = _named(store, stored.run)
        after, outcome = rules.lost(stored, registration, moment)
        if outcome is not None:
            store.end_attempt(stored.run.id, stored.run.attempt, outcome, moment.now)
        store.save(after)
        touched.append(after.run)
    return touched


def tidied(store: Store, moment: Moment) -> list[Run]:
    """See ``Queue.reap``."""
    store.promote(moment.now, PROMOTED_AT_ONCE)
    return reap(store, moment)


def claim(store: Store, agent: AgentInfo, limit: int, request_id: str, moment: Moment) -> list[Claim]:
    """See ``Queue.claim``."""
    limits = held(store)
    store.promote(moment.now, PROMOTED_AT_ONCE)
    store.expect_claim(agent, limit, request_id, moment)
    reap(store, moment, but=agent)  # it is alive, and may be about to report what it holds
    repeated = _repeated(store, agent, request_id, State.CLAIMED, moment)
    if repeated is not None:
        return repeated
    claims = []
    for stored in store.queued(agent, limit, Slots(store, limits).admits) if limit > 0 else []:
        won = rules.claimed(stored, agent, moment)
        store.save(won)
        store.add_claim(won.run.id, won.run.claim, agent.id, request_id)
        claims.append(_answer(store, won, moment))
    return claims


def started(store: Store, claim: Claim, moment: Moment, *, ref: str, revision: str | None, scope: str) -> None:
    """See ``Queue.started``."""
    stored = _current(store, claim)
    run = stored.run
    if run.state is State.RUNNING:
        if run.ref != ref:
            raise ClaimLost(f"run {run.id} has started already under claim {claim.number}, with another ref")
        store.save(rules.extended(stored, moment))  # the agent counts from before this request
        return
    store.save(rules.started(stored, claim, moment, ref=ref, revision=revision, scope=scope))
    attempt = Attempt(number=claim.attempt, claim=claim.number, agent=run.agent or "", started_at=moment.now)
    store.add_attempt(run.id, attempt)


def extend(store: Store, agent: AgentInfo, claims: Collection[Claim], moment: Moment) -> dict[tuple[str, int], Verdict]:
    """See ``Queue.extend``."""
    announce(store, agent, moment)
    verdicts = {}
    for claim in claims:
        stored = store.run(claim.run.id)
        verdict = Verdict.LOST
        if stored is not None and stored.held_under(claim.number):
            store.save(rules.extended(stored, moment))
            verdict = Verdict.CANCEL if stored.run.cancel_requested else Verdict.HELD
        verdicts[claim.run.id, claim.number] = verdict
    return verdicts


def finish(store: Store, claim: Claim, outcome: Outcome, retry_in: float | None, moment: Moment) -> Run:
    """See ``Queue.finish``."""
    if not outcome.state.terminal or (retry_in is not None and retry_in < 0):
        raise ValueError(f"a run cannot finish as {outcome.state} with retry_in {retry_in}")
    how = rules.fingerprint(outcome)
    if store.claim_end(claim.run.id, claim.number) == how and (again := store.run(claim.run.id)):
        return again.run
    stored = _current(store, claim)
    after = rules.finished(stored, moment, outcome, retry_in)
    store.save(after)
    store.end_claim(claim.run.id, claim.number, how)
    if stored.run.state is State.RUNNING:
        store.end_attempt(stored.run.id, stored.run.attempt, outcome, rules.end_of(stored, moment, outcome))
    return after.run


def release(store: Store, claim: Claim, delay: float, detail: str, moment: Moment) -> None:
    """See ``Queue.release``."""
    if store.claim_end(claim.run.id, claim.number) == rules.RELEASED:
        return
    stored = _current(store, claim)
    store.save(rules.released(stored, claim, moment, delay, detail))
    store.end_claim(claim.run.id, claim.number, rules.RELEASED)


def take_over(store: Store, agent: AgentInfo, limit: int, request_id: str, moment: Moment) -> list[Claim]:
    """See ``Queue.take_over``."""
    repeated = _repeated(store, agent, request_id, State.RUNNING, moment)
    if repeated is not None:
        return repeated
    wanted = []
    for stored in store.held_by(agent.id):
        if stored.incarnation == agent.incarnation:
            continue
        if stored.run.state is State.RUNNING:
            wanted.append(stored)
        else:
            store.save(rules.lost_before_start(stored, moment))
    own = {stored.run.id for stored in wanted}
    scopes = {launcher: scope for launcher, scope in agent.launchers.items() if scope}
    room = max(0, limit - len(wanted))
    others = [s for s in store.expired(moment) if s.scope and scopes.get(s.run.launcher or "") == s.scope]
    others = [*store.orphaned(scopes, room), *(s for s in others if s.run.id not in own)]
    claims = []
    for stored in [*wanted, *others[:room]]:
        won = rules.held(stored, agent, moment)
        store.save(won)
        store.add_claim(won.run.id, won.run.claim, agent.id, request_id)
        claims.append(_answer(store, won, moment))
    return claims


def append_logs(store: Store, claim: Claim, lines: Sequence[LogLine]) -> None:
    """See ``Queue.append_logs``."""
    _current(store, claim)
    store.add_logs(claim.run.id, lines)
