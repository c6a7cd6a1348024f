"""The only place that logs: one function per event, its level and its fields; the wording is here and nowhere else.

Ids are fields, never part of the text. ``configure`` is called once, by the command line.
"""

from __future__ import annotations

import functools
import logging
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog

from flow_agent.log_stream import PatientStream
from flow_agent.model import AgentInfo, Claim, Outcome, Run, State, Waiting
from flow_agent.redact import known

_log: Any = structlog.get_logger("flow_agent")


def configure(*, style: str = "auto", level: str = "info") -> None:
    """Log to standard error: ``pretty``, ``json``, or ``auto``: pretty on a terminal, else JSON."""
    out = _stream()
    pretty = style == "pretty" or (style == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # others show variables, with what is secret in them
            )
            if pretty
            else structlog.processors.JSONRenderer(default=str),
            _without_secrets,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )


def _without_secrets(_logger: Any, _method: str, text: Any) -> str:
    return known.text(text)


@functools.cache
def _stream() -> PatientStream:
    return PatientStream(2)


def flush(seconds: float = 0.0) -> None:
    """Write what waits for a reader of the log; ``seconds``: how long a slow one is waited for."""
    _stream().flush(seconds)


def agent_started(agent: AgentInfo, queue: str) -> None:
    """The agent is about to claim."""
    _log.info(
        "agent.started",
        name=agent.name,
        queue=queue,
        labels=sorted(agent.labels),
        launchers=sorted(agent.launchers),
        default_launcher=agent.default_launcher,
        limit=agent.limit,
        pid=agent.pid,
        version=agent.version,
    )


def probes_listen(address: str) -> None:
    """Whoever asks at that address is answered."""
    _log.info("probes.listen", address=address, paths="/livez /readyz /metrics /waiting")


def server_started(url: str, *, tokens: bool) -> None:
    """The HTTP queue is there to be asked."""
    _log.info("server.started", url=url, access="tokens" if tokens else "open")


def server_without_tokens(path: str) -> None:
    """Nobody can ask anything yet."""
    _log.warning("server.no_tokens", tokens=path, hint="`flow-agent tokens create NAME --scope SCOPE` makes one")


def server_stopping() -> None:
    """What was asked is still answered."""
    _log.info("server.stopping")


def server_mistake(error: BaseException) -> None:
    """A request could not be answered for a reason that nobody thought of."""
    _log.error("server.mistake", error=f"{type(error).__name__}: {error}", exc_info=error)


def queue_deaf(queue: str) -> None:
    """Notifications do not come through; told once for each open queue."""
    _log.warning(
        "queue.deaf",
        queue=queue,
        why="no notification comes through, as behind a pooler that gives each transaction another connection",
        hint="agents look for runs every agent.poll seconds; a URL of the database itself wakes them at once",
    )


def runs_unserved(waiting: Waiting) -> None:
    """Runs wait that no live agent may take; told once for each kind of them."""
    _log.warning(
        "runs.unserved",
        queued=waiting.queued,
        labels=sorted(waiting.labels),
        launcher=waiting.launcher,
        hint="start an agent with these labels and this launcher; `flow-agent why RUN` says what is missing",
    )


def agent_draining(running: int) -> None:
    """First signal: nothing more is claimed."""
    _log.info("agent.draining", running=running, hint="a second signal ends them")


def agent_stopping(running: int) -> None:
    """Second signal: what runs is ended."""
    _log.warning("agent.stopping", running=running)


def agent_stopped(*, runs: int, forced: bool) -> None:
    """The last line of an agent's life."""
    _log.info("agent.stopped", runs=runs, forced=forced)


def queue_unavailable(verb: str, since: float, why: str) -> None:
    """The queue gives no answer any more; told once, until it is back. ``since``: when it was asked."""
    hint = "running attempts go on until their lease ends; what they print waits in the spool"
    _log.warning("queue.unavailable", verb=verb, since=iso(since), why=why, hint=hint)


def queue_back(seconds: float) -> None:
    """The queue answers again, after so many seconds."""
    _log.info("queue.back", away_s=round(seconds, 2))


def queue_asked_again(verb: str, wait: float, error: BaseException) -> None:
    """A verb of the queue had no answer and will be repeated."""
    _log.debug("queue.asked_again", verb=verb, retry_in_s=round(wait, 2), error=str(error))


def wake_up_lost(error: BaseException) -> None:
    """Nobody can wake us; until that works again, the queue is looked at from time to time."""
    _log.warning("queue.wake_up_lost", error=str(error))


def run_claimed(claim: Claim) -> None:
    """A run is ours."""
    _log.debug("run.claimed", **_ids(claim))


def run_adopted(claim: Claim) -> None:
    """An attempt of an earlier life of this agent, or of another agent, is watched on."""
    _log.info("run.adopted", **_ids(claim), ref=claim.ref)


def run_released(claim: Claim, delay: float, detail: str) -> None:
    """A claim was given back before user code started."""
    _log.info("run.released", **_ids(claim), retry_in_s=round(delay, 1), detail=detail)


