"""From a claim to a launch spec: fetch, verify, resolve secrets. No code of the user is loaded."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import anyio.to_thread

from flow_agent import retry, verify, workspace
from flow_agent.cache import Cache
from flow_agent.errors import LaunchError, SecretNotFound
from flow_agent.model import Claim, LaunchSpec, Registration
from flow_agent.ports import Fetched, NearStorage, Storage
from flow_agent.quick import Check, Quick
from flow_agent.resolver import Resolver

ALLOWED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "TERM"}
    | {"XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "FLOW_AGENT_HOME"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
)
"""Variables of the agent's environment that an attempt inherits, beside those beginning with LC_."""

PROCESS = "process"
"""The launcher whose attempts are of this machine, and find some of the agent's environment."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What preparing needs; filled once at the agent's start.

    ``env`` are the settings' variables for every attempt, ``environment`` the agent's own. A result that cannot be
    written is tried for ``write_for`` seconds, then kept in the folder ``unwritten``.
    """

    storage: Callable[[Registration], Storage]
    secrets: Resolver = field(default_factory=lambda: Resolver(()))
    cache: Cache = field(default_factory=lambda: Cache(Path(), 0))
    quick: Quick = field(default_factory=Quick)
    write_for: float = 600.0
    unwritten: Path | None = None
    fetch: retry.Policy = field(default_factory=retry.Policy)
    env: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    grace: float = 10.0
    output_limit: int = 1_000_000_000

    @cached_property
    def variables(self) -> Mapping[str, str]:
        """What every attempt finds in its environment."""
        return attempt_variables(self.env, self.environment)


Told = Callable[[str, str], Awaitable[None]]
"""Writes a line into the run's log: level, text."""


async def fetch(
    claim: Claim, root: Path, means: Means, on_wait: Callable[[int, float, BaseException], Awaitable[None]]
) -> tuple[Path, Fetched]:
    """Make the folder of ``claim`` below ``root``, and fetch and verify the payload into it.

    Raises FetchError, VerificationError, SecretNotFound, SecretUnavailable. LaunchError: the folder cannot be made.
    """
    registration = claim.registration
    storage, secrets = means.storage(registration), means.secrets.for_run(registration)
    if isinstance(storage, NearStorage):
        here = partial(
            means.quick.run,
            (registration.flow, registration.version),
            partial(_fetched_here, storage, claim, root),
            partial(storage.lies_beside, registration, root),
        )
        found = await retry.fetching(means.fetch, here, on_wait)
        means.cache.on_fetch("disk")
        return found
    folder = await anyio.to_thread.run_sync(_folder, claim, root)
    call = partial(means.cache.fetch, storage, registration, folder, secrets)
    return folder, await retry.fetching(means.fetch, call, on_wait)


def _fetched_here(storage: NearStorage, claim: Claim, root: Path, check: Check) -> tuple[Path, Fetched]:
    folder = _folder(claim, root)
    found = storage.fetch_here(claim.registration, folder, check)
    verify.verify(claim.registration, found, folder)
    return folder, found


def _folder(claim: Claim, root: Path) -> Path:
    try:
        return workspace.make_spool(root, claim.run.id, claim.number)
    except OSError as error:
        raise LaunchError(
            f"no folder for the attempt could be made in {root}: {error.strerror}",
            transient=True,
            hint="free some space there, or see to its permissions",
        ) from error


async def spec(
    claim: Claim, folder: Path, fetched: Fetched, *, deadline: float, means: Means, tell: Told
) -> LaunchSpec:
    """What a launcher needs to know of the attempt.

    Raises SecretNotFound, SecretUnavailable. LaunchError: the launcher cannot reach the flow.
    """
    registration, run = claim.registration, claim.run
    resolver = means.secrets.for_run(registration)
    secrets = {name: await resolver.get(name) for name in registration.secrets}
    config = registration.run_config
    here = (run.launcher or PROCESS) == PROCESS
    for_registries = _registry_secrets(registration)
    registry = next(({name: secrets[name]} for name in for_registries if name in secrets), {})
    given = {name: value for name, value in secrets.items() if name not in for_registries}
    stored_in = _image_of(registration, fetched, here=here)
    if config.get("image") and (here or stored_in):
        why = "this agent starts processes" if here else f"the flow lies in the image {stored_in}"
        await tell("WARNING", f"the run config's image {config['image']!r} is not used: {why}")
    return LaunchSpec(
        run_id=run.id,
        flow=run.flow,
        claim=claim.number,
        attempt=claim.attempt,
        folder=str(folder),
        payload=fetched.payload,
        parameters=run.parameters,
        deadline=deadline,
        grace=means.grace,
        interpreter=await _interpreter(registration) if here else None,
        python=registration.python if registration.kind in {"pickle", "image"} else None,
        working_dir=config.get("working_dir"),
        env={
            **(means.variables if here else means.env),
            **_configured(config.get("env") or {}, secrets),
            "FLOW_AGENT_RUN_ID": run.id,
            "FLOW_AGENT_RUN_ATTEMPT": str(claim.attempt),
        },
        secrets=given,
        redacted=tuple(given.values()),
        output_limit=means.output_limit,
        memory_limit=config.get("memory_limit"),
        cpu_time_limit=config.get("cpu_time_limit"),
        nice=config.get("nice"),
        image=stored_in or config.get("image"),
        container={} if here else {**config, **_pulled(fetched)},
        registry=registry,
        timeout=registration.timeout,
        tell=tell,
    )


