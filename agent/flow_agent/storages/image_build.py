"""Makes the image of flows: context, build, a look into it, and the way to its registry."""
# ruff: noqa: PLC0415 - see storages.base

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, TYPE_CHECKING, Any, TypeVar

from flow_agent.checks import slug
from flow_agent.storages import author, image_check, image_context, image_layout, image_plan, payload
from flow_agent.storages.base import Stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flow_agent.engine.builds import Build
    from flow_agent.engine.client import Engine
    from flow_agent.engine.images import Access
    from flow_agent.engine.progress import Progress
    from flow_agent.flow import Flow
    from flow_agent.storages.docker import Docker
    from flow_agent.storages.image_layout import Laid

T = TypeVar("T")

_TIDYING = 30.0
"""Seconds for removing what was built for nothing."""


def store(storage: Docker, flows: Sequence[Flow]) -> dict[str, Stored]:
    """One image that holds ``flows``, where it is to be; see :meth:`flow_agent.storages.base.Storage.store`.

    Raises RegistrationError: a flow cannot be stored, a step fails, a flow cannot be loaded in the image, or engine or
    registry refuse. Nothing is left of it in the engine.
    """
    from flow_agent.objects.base import blocking

    image_plan.refuse_processes(flows)
    name = named(storage, flows)
    with TemporaryDirectory(prefix="flow-agent-") as folder, _as_registration_error(storage):
        plan = image_plan.Plan(storage, name, len(flows), Path(folder))
        laid = image_layout.lay(storage, flows, plan.image)
        location = blocking(lambda: _made(plan))
    return {each.flow: _stored(storage, each, location) for each in laid}


def named(storage: Docker, flows: Sequence[Flow]) -> str:
    """The whole name of the image: registry, name and tag."""
    from slugify import slugify

    own = storage.image_name or slug("-".join(flow.name for flow in flows))
    tag = storage.image_tag or slugify(datetime.now(UTC).isoformat(timespec="microseconds"))
    return "/".join(filter(None, [storage.registry_url, f"{own}:{tag}"]))


def _stored(storage: Docker, laid: Laid, location: dict[str, Any]) -> Stored:
    return Stored(
        kind="image",
        location={**location, "inside": laid.inside, "source": laid.source},
        digest=location["digest"].partition(":")[2] if storage.pin else None,
        size=laid.size,
        cloudpickle=laid.cloudpickle,
    )


async def _made(plan: image_plan.Plan) -> dict[str, Any]:
    """Build, look, push; where the image is then."""

    from flow_agent.engine import images
    from flow_agent.errors import EngineError

    storage, name = plan.storage, plan.name
    access = await _access(storage, name, plan.base)
    async with _working(storage) as (engine, progress):
        await engine.detached("logging in", partial(images.log_in, engine, access))
        made = await _built(plan, engine, access, progress)
        location: dict[str, Any] = {"name": name, "id": made, "host": socket.gethostname()}
        try:
            if not storage.ignore_healthchecks:
                await image_check.check(engine, made, plan.count, progress)
            if storage.registry_url is None:
                progress.say(f"{name} stays in the engine at {engine.address.shown}, since there is no registry_url")
                return {**location, "image": made, "digest": made, "pushed": False}
            push = partial(images.push, engine, name, access, progress)
            digest = await _tried(lambda: engine.detached(f"pushing {name}", push), progress)
        except BaseException:
            await _removed(engine, name)
            raise
        # It is in its registry; what it is made of stays for the next build.
        with contextlib.suppress(EngineError):
            await engine.detached(f"removing {name}", partial(images.remove, engine, name))
        return {**location, "image": f"{name.rpartition(':')[0]}@{digest}", "digest": digest, "pushed": True}


async def _removed(engine: Engine, name: str) -> None:
    """Remove an image that came to nothing, and what only it was made of."""
    import anyio

    from flow_agent.engine import images
    from flow_agent.errors import EngineError

    with anyio.move_on_after(_TIDYING, shield=True), contextlib.suppress(EngineError):
        await engine.detached(f"removing {name}", partial(images.remove, engine, name, prune=True))


async def _built(plan: image_plan.Plan, engine: Engine, access: Access, progress: Progress) -> str:
    """The id of the new image.

    The author's Dockerfile is built by itself: what it copies from its folder has nothing of ours, and a new version
    of a flow does not build it again.
    """
    import anyio

    from flow_agent.engine import images
    from flow_agent.engine.builds import Build, forget

    storage, base = plan.storage, plan.base
    options = dict(storage.build_kwargs)
    if base is not None:
        await _base(storage, engine, base, access, progress)
    else:
        images.admit(engine, access)
        first = {"pull": not storage.local_image, **options}
        theirs = Build()
        base = await _build(engine, plan.theirs, None, first, progress, theirs)
        options = {key: value for key, value in options.items() if key not in {"buildargs", "pull", "target"}}
    try:
        return await _build(engine, partial(plan.ours, base=base), plan.name, options, progress, Build())
    except BaseException:
        if plan.base is None:
            with anyio.move_on_after(_TIDYING, shield=True):
                await engine.detached("removing what the dockerfile gave", partial(forget, engine, theirs))
        raise


