"""What others may ask a running agent by HTTP: whether it lives, whether it takes runs, and its figures.

``/livez`` the event loop turns (or nothing answers) and leases are kept; an outage of the queue is no reason to
restart; ``/readyz`` the queue answers and it claims; ``/metrics`` for Prometheus; ``/waiting`` how many runs wait for
agents like this one, for what scales them. Nothing of a run is told but how many wait for which labels, and how many
ended for which reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from flow_agent import events
from flow_agent.backlog import Backlog, Sample
from flow_agent.cache import Cache
from flow_agent.errors import FlowAgentError, InvalidInput, QueueError
from flow_agent.health import Health
from flow_agent.labels import matches
from flow_agent.model import AgentInfo, Outcome, Waiting
from flow_agent.redact import known

if TYPE_CHECKING:
    import h11

MOST_CONNECTIONS = 64
"""Connections at a time; for one more, the oldest is closed: it is the likeliest to have nothing to ask."""
MOST_PORTS = 65_535
SECONDS = 5.0
"""For one request and its answer together."""
LONGEST_REQUEST = 8192
"""Bytes of a request's head; its body is not read."""
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class Probes:
    """The answers, and the figures that they are made of. Costs nothing until it is made."""

    def __init__(self, health: Health, backlog: Backlog, info: AgentInfo, cache: Cache) -> None:
        import prometheus_client as prometheus  # noqa: PLC0415 - 20 ms, only for agents that are asked

        self._health, self._prometheus = health, prometheus
        self._backlog, self._info = backlog, info
        self._registry = prometheus.CollectorRegistry()
        registry = self._registry
        self._ends = prometheus.Counter("flow_agent_attempts", "Attempts that ended.", ["reason"], registry=registry)
        self._phases = prometheus.Histogram(
            "flow_agent_phase_seconds",
            "Seconds of a phase of an attempt.",
            ["phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._calls = prometheus.Histogram(
            "flow_agent_queue_call_seconds",
            "Seconds until the queue answered.",
            ["verb"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._fetches = prometheus.Counter(
            "flow_agent_fetches", "Flows that were fetched, by where from.", ["source"], registry=registry
        )
        cache.on_fetch = lambda source: self._fetches.labels(source).inc()
        of_set = ["labels", "launcher"]
        self._waiting = prometheus.Gauge(
            "flow_agent_waiting_runs",
            "Queued runs by what they ask for, of the whole queue.",
            of_set,
            registry=registry,
        )
        self._oldest = prometheus.Gauge(
            "flow_agent_oldest_wait_seconds",
            "Seconds that the one of them has waited that was submitted first.",
            of_set,
            registry=registry,
        )
        self._takeable = prometheus.Gauge(
            "flow_agent_takeable_runs", "Queued runs that this agent may take.", registry=registry
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "cache_bytes": ("Bytes of fetched flows in the cache, since it was last written to.", cache.size),
            "cache_limit_bytes": ("Bytes that the cache may have.", lambda: cache.limit),
            "running": ("Runs that it works on.", lambda: health.runs()),  # noqa: PLW0108 - the agent sets it later
            "slots": ("Runs that it may work on at the same time.", lambda: health.slots),
            "draining": ("1: it claims nothing more.", lambda: float(health.draining)),
            "queue_up": ("1: the queue answers.", lambda: float(health.away() is None)),
            "queue_silence_seconds": ("Seconds since the queue last answered a write.", health.silence),
        }
        for name, (meaning, value) in gauges.items():
            prometheus.Gauge(f"flow_agent_{name}", meaning, registry=registry).set_function(value)
        health.on_answer = lambda verb, seconds: self._calls.labels(verb).observe(seconds)

    def ended(self, outcome: Outcome, phases: Mapping[str, float]) -> None:
        """An attempt's end was written."""
        self._ends.labels(outcome.reason.value).inc()
        for phase, seconds in phases.items():
            self._phases.labels(phase).observe(seconds)

    async def answer(self, method: str, path: str) -> Answer:
        """What a request gets."""
        if method not in {"GET", "HEAD"}:
            return _document(405, {"error": f"{method} is not answered: expected GET"})
        match path.partition("?")[0]:
            case "/livez":
                stuck = self._health.stuck()
                return _document(200 if stuck is None else 503, {"alive": stuck is None, "why": stuck})
            case "/readyz":
                return self._ready()
            case "/metrics":
                await self._look()
                text = self._prometheus.generate_latest(self._registry)
                return 200, self._prometheus.CONTENT_TYPE_PLAIN_0_0_4, text
            case "/waiting":
                return await self._runs_waiting()
        return _document(404, {"error": "nothing is here: expected /livez, /readyz, /metrics or /waiting"})

    async def _runs_waiting(self) -> Answer:
        try:
            return _document(200, (await self._backlog.sample()).document(self._takes))
        except QueueError as error:
            return _document(503, {"error": str(error)})

    def _takes(self, waiting: Waiting) -> bool:
        return matches(waiting.labels, waiting.launcher, self._info)

    async def _look(self) -> None:
        """Bring what is told of waiting runs up to date; nothing is told of them while the queue is away."""
        try:
            sample = await self._backlog.sample()
        except QueueError:
            sample = None
        self._waiting.clear()
        self._oldest.clear()
        self._takeable.set(math.nan if sample is None else sample.waiting(self._takes))
        if sample is None:
            return
        for each in sample.sets:
            names = ",".join(sorted(each.labels)), each.launcher or ""
            self._waiting.labels(*names).set(each.queued)
            self._oldest.labels(*names).set(Sample(at=sample.at, sets=[each]).oldest())

    def _ready(self) -> Answer:
        reason = self._health.not_ready()
        if reason is None:
            return _document(200, {"ready": True, "since": None, "why": None})
        return _document(503, {"ready": False, "since": events.iso(reason.since), "why": reason.why})


def _document(status: int, content: Mapping[str, Any]) -> Answer:
    return status, "application/json", known.text(json.dumps(content)).encode() + b"\n"


@asynccontextmanager
async def served(address: str, probes: Probes) -> AsyncGenerator[str]:
    """Answer at ``address`` (``HOST:PORT``; port 0 takes a free one) while the block runs; gives the real address.

    Raises InvalidInput: no address. FlowAgentError: it cannot be listened at.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > MOST_PORTS:
        raise InvalidInput(f"probes.listen is {address!r}: expected HOST:PORT, as 127.0.0.1:8080")
    host = match["v6"] or match["host"] or None
    try:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=int(match["port"]), reuse_port=False)
    except OSError as error:
        raise FlowAgentError(
            f"the probes cannot listen at {address}: {error}", hint="give another address in --probes, or none"
        ) from error
    talks: dict[anyio.CancelScope, None] = {}
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: _talk(stream, probes, talks), name="probes")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no database
        try:
            yield f"{address.rpartition(':')[0]}:{port}"
        finally:
            group.cancel_scope.cancel()


async def _talk(stream: anyio.abc.ByteStream, probes: Probes, talks: dict[anyio.CancelScope, None]) -> None:
    """One request, one answer, and the end of the connection; ``talks`` are all that go on, the oldest first."""
    async with stream:
        with (
            suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream),
            anyio.move_on_after(SECONDS) as scope,
        ):
            if len(talks) >= MOST_CONNECTIONS:
                oldest = next(iter(talks))
                del talks[oldest]
                oldest.cancel()
            talks[scope] = None
            try:
                await _exchange(stream, probes)
            finally:
                talks.pop(scope, None)


async def _exchange(stream: anyio.abc.ByteStream, probes: Probes) -> None:
    import h11  # noqa: PLC0415 - an agent that nobody asks does not need it

    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_REQUEST)
    head = True
    try:
        request = await _request(stream, connection)
        head = request.method == b"HEAD"
        status, kind, body = await probes.answer(request.method.decode(), request.target.decode())
    except h11.RemoteProtocolError as error:
        status, kind, body = _document(error.error_status_hint, {"error": "this is no request that is understood"})
        head = False
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    parts: list[h11.Event] = [h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)]
    parts += [] if head else [h11.Data(data=body)]
    await stream.send(b"".join(connection.send(part) or b"" for part in [*parts, h11.EndOfMessage()]))


async def _request(stream: anyio.abc.ByteStream, connection: h11.Connection) -> h11.Request:
    import h11  # noqa: PLC0415 - see above

    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive(4096))
        elif isinstance(event, h11.Request):
            return event
        else:
            raise h11.RemoteProtocolError("no request")
