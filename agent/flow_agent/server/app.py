"""The addresses of the server and their description, both made from ``wire.VERBS``."""

from __future__ import annotations

import functools
import gzip
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from flow_agent import events, wire
from flow_agent.errors import FlowAgentError, QueueTooNew
from flow_agent.server.probes import add_probes
from flow_agent.version import DISTRIBUTION, __version__

PACKED_FROM = 2_048
"""Bytes from which an answer is compressed."""
_BEARER = HTTPBearer(auto_error=False, description="`flow-agent tokens create` makes one. The gate checks it.")
_REFERENCE = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    # One of them brings the model: FastAPI makes each anew for each address, which would be half of the server's start.
    status: {"description": description} | ({"model": wire.Refusal} if status == 401 else {"content": _REFERENCE})
    for status, description in {
        401: "No token, or none that is known",
        403: "The token has none of the scopes that this needs",
        404: "No such flow, version or run",
        408: "The request came too slowly",
        409: "The claim is not the current one of its run, or another caller's",
        413: "The request is too large",
        422: "The request is not as described here",
        500: "The queue is broken, or the server made a mistake",
        503: "The queue behind the server does not answer now",
    }.items()
}


class _Strict(Request):
    """A request whose numbers are finite."""

    async def json(self) -> Any:
        try:
            return wire.parse(await self.body())
        except ValueError as error:
            raise HTTPException(422, f"the body is no JSON: {error}") from None


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, with our way of reading the body."""
        original = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await original(_Strict(request.scope, request.receive))

        return handler


@functools.cache
def application() -> FastAPI:
    """The application that answers by ``service`` and ``backlog`` of ``request.state``. It checks nobody: the gate in
    front of it does."""
    app = FastAPI(
        title="flow-agent",
        version=__version__,
        description="The queue of flow-agent. Each address is one verb of it, one transaction, and may be repeated.",
        docs_url=None,
        redoc_url=None,
    )
    app.router.route_class = _Route
    for name, verb in wire.VERBS.items():
        scopes = ", ".join((*verb.scopes, "admin"))
        app.add_api_route(
            wire.PREFIX + name,
            _endpoint(name, verb),
            methods=["POST"],
            operation_id=name,
            summary=verb.about,
            description=f"Scopes of which one suffices: {scopes}.",
            response_model=verb.answer,
            responses=_REFUSALS,
            dependencies=[Security(_BEARER)],
        )
    add_probes(app, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _foreign)
    return app


def _endpoint(name: str, verb: wire.Verb) -> Callable[..., Awaitable[Response]]:
    async def endpoint(request: Request, asked: Any) -> Response:
        try:
            answer = await getattr(request.state.service, name)(asked, request.state.caller)
        except Exception as error:  # noqa: BLE001 - each becomes an answer, and what is no mistake of theirs is logged
            return _refused(request, error)
        return _answered(request, verb.answer, answer)

    # FastAPI reads from the signature what the body is.
    kinds = {"request": Request, "asked": verb.request}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
        for name, kind in kinds.items()
    ]
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # FastAPI reads it
    return endpoint


def _answered(request: Request, kind: Any, value: Any, status: int = 200) -> Response:
    body, headers = wire.encode(kind, value), {}
    if len(body) >= PACKED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers = gzip.compress(body, 1), {"content-encoding": "gzip"}
    return Response(body, status, headers, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    return _answered(request, wire.Refusal, refusal := _refusal(error), wire.ERRORS[refusal.error][1])


def _refusal(error: Exception) -> wire.Refusal:
    if isinstance(error, OverflowError | UnicodeEncodeError):
        return wire.Refusal(error="value_error", message="a number or a text of the request is none the queue can keep")
    if isinstance(error, QueueTooNew):
        # Nothing at the caller's end can be mended; it goes on when the server has been.
        return wire.Refusal(
            error="queue_unavailable",
            message=f"the server is flow-agent {__version__}, and a newer one has migrated its queue meanwhile",
            hint=f"upgrade the server, with `pip install --upgrade '{DISTRIBUTION}[server]'` where it runs",
        )
    for word, (kind, _) in wire.ERRORS.items():
        if isinstance(error, kind):
            return wire.Refusal(error=word, message=str(error), hint=getattr(error, "hint", None))
    if isinstance(error, FlowAgentError):
        return wire.Refusal(error="queue_error", message=str(error), hint=error.hint)
    events.server_mistake(error)
    return wire.Refusal(error="server_error", message="the server made a mistake, which its log tells of")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    message = f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return _answered(request, wire.Refusal, wire.Refusal(error="invalid_input", message=message), 422)


async def _foreign(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: an address or a method that is not there, a body that is none."""
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code
    word = "invalid_input" if status == 422 else "no_such_address"
    refusal = wire.Refusal(error=word, message=str(error.detail), hint="/openapi.json describes what there is")
    response = _answered(request, wire.Refusal, refusal, status)
    response.headers.update(error.headers or {})
    return response
