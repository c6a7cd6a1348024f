"""Flows behind HTTP requests of one's own."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flow_agent.storages import author, packing, payload, pickling, templates
from flow_agent.storages.base import Storage, Stored

if TYPE_CHECKING:
    from flow_agent.flow import Described, Flow
    from flow_agent.hosts.webhook import Call
    from flow_agent.model import Json, Registration
    from flow_agent.ports import Fetched, SecretResolver
    from flow_agent.storages.packing import Packed

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ARGUMENTS = frozenset(
    {"url", "params", "headers", "data", "json", "cookies", "auth", "timeout", "allow_redirects", "verify", "cert"}
    | {"proxies"}
)


@dataclass(frozen=True)
class BuildResponse:
    """What the server answered when a flow was stored."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The content, read as JSON.

        Raises ValueError.
        """
        return json.loads(self.content)


class Webhook(Storage):
    """Stores and fetches a flow with HTTP requests, whose arguments are those of the library requests.

    ``${NAME}`` in any text of them (not in keys) is a variable of the environment or a secret, looked up at the time of
    the request; ``$$`` is ``$``. The flow, as a pickle, is the body of the build request, and the body of the answer to
    the other one. With ``stored_as_script`` it is source code: ``flow_script_path``, the file it is defined in unless
    given; with ``root``, a folder that holds that file, all of it as an archive. ``after_build(storage, response)`` is
    called with each answer to a build, to set what fetching needs, as an id in ``storage.get_flow_request_kwargs``;
    ``responses`` keeps these answers. A script follows what the server has; ``pin=True`` keeps what was stored. The
    other arguments are those of ``Storage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    remote = True

    def __init__(  # noqa: PLR0917 - the order of the older system
        self,
        build_request_kwargs: Mapping[str, Any],
        build_request_http_method: str,
        get_flow_request_kwargs: Mapping[str, Any],
        get_flow_request_http_method: str,
        stored_as_script: bool = False,
        flow_script_path: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        after_build: Callable[[Webhook, BuildResponse], None] | None = None,
        pin: bool = False,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        super().__init__(
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
            stored_as_script=stored_as_script,
            pin=pin,
        )
        self.build_request_kwargs = _checked_arguments("build_request_kwargs", build_request_kwargs)
        self.build_request_http_method = _checked_method("build_request_http_method", build_request_http_method)
        self.get_flow_request_kwargs = _checked_arguments("get_flow_request_kwargs", get_flow_request_kwargs)
        self.get_flow_request_http_method = _checked_method(
            "get_flow_request_http_method", get_flow_request_http_method
        )
        self.flow_script_path = Path(flow_script_path).expanduser().absolute() if flow_script_path else None
        self.root = Path(root).expanduser().absolute() if root else None
        self.after_build = after_build
        self.responses: dict[str, BuildResponse] = {}
        if not stored_as_script and (flow_script_path or root or pin):
            given = "flow_script_path" if flow_script_path else "root" if root else "pin"
            raise ValueError(f"Webhook: {given} is for scripts, but stored_as_script is off; add stored_as_script=True")
        for name in ("data", "json"):
            if name in self.build_request_kwargs:
                warnings.warn(
                    f"Webhook: build_request_kwargs[{name!r}] is not used: the flow is the body of that request",
                    RuntimeWarning,
                    stacklevel=2,
                )

    @property
    def default_labels(self) -> tuple[str, ...]:
        """The label of agents that can reach what is behind the requests."""
        return ("webhook-flow-storage",)

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`: the templates, never what they stand for."""
        # Changed by the author since then, perhaps: what is registered is checked again.
        return {
            "build_request_kwargs": _checked_arguments("build_request_kwargs", self.build_request_kwargs),
            "build_request_http_method": self.build_request_http_method,
            "get_flow_request_kwargs": _checked_arguments("get_flow_request_kwargs", self.get_flow_request_kwargs),
            "get_flow_request_http_method": self.get_flow_request_http_method,
            "stored_as_script": self.stored_as_script,
        }

    @classmethod
    def from_description(cls, data: Mapping[str, Json]) -> Webhook:
        """See :meth:`Storage.from_description`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the author has seen it
            return super().from_description(data)

    # Storing

    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """See :meth:`Storage.store`."""
        from flow_agent.errors import RegistrationError, StoreError
        from flow_agent.objects.base import blocking

        if len(flows) > 1:
            raise RegistrationError(
                f"{self!r} would keep several flows ({', '.join(flow.name for flow in flows)}) behind one request",
                hint="give each flow a Webhook of its own",
            )
        (flow,) = flows
        with TemporaryDirectory(prefix="flow-agent-") as folder:
            try:
                packed = self._pack(flow, Path(folder) / "flow")
                response = blocking(lambda: self._build((Path(folder) / "flow").read_bytes()))
            except StoreError as error:
                raise RegistrationError(f"{self!r} cannot store: {error}", hint=error.hint) from error
            except (payload.Refused, OSError) as error:
                raise RegistrationError(f"{self!r} cannot store: {error}") from error
        self.responses[flow.name] = response
        if self.after_build is not None:
            self.after_build(self, response)
        return {
            flow.name: Stored(
                kind=packed.kind,
                location={**packed.location, "key": self.get_flow_request_kwargs["url"]},
                digest=packed.digest,
                size=packed.size,
                cloudpickle=pickling.cloudpickle_version() if packed.kind == "pickle" else None,
            )
        }

    def _pack(self, flow: Flow, file: Path) -> Packed:
        if self.stored_as_script:
            return packing.script(flow, flow.name, file, given=self.flow_script_path, root=self.root, pin=self.pin)
        return packing.pickled(flow, flow.name, file)

    async def _build(self, content: bytes) -> BuildResponse:
        from flow_agent.hosts import webhook

        async with author.secrets() as secrets:
            call = await self._call(self.build_request_http_method, self.build_request_kwargs, secrets, content=content)
        async with webhook.answered(call) as response:
            return BuildResponse(response.status_code, dict(response.headers), await response.aread())

    async def _call(
        self, method: str, arguments: Mapping[str, Any], secrets: SecretResolver, content: bytes | None = None
    ) -> Call:
        from flow_agent.hosts.webhook import Call

        values = {name: await secrets.get(name) for name in set(templates.names(arguments))}
        return Call(
            method=method, shown=arguments["url"], arguments=templates.filled(arguments, values), content=content
        )

    # Fetching

    async def fetch(
        self, registration: Registration, into: Path, secrets: SecretResolver, known: str | None = None
    ) -> Fetched | None:
        """See :meth:`flow_agent.ports.Storage.fetch`."""
        from flow_agent.hosts import webhook
        from flow_agent.ports import Fetched
        from flow_agent.storages import download

        call = await self._call(self.get_flow_request_http_method, self.get_flow_request_kwargs, secrets)
        condition = {"If-None-Match": known} if known and not known.startswith("sha256:") else {}
        with download.as_fetch_errors(registration, into):
            file = into / "flow.pickle"
            async with webhook.answered(call, condition) as response:
                if response.status_code == 304:
                    return None
                digest = await webhook.save(response, file, f"{call.method} {call.shown}")
                # The answer to anything but a GET says nothing of a later one.
                etag = response.headers.get("ETag", "") if call.method == "GET" else ""
            if known == f"sha256:{digest}":
                file.unlink()
                return None
            validator = etag or f"sha256:{digest}"
            if registration.kind == "pickle":
                return Fetched(
                    payload={"kind": "pickle", "path": "flow.pickle"},
                    revision=etag or digest,
                    digest=digest,
                    validator=validator,
                )
            digest = await download.placed(registration, file, into / "payload", digest)
        return Fetched(
            payload={
                "kind": "script",
                "root": "payload",
                "path": registration.location["script"],
                "flow": registration.flow,
            },
            revision=etag or digest,
            digest=digest,
            validator=validator,
        )

    def discard(self, stored: Stored) -> None:
        """See :meth:`Storage.discard`: no request says how to take a flow back."""

    def __repr__(self) -> str:
        url = self.get_flow_request_kwargs["url"]
        return f"Webhook({self.get_flow_request_http_method} {url})"


def _checked_method(name: str, method: str) -> str:
    found = method.upper() if isinstance(method, str) else method
    if found not in METHODS:
        raise ValueError(f"Webhook: {name} is {method!r}, expected one of {', '.join(METHODS)}")
    return found


def _checked_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    what = f"Webhook: {name}"
    if not isinstance(arguments, Mapping):
        raise TypeError(f"{what} is {arguments!r}, expected a table of arguments such as {{'url': 'https://...'}}")
    if unknown := sorted(set(arguments) - ARGUMENTS):
        raise ValueError(f"{what} has {unknown[0]!r}, expected only {', '.join(sorted(ARGUMENTS))}")
    found: dict[str, Any] = templates.checked(arguments, what)
    url = found.get("url")
    if not isinstance(url, str) or not url.startswith(("https://", "http://", "$")):
        raise ValueError(f"{what}['url'] is {url!r}, expected an address that begins with https:// or http://")
    headers = found.get("headers")
    if headers is not None and not (
        isinstance(headers, dict) and all(isinstance(x, str | None) for x in headers.values())
    ):
        raise ValueError(f"{what}['headers'] is no table of texts, expected {{'Accept': 'text/plain'}}")
    auth = found.get("auth")
    if auth is not None and (not isinstance(auth, list) or len(auth) != 2 or not all(isinstance(x, str) for x in auth)):
        raise ValueError(f"{what}['auth'] is of no user and password, expected ('name', '${{PASSWORD}}')")
    return found
