"""The stand-in's HTTP side, and the program itself: ``python -m servers.kubernetes_server PORT``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from servers.kubernetes_control import Control
from servers.kubernetes_kubelet import Kubelet
from servers.kubernetes_store import KINDS, Refused, Store, merged

_PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>jobs|pods|secrets|events)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)


class Api:
    def __init__(self) -> None:
        self.store = Store()
        self.kubelet = Kubelet(self.store)
        self.control = Control(self.store, self.kubelet)
        self.faults: list[dict[str, Any]] = []
        self.tokens = {"good"}
        self.calls: Counter[str] = Counter()
        self.streams: set[asyncio.Task[Any]] = set()
        self.server: uvicorn.Server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = JSONResponse(refused.status, refused.code)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path, query = request.url.path, request.query_params
        if path.startswith("/_"):
            return await self._told(path, await request.json())
        match = _PATH.fullmatch(path)
        if match is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        kind, namespace, name = match["kind"], match["namespace"], match["name"]
        verb = "WATCH" if "watch" in query else "LOG" if match["log"] else request.method
        self.calls[f"{verb} {kind}{' one' if name and verb != 'LOG' else ''}"] += 1
        await self._fault(f"{verb} {path}")
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer not in self.tokens:
            raise Refused(401, "Unauthorized", "Unauthorized")
        if match["log"]:
            return self._log(namespace, name, query)
        body = json.loads(await request.body() or b"{}")
        match verb:
            case "WATCH":
                version = int(query.get("resourceVersion") or 0)
                self.store.check_version(version)
                return StreamingResponse(self._watch(kind, namespace, version, query), media_type="application/json")
            case "GET" if name is None:
                found = self.store.list(kind, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
                start, limit = int(query.get("continue") or 0), int(query.get("limit") or 10_000)
                metadata: dict[str, Any] = {"resourceVersion": str(self.store.version)}
                if start + limit < len(found):
                    metadata["continue"] = str(start + limit)
                return JSONResponse({"metadata": metadata, "items": found[start : start + limit]})
            case "GET":
                return JSONResponse(self.store.get(kind, namespace, name))
            case "POST":
                _valid(kind, body)
                return JSONResponse(self.store.create(kind, namespace, body), 201)
            case "PATCH":
                return JSONResponse(self._patch(kind, namespace, name, body))
            case "DELETE":
                return JSONResponse(self._delete(kind, namespace, name, body))
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _patch(self, kind: str, namespace: str, name: str, body: Any) -> Any:
        found = self.store.get(kind, namespace, name)
        new = merged(found, body)
        if new["metadata"]["uid"] != found["metadata"]["uid"]:
            raise Refused(
                409, "Conflict", f'Operation cannot be fulfilled on {kind} "{name}": Precondition failed: UID'
            )
        _valid(kind, new)
        if new["spec"]["template"] != found["spec"]["template"]:
            raise Refused(422, "Invalid", f'{kind} "{name}" is invalid: spec.template: field is immutable')
        return self.store.save(kind, new)

    def _delete(self, kind: str, namespace: str, name: str, options: Any) -> Any:
        found = self.store.get(kind, namespace, name)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != found["metadata"]["uid"]:
            message = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: not that"
            raise Refused(409, "Conflict", message)
        if kind == "jobs":
            self.control.delete_job(found, options.get("propagationPolicy", "Background"))
        elif kind == "pods":
            self.control.delete_pod(found, options.get("gracePeriodSeconds"))
        else:
            self.store.remove(kind, found)
        return {"kind": "Status", "status": "Success"}

    # Streams

    async def _watch(self, kind: str, namespace: str, version: int, query: Any) -> AsyncIterator[bytes]:
        seconds = float(query.get("timeoutSeconds") or 1_800)
        events = self.store.watch(kind, namespace, version, query.get("labelSelector", ""))
        with self._cuttable(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        what, found = await anext(events)
                    except Refused as refused:
                        yield json.dumps({"type": "ERROR", "object": refused.status}).encode() + b"\n"
                        return
                    if what != "BOOKMARK" or "allowWatchBookmarks" in query:
                        yield json.dumps({"type": what, "object": found}).encode() + b"\n"

    def _log(self, namespace: str, name: str, query: Any) -> Response:
        pod = self.store.get("pods", namespace, name)
        log = self.kubelet.logs.get((pod["metadata"]["uid"], query.get("container", "flow")))
        if log is None:
            words = f'container "flow" in pod "{name}" is waiting to start: ContainerCreating'
            raise Refused(400, "BadRequest", words)
        since = query.get("sinceTime")
        begin = datetime.fromisoformat(since).timestamp() if since else 0.0

        async def lines() -> AsyncIterator[bytes]:
            at = 0
            with self._cuttable():
                while True:
                    changed = log.changed
                    while at < len(log.lines):
                        when, line = log.lines[at]
                        at += 1
                        if when >= begin:
                            yield line
                    if log.over or query.get("follow") != "true":
                        return
                    await changed.wait()

        return StreamingResponse(lines(), media_type="text/plain")

    @contextlib.contextmanager
    def _cuttable(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self.streams.add(task)
        try:
            yield
        finally:
            self.streams.discard(task)

    # Faults

    async def _fault(self, what: str) -> None:
        for fault in self.faults:
            if fault["count"] > 0 and re.search(fault["match"], what):
                fault["count"] -= 1
                if fault.get("hang"):
                    await asyncio.sleep(fault["hang"])
                    return
                details = {"retryAfterSeconds": fault["retry"]} if fault.get("retry") else {}
                raise Refused(fault["code"], fault.get("reason", "Fault"), fault.get("message", "a fault"), **details)

    async def _told(self, path: str, body: Any) -> Response:
        match path:
            case "/_fault":
                self.faults.append({"count": 1, **body})
            case "/_heal":
                self.faults.clear()
                self.control.quota = None
            case "/_tokens":
                self.tokens = set(body)
            case "/_quota":
                self.control.quota = body
            case "/_cut":
                asyncio.get_running_loop().call_later(0.1, self._abort)
            case "/_forget":
                self.store.forget()
            case "/_die":
                asyncio.get_running_loop().call_later(0.1, lambda: self.kubelet.spawn(self._die(body)))
            case "/_calls":
                return JSONResponse(dict(self.calls))
            case "/_objects":
                return JSONResponse([[kind, found] for (kind, _, _), found in self.store.objects.items()])
        return JSONResponse({})

    def _abort(self) -> None:
        for connection in list(self.server.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()

    async def _die(self, seconds: float) -> None:
        """As an API server that is killed and started again; what its cluster's nodes run goes on."""
        for listener in self.server.servers:
            listener.close()
        self._abort()
        self.store.forget()
        await asyncio.sleep(seconds)
        await self.server.startup()