async def remote_spec(
    claim: Claim, *, deadline: float, means: Means, tell: Told, secrets_too: bool = True
) -> tuple[LaunchSpec, str | None]:
    """What a launcher needs to know of an attempt that prepares itself where it runs; and the revision, where that is
    known without fetching: of a flow in an image. Without ``secrets_too`` it finds its secrets there by itself.

    Raises SecretNotFound, SecretUnavailable. LaunchError: no other machine can reach the flow.
    """
    registration, run = claim.registration, claim.run
    storage, resolver = means.storage(registration), means.secrets.for_run(registration)
    if getattr(storage, "same_machine", False):
        raise LaunchError(
            f"flow {registration.flow!r} lies in {registration.storage['type']} storage, on the machine that registered"
            f" it, which an attempt of the launcher {run.launcher!r} cannot reach",
            hint="register it with another storage, such as S3 or a git host",
        )
    fetched = None
    if registration.kind == "image" or registration.storage["type"] == "Docker":
        fetched = await storage.fetch(registration, Path(), resolver)  # names the image, and nothing else
    for_registries = _registry_secrets(registration)
    names = tuple(name for name in registration.secrets if name not in for_registries)
    secrets = {name: await resolver.get(name) for name in registration.secrets} if secrets_too else {}
    given = {name: value for name, value in secrets.items() if name in names}
    config, stored_in = registration.run_config, None if fetched is None else str(fetched.payload["image"])
    if config.get("image") and stored_in:
        why = f"the flow lies in the image {stored_in}"
        await tell("WARNING", f"the run config's image {config['image']!r} is not used: {why}")
    spec = LaunchSpec(
        run_id=run.id,
        flow=run.flow,
        claim=claim.number,
        attempt=claim.attempt,
        folder="",
        payload={},
        parameters=run.parameters,
        deadline=deadline,
        grace=means.grace,
        python=registration.python,
        env=means.env,
        secrets=given,
        redacted=tuple(given.values()),
        output_limit=means.output_limit,
        image=stored_in or config.get("image"),
        container={**config, **({} if fetched is None else _pulled(fetched))},
        registry=next(({name: secrets[name]} for name in for_registries if name in secrets), {}),
        timeout=registration.timeout,
        registration=replace(registration, secrets=names),
    )
    return spec, None if fetched is None else fetched.revision


def _registry_secrets(registration: Registration) -> list[str]:
    """The names of the secrets for the registry of the run's image, which are no business of the flow."""
    named = [place.get("registry_secret") for place in (registration.storage, registration.run_config)]
    return [str(name) for name in named if name]


def _image_of(registration: Registration, fetched: Fetched, *, here: bool) -> str | None:
    """The image that the flow lies in, if it lies in one.

    Raises LaunchError: a process of this machine cannot see into it.
    """
    image = fetched.payload.get("image")
    if image is not None and here:
        raise LaunchError(
            f"flow {registration.flow!r} lies in the image {image}, and this agent was asked to start it in a process",
            hint="register it without a run config or with DockerRun(), for agents with the launcher docker",
        )
    return None if image is None else str(image)


def _pulled(fetched: Fetched) -> dict[str, str]:
    """When the image that the flow lies in is pulled, where its storage knows better than the run config."""
    pull = fetched.payload.get("pull", "missing")
    return {} if pull == "missing" else {"pull_policy": str(pull)}


def attempt_variables(configured: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What every attempt finds in its environment: what it may have of the agent's ``own``, and the settings'."""
    found = {key: value for key, value in own.items() if key in ALLOWED or key.startswith("LC_")}
    if own.get("FLOW_AGENT_QUEUE", "").startswith("sqlite:"):
        found["FLOW_AGENT_QUEUE"] = own["FLOW_AGENT_QUEUE"]  # others may hold a password
    return found | dict(configured)


def _configured(env: Mapping[str, str | Mapping[str, str]], secrets: Mapping[str, str]) -> dict[str, str]:
    """The run config's variables, with secrets in the place of their names."""
    found = {}
    for key, value in env.items():
        if isinstance(value, str):
            found[key] = value
        elif value["secret"] in secrets:
            found[key] = secrets[value["secret"]]
        else:
            raise SecretNotFound(
                f"variable {key!r} of the run config asks for secret {value['secret']!r}, which the registration"
                " does not declare",
                hint="register the flow again",
            )
    return found


async def _interpreter(registration: Registration) -> str | None:
    """What ``_other_interpreter`` finds; nearly always our own is wanted, and the disk need not be asked."""
    if (registration.run_config.get("python") or registration.interpreter or sys.executable) == sys.executable:
        return None
    return await anyio.to_thread.run_sync(_other_interpreter, registration)


def _other_interpreter(registration: Registration) -> str | None:
    """The interpreter that the run config names, else the one that registered the flow, where it is still there; None:
    it is our own.

    Raises LaunchError: the one that is named is not there.
    """
    if (named := registration.run_config.get("python")) is not None and named != sys.executable:
        if not os.access(named, os.X_OK):
            raise LaunchError(
                f"the run config of flow {registration.flow!r} names the interpreter {named}, which is not on"
                f" {socket.gethostname()}",
                transient=False,
                hint="install it there, or give the flow and the agents that have it a label of their own",
            )
        return str(named)
    path = registration.interpreter
    if registration.kind == "module" and registration.location.get("host") != socket.gethostname():
        return None
    if path is None or path == sys.executable or not os.access(path, os.X_OK):
        return None
    return path