def run_handed_over(claim: Claim, ref: str) -> None:
    """An attempt that goes on without us is another agent's to watch."""
    _log.info("run.handed_over", **_ids(claim), ref=ref)


def claim_lost(claim: Claim, detail: str) -> None:
    """The run is somebody else's, or ended without us; nothing more is written for it."""
    _log.warning("claim.lost", **_ids(claim), detail=detail)


def fetch_waits(claim: Claim, number: int, wait: float, error: BaseException) -> None:
    """A try to fetch failed in a way that may pass."""
    _log.warning("fetch.waits", **_ids(claim), failed_try=number, retry_in_s=round(wait, 2), error=str(error))


def attempt_ended(claim: Claim, outcome: Outcome, phases: dict[str, float], retry_in: float | None) -> None:
    """The one line per attempt that answers most questions."""
    log = _log.info if outcome.state is State.SUCCEEDED else _log.warning
    log(
        "attempt.ended",
        **_ids(claim),
        state=outcome.state.value,
        reason=outcome.reason.value,
        detail=outcome.detail.partition("\n")[0].removesuffix("; last output:"),
        exit_code=outcome.exit_code,
        retry_in_s=retry_in,
        **{f"{phase}_s": round(seconds, 4) for phase, seconds in phases.items()},
    )


def runs_resolved(runs: list[Run]) -> None:
    """Claims of agents that gave no sign of life were resolved."""
    for run in runs:
        _log.warning("lease.ended", run=run.id, flow=run.flow, state=run.state.value, agent=run.agent)


def internal_error(claim: Claim, error: BaseException) -> None:
    """A fault of ours, or of an adapter, that must not end the other runs."""
    _log.error("agent.error", **_ids(claim), error=repr(error), exc_info=error)


def cache_unusable(folder: str, error: BaseException) -> None:
    """What was fetched cannot be kept; runs go on without."""
    _log.warning("cache.unusable", folder=folder, error=str(error))


def cache_damaged(flow: str, name: str) -> None:
    """A kept payload is not what it was; it is removed and fetched again."""
    _log.warning("cache.damaged", flow=flow, object=name)


def remains_left(ref: str, error: BaseException) -> None:
    """What is left of an attempt could not be ended or removed; the next start tries again."""
    _log.warning("spool.left", ref=ref, error=str(error))


def iso(when: float) -> str:
    """A time as the log shows it, and whoever tells of the same."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="microseconds")


def _ids(claim: Claim) -> dict[str, Any]:
    return {
        "run": claim.run.id,
        "flow": claim.run.flow,
        "version": claim.run.version,
        "attempt": claim.attempt,
        "claim": claim.number,
    }


def no_zygote(interpreter: str, why: str) -> None:
    """Attempts of an interpreter are started as fresh programs."""
    _log.warning("process.no_zygote", interpreter=interpreter, why=f"{why}; its attempts start as fresh interpreters")


def not_preloaded(interpreter: str, problems: list[str]) -> None:
    """Modules of process.preload could not be imported."""
    _log.warning("process.not_preloaded", interpreter=interpreter, problems=problems)


def engine_waits(what: str, wait: float, error: BaseException) -> None:
    """A Docker engine had no answer and is asked again."""
    _log.warning("engine.waits", about=what, retry_in_s=round(wait, 2), error=str(error))


def image_pulled(image: str, text: str) -> None:
    """How far the pull of an image is."""
    _log.info("image.pulled", image=image, progress=text)


def container_left(ref: str, error: BaseException) -> None:
    """A container could not be removed; that is tried again."""
    _log.warning("container.left", ref=ref, error=str(error))


def cluster_waits(what: str, wait: float, error: BaseException) -> None:
    """An API server had no answer and is asked again."""
    _log.warning("cluster.waits", about=what, retry_in_s=round(wait, 2), error=str(error))


def cluster_refuses(what: str, wait: float, error: BaseException) -> None:
    """An API server refuses something that the launcher cannot be without."""
    hint = getattr(error, "hint", None)
    _log.error("cluster.refuses", about=what, retry_in_s=round(wait, 2), error=str(error), hint=hint)


def cloud_waits(what: str, wait: float, error: BaseException) -> None:
    """A service of AWS had no answer, or no room, and is asked again."""
    _log.warning("cloud.waits", about=what, retry_in_s=round(wait, 2), error=str(error))


def orders_left(ref: str, location: str, error: BaseException) -> None:
    """Large orders of an attempt that has ended could not be removed from its result store."""
    _log.warning("orders.left", ref=ref, location=location, error=str(error))


def lines_lost(ref: str, count: int) -> None:
    """Lines of a pod's output are gone: its node rotated them away before they could be read."""
    _log.warning("cluster.lines_lost", ref=ref, lines=count)


def job_left(ref: str, error: BaseException) -> None:
    """A Job could not be removed; that is tried again."""
    _log.warning("job.left", ref=ref, error=str(error))


def launcher_left_out(name: str, error: BaseException, hint: str | None, *, asked_for: bool) -> None:
    """A launcher cannot be served here; runs that need it are left to others."""
    log = _log.warning if asked_for else _log.info
    log("launcher.left_out", launcher=name, why=str(error), hint=hint)