def _valid(kind: str, given: Any) -> None:
    """What a real server checks, as far as ours could get it wrong."""
    api, word = KINDS[kind]
    if given.get("apiVersion", api) != api or given.get("kind", word) != word:
        raise Refused(400, "BadRequest", f"the API version in the data does not match the expected API version ({api})")
    name = (given.get("metadata") or {}).get("name", "x")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) or len(name) > 253:
        raise Refused(422, "Invalid", f'{word} "{name}" is invalid: metadata.name: a lowercase RFC 1123 subdomain')
    for labels in _labels(given):
        for label, value in labels.items():
            if not re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", value) or len(value) > 63:
                raise Refused(422, "Invalid", f'{word} "{name}" is invalid: metadata.labels: {label}: {value!r}')
    if kind != "jobs":
        return
    spec = ((given.get("spec") or {}).get("template") or {}).get("spec") or {}
    if spec.get("restartPolicy") not in {"Never", "OnFailure"} or not spec.get("containers"):
        raise Refused(422, "Invalid", f'Job "{name}" is invalid: spec.template.spec: Required value')
    volumes = {each["name"] for each in spec.get("volumes") or ()}
    for container in spec["containers"]:
        if not container.get("image") or not container.get("name"):
            raise Refused(422, "Invalid", f'Job "{name}" is invalid: spec.template.spec.containers: image')
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in volumes:
                raise Refused(422, "Invalid", f'Job "{name}" is invalid: volumeMounts: Not found: {mount["name"]!r}')


def _labels(given: Any) -> list[dict[str, str]]:
    template = (given.get("spec") or {}).get("template") or {}
    return [(each.get("metadata") or {}).get("labels") or {} for each in (given, template)]


async def main(port: int, certificate: str = "", key: str = "") -> None:
    """With a certificate by TLS, and only for clients that show one that it has signed, which is itself."""
    api = Api()
    tls: dict[str, Any] = {}
    if certificate:
        api.tokens = {""}
        tls = {"ssl_certfile": certificate, "ssl_keyfile": key, "ssl_ca_certs": certificate}
        tls["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    config = uvicorn.Config(
        api,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        **tls,
    )
    api.server = uvicorn.Server(config)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn sends itself once more what has ended it
    control = asyncio.create_task(api.control.run())
    try:
        await api.server.serve()
    finally:
        control.cancel()
        await api.kubelet.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