async def _build(  # noqa: PLR0917 - what one build is
    engine: Engine,
    write: Callable[[IO[bytes]], None],
    name: str | None,
    options: Mapping[str, Any],
    progress: Progress,
    state: Build,
) -> str:
    """The id of an image, made from the context that ``write`` writes. Being cancelled ends the build."""
    import anyio.to_thread

    from flow_agent.engine.builds import build

    with TemporaryFile(prefix="flow-agent-") as context:
        await anyio.to_thread.run_sync(write, context)
        context.seek(0)
        work = partial(build, engine, context, name, image_context.DOCKERFILE, options, progress, state)
        try:
            return await engine.detached(f"building {name or 'the dockerfile'}", work)
        except anyio.get_cancelled_exc_class():
            state.interrupt()
            with anyio.move_on_after(_TIDYING, shield=True):  # its thread removes what it made
                await anyio.to_thread.run_sync(state.over.wait, _TIDYING, abandon_on_cancel=True)
            if state.image is not None and name is not None:  # it was done just then
                await _removed(engine, name)
            raise


async def _base(storage: Docker, engine: Engine, base: str, access: Access, progress: Progress) -> None:
    """See that the base image is in the engine.

    Raises EngineError.
    """
    from flow_agent.engine import images
    from flow_agent.errors import EngineError

    if storage.local_image:
        if await engine.detached(f"looking for {base}", partial(images.there, engine, base)) is None:
            raise EngineError(
                f"the base image {base} is not in the engine at {engine.address.shown}, where local_image says it is",
                transient=False,
                hint="leave local_image out to have it pulled, or build it there",
            )
        return
    platform = storage.build_kwargs.get("platform")
    pull = partial(images.pull, engine, base, access, progress, platform)
    try:
        await _tried(lambda: engine.detached(f"pulling {base}", pull), progress)
    except EngineError as error:
        if await engine.detached(f"looking for {base}", partial(images.there, engine, base)) is None:
            raise
        raise EngineError(
            str(error),
            transient=False,
            hint=f"there is an image of that name in the engine; local_image=True takes it as it is ({error.hint})",
        ) from error


async def _tried(call: Callable[[], Awaitable[T]], progress: Progress) -> T:
    from flow_agent import retry

    async def on_wait(number: int, wait: float, error: BaseException) -> None:
        progress.say(f"{error}; try {number + 1} in {wait:.1f} s")

    return await retry.fetching(retry.Policy(), call, on_wait)


async def _access(storage: Docker, *images: str | None) -> Access:
    """The credentials of registry_secret, for the registry of ``registry_url`` or else of the base image, the second,
    and for all others that it has some for.

    Raises SecretNotFound, SecretUnavailable.
    """
    from flow_agent.engine.images import Access
    from flow_agent.engine.registries import all_of, credentials

    image = next((each for each in (images if storage.registry_url else images[1:]) if each is not None), None)
    if storage.registry_secret is None or image is None:
        return Access()
    async with author.secrets() as secrets:
        text = await secrets.get(storage.registry_secret)
    secret = storage.registry_secret
    return Access(credentials=credentials(secret, text, image), secret=secret, others=all_of(secret, text))


@asynccontextmanager
async def _working(storage: Docker) -> AsyncIterator[tuple[Engine, Progress]]:
    """The engine that builds, and where it reports; what still works for us ends with this."""
    from flow_agent.engine.client import SILENT_FOR, connected
    from flow_agent.engine.progress import Progress

    progress = Progress(_say)
    async with connected(address(storage)) as engine:
        engine.sdk.timeout = SILENT_FOR
        try:
            yield engine, progress
        finally:
            progress.unwanted = True


def address(storage: Docker) -> Any:
    """Where the engine is that builds."""
    from flow_agent.engine.client import Address

    given = storage.tls_config
    if not given:
        return Address(url=storage.base_url or "")
    table: dict[str, Any] = {} if given is True else dict(given)
    client = (table.pop("client_cert", None), table.pop("client_key", None))
    if client != (None, None):
        table["client_cert"] = client
    return Address(url=storage.base_url or "", tls={"verify": True, **table})


def _say(text: str) -> None:
    """Tell a person; what the engine's own words hold of known secrets was taken out."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def discard(storage: Docker, stored: Stored) -> None:
    """Remove an image that stayed in the engine; see :meth:`flow_agent.storages.base.Storage.discard`."""
    from flow_agent.engine import images
    from flow_agent.engine.client import connect
    from flow_agent.errors import EngineError

    if stored.location.get("pushed", True):
        return
    try:
        engine = connect(address(storage))
    except EngineError:
        return  # it is only tidying up, after an error that has to be told
    try:
        images.remove(engine, stored.location["name"], prune=True)
    except EngineError:
        return
    finally:
        engine.close()


@contextmanager
def _as_registration_error(storage: Docker) -> Iterator[None]:
    from flow_agent.errors import EngineError, RegistrationError, RunError

    try:
        yield
    except (EngineError, RunError) as error:
        raise RegistrationError(f"{storage!r} cannot store: {error}", hint=error.hint) from error
    except payload.Refused as error:
        raise RegistrationError(f"{storage!r} cannot store: {error}") from error
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise RegistrationError(f"{storage!r} cannot store: {what}{error.strerror or error}") from error
