"""Images of an engine: building, pulling and pushing them, with their progress. Blocks."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from flow_agent.engine import registries
from flow_agent.engine.client import Engine
from flow_agent.engine.errors import words
from flow_agent.engine.progress import Progress
from flow_agent.errors import EngineError

T = TypeVar("T")

TOLD = 40
"""Last lines of a step's output that stand in its error."""
_OF_BASE = "see that the engine may pull that image, or let it take what it has (local_image=True)"
_STEP = re.compile(r"Step (\d+/\d+) : (.*)", re.DOTALL)
_CODE = re.compile(r"returned a non-zero code: (\d+)")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How registries are spoken to: ``credentials`` for one of them, from the secret of that name; None for those that
    the SDK finds where ``docker login`` puts them."""

    credentials: Mapping[str, str] | None = None
    secret: str | None = None

    def of(self, image: str) -> dict[str, str] | None:
        """What to send for ``image``; None: what the SDK finds."""
        if self.credentials is None or self.credentials["serveraddress"] != registries.registry_of(image):
            return None
        return dict(self.credentials)

    def named(self, image: str) -> str | None:
        """The secret that what is sent for ``image`` comes from."""
        return self.secret if self.of(image) is not None else None


@dataclass
class _Build:
    """What a build has said by now."""

    step: str = ""
    line: str = ""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=TOLD))
    image: str | None = None


def there(engine: Engine, image: str) -> dict[str, Any] | None:
    """What the engine knows of ``image``; None: it has no such image.

    Raises EngineError.
    """
    try:
        return dict(engine.ask(f"looking for the image {image}", lambda: engine.sdk.inspect_image(image)))
    except EngineError as error:
        if error.missing:
            return None
        raise


def pull(engine: Engine, image: str, access: Access, progress: Progress, platform: str | None = None) -> None:
    """Get ``image`` from its registry.

    Raises EngineError: ``transient`` if another try can help, as where the engine is silent for SILENT_FOR seconds.
    """
    what = f"pulling the image {image}"
    name, tag = _split(image)

    def ask() -> Iterable[Mapping[str, Any]]:
        found: Iterable[Mapping[str, Any]] = engine.sdk.pull(
            name, tag=tag, stream=True, decode=True, auth_config=access.of(image), platform=platform
        )
        return found

    for said in _heard(engine, what, image, access, ask):
        progress.transfer("pulling", image, said)
    progress.transferred("pulled", image)


def push(engine: Engine, image: str, access: Access, progress: Progress) -> str:
    """Put ``image``, a name with a tag, into its registry; gives the digest that it has there.

    Raises EngineError: ``transient`` if another try can help.
    """
    what = f"pushing the image {image}"
    name, tag = _split(image)

    def ask() -> Iterable[Mapping[str, Any]]:
        found: Iterable[Mapping[str, Any]] = engine.sdk.push(
            name, tag=tag, stream=True, decode=True, auth_config=access.of(image)
        )
        return found

    digest = None
    for said in _heard(engine, what, image, access, ask):
        progress.transfer("pushing", image, said)
        aux = said.get("aux")
        if isinstance(aux, Mapping) and aux.get("Digest"):
            digest = str(aux["Digest"])
    if digest is None:
        raise EngineError(f"{what}: the engine ended without saying its digest", transient=True)
    progress.transferred("pushed", image)
    return digest


def admit(engine: Engine, access: Access) -> None:
    """Let builds pull with the credentials of ``access`` too, beside those that the SDK finds."""
    if access.credentials is not None:
        engine.sdk._auth_configs.add_auth(access.credentials["serveraddress"], dict(access.credentials))


def build(  # noqa: PLR0917 - what one build is
    engine: Engine,
    context: IO[bytes],
    image: str | None,
    dockerfile: str,
    options: Mapping[str, Any],
    progress: Progress,
) -> str:
    """Build the archive ``context``, in which ``dockerfile`` lies, as ``image`` (None: without a name); gives its id.

    Raises EngineError: a step fails; the message holds the step and the last of its output. Or the engine says nothing
    for ``timeout`` of ``options``, else SILENT_FOR, seconds.
    """
    what = f"building the image {image}" if image else "building the dockerfile"

    def ask() -> Iterable[Mapping[str, Any]]:
        found: Iterable[Mapping[str, Any]] = engine.sdk.build(
            fileobj=context,
            custom_context=True,
            tag=image,
            dockerfile=dockerfile,
            decode=True,
            **{"rm": True, "forcerm": True, **options},  # else the container of a step that fails stays
        )
        return found

    state, failure = _Build(), None
    for said in _answers(engine, what, ask):
        progress.goes_on()
        if "error" in said or "errorDetail" in said:
            failure = _failed(what, said, state)
        if isinstance(aux := said.get("aux"), Mapping) and aux.get("ID"):
            state.image = str(aux["ID"])
        for line in str(said.get("stream") or "").splitlines():
            _step(line, state, progress)
    if failure is not None:
        raise failure
    if state.image is None:
        raise EngineError(f"{what}: the engine ended without an image", transient=False)
    return state.image


def _step(line: str, state: _Build, progress: Progress) -> None:
    if begun := _STEP.match(line):
        state.step, state.line = begun[1], begun[2]
        state.said.clear()
        progress.say(f"step {state.step}: {_short(state.line)}")
    elif line.strip() and not line.startswith((" ---> ", "Removing intermediate container ")):
        state.said.append(line.rstrip())


def _failed(what: str, said: Mapping[str, Any], state: _Build) -> EngineError:
    detail = said.get("errorDetail")
    message = str((detail.get("message") if isinstance(detail, Mapping) else None) or said.get("error"))
    code = _CODE.search(message)
    if not state.step:
        return EngineError(f"{what}: {words(message)}", transient=False)
    why = f"ended with exit code {code[1]}" if code else f"failed: {words(message)}"
    output = "".join(f"\n  {words(line)}" for line in state.said)
    return EngineError(
        f"{what}: step {state.step}, {_short(state.line)}, {why}" + (f"; its output:{output}" if output else ""),
        transient=False,
        hint=_OF_BASE if state.line.upper().startswith("FROM ") else None,
    )


def _short(line: str) -> str:
    text = words(line)
    return text if len(text) <= 120 else f"{text[:117]}..."


def remove(engine: Engine, image: str, *, prune: bool = False) -> None:
    """Forget ``image``, a name with a tag; what others are made of stays, and without ``prune`` its layers do too.

    Raises EngineError. One that is not there, or that a container uses, is fine.
    """
    try:
        engine.ask(f"removing the image {image}", lambda: engine.sdk.remove_image(image, force=True, noprune=not prune))
    except EngineError as error:
        if error.status not in {404, 409}:
            raise


def walk(root: Path, patterns: list[str]) -> Iterator[str]:
    """The paths below ``root`` that ``patterns``, as those of a ``.dockerignore``, leave in."""
    from docker.utils.build import PatternMatcher  # noqa: PLC0415 - only where an image is built

    yield from PatternMatcher(list(patterns)).walk(str(root))


def _split(image: str) -> tuple[str, str | None]:
    """Name and tag; a digest belongs to the name, as the SDK wants it."""
    if "@" in image:
        name, _, digest = image.partition("@")
        return name, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def _heard(
    engine: Engine, what: str, image: str, access: Access, ask: Callable[[], Iterable[Mapping[str, Any]]]
) -> Iterator[Mapping[str, Any]]:
    """What the engine says while it speaks to the registry of ``image``.

    Raises EngineError: the registry's refusal, or the engine's.
    """
    failure = None
    try:
        for said in _answers(engine, what, ask):
            if "error" in said:  # the stream is read to its end: else its connection stays open
                failure = registries.refused(what, said["error"], image, secret=access.named(image))
            yield said
    except EngineError as error:
        if error.away or error.status is None:
            raise
        # The engine answers 500 for nearly all that a registry says.
        words_of_it = str(error).removeprefix(f"{what}: ")
        raise registries.refused(what, words_of_it, image, secret=access.named(image)) from error
    if failure is not None:
        raise failure


def _answers(engine: Engine, what: str, ask: Callable[[], Iterable[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    stream = iter(engine.ask(what, ask))
    while (said := engine.ask(what, lambda: next(stream, None))) is not None:
        yield said
