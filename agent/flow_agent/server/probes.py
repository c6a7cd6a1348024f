"""What a cluster asks the server: whether it lives, whether its queue answers, and how many runs wait for agents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from flow_agent import wire
from flow_agent.backlog import Backlog
from flow_agent.errors import QueueError
from flow_agent.model import Waiting
from flow_agent.version import __version__

WAITING = "/waiting"
"""The one of them that tells of runs, and asks for a token."""
_BEARER = HTTPBearer(auto_error=False, description="`flow-agent tokens create` makes one. The gate checks it.")


@dataclass(frozen=True, kw_only=True)
class Alive:
    """The server lives."""

    status: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Whether the queue behind the server answers, and why not."""

    ready: bool
    why: str | None


@dataclass(frozen=True, kw_only=True)
class OfSet:
    """Runs that ask for the same: queued ones, and those that go on without an agent."""

    labels: list[str]
    launcher: str | None
    waiting: int
    going: int
    oldest_wait_seconds: float


@dataclass(frozen=True, kw_only=True)
class WaitingRuns:
    """Queued runs. ``exact``: no set has more than are counted. ``going``: running ones that outlive their agent, and
    want one that watches them; ``work``: both, for which agents are needed."""

    work: int
    waiting: int
    going: int
    oldest_wait_seconds: float
    exact: bool
    sets: list[OfSet]


Refused = Callable[[Request, Exception], Response]
"""The answer to a request that met this mistake."""


def add_probes(app: FastAPI, refused: Refused) -> None:
    """Add their addresses to ``app``, which tell of ``request.state.backlog``."""

    async def livez() -> Alive:
        return Alive(status="ok", version=__version__)

    async def readyz(request: Request) -> Response:
        why = None
        try:
            await _backlog(request).sample()
        except QueueError as error:
            why = str(error)
        return JSONResponse(asdict(Ready(ready=why is None, why=why)), 200 if why is None else 503)

    async def waiting(
        request: Request,
        label: Annotated[
            list[str], Query(description="Labels of the agents that are meant; an empty one: they have none.")
        ] = [],  # noqa: B006 - FastAPI copies it
        launcher: Annotated[list[str], Query(description="Their launchers.")] = [],  # noqa: B006 - as above
        only_labelled: Annotated[bool, Query(description="Whether they leave runs without labels to others.")] = False,
    ) -> Response:
        try:
            found = (await _backlog(request).sample()).document(_taken_by(label, launcher, only_labelled=only_labelled))
        except Exception as error:  # noqa: BLE001 - each becomes an answer
            return refused(request, error)
        return JSONResponse(found)

    away: dict[int | str, dict[str, Any]] = {503: {"model": Ready, "description": "The queue does not answer now"}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": wire.Refusal, "description": description}
        for status, description in {
            401: "No token, or none that is known",
            403: "The token has none of the scopes that this needs",
            422: "The request is not as described here",
            500: "The queue is broken, or the server made a mistake",
            503: "The queue behind the server does not answer now",
        }.items()
    }
    app.add_api_route("/livez", livez, methods=["GET"], operation_id="livez", summary="The server answers")
    app.add_api_route(
        "/readyz",
        readyz,
        methods=["GET"],
        operation_id="readyz",
        summary="Its queue answers",
        response_model=Ready,
        responses=away,
    )
    app.add_api_route(
        WAITING,
        waiting,
        methods=["GET"],
        operation_id="waiting_runs",
        summary="How many runs wait, for what scales agents",
        description="With labels or launchers: those that an agent with these may take.",
        response_model=WaitingRuns,
        responses=refusals,
        dependencies=[Security(_BEARER)],
    )


def _backlog(request: Request) -> Backlog:
    found: Backlog = request.state.backlog
    return found


def _taken_by(labels: list[str], launchers: list[str], *, only_labelled: bool) -> Callable[[Waiting], bool]:
    """Those that an agent with these labels and launchers may take; without any of a kind, that does not matter. An
    empty label is none: of an agent without labels."""
    has = frozenset(filter(None, labels))

    def takes(waiting: Waiting) -> bool:
        if only_labelled and not waiting.labels:
            return False
        return (not labels or waiting.labels <= has) and (
            not launchers or waiting.launcher is None or waiting.launcher in launchers
        )

    return takes
