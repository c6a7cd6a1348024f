"""Images of an engine: pulling, pushing and removing them, with their progress. Blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_agent.engine import registries
from flow_agent.engine.client import Engine
from flow_agent.engine.progress import Progress
from flow_agent.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class Access:
    """How registries are spoken to: ``credentials`` for one of them, and ``others``, from the secret of that name; for
    the rest those that the SDK finds where ``docker login`` puts them."""

    credentials: Mapping[str, str] | None = None
    secret: str | None = None
    others: tuple[Mapping[str, str], ...] = ()

    @property
    def all(self) -> list[Mapping[str, str]]:
        """Of each registry, the first being the one that counts."""
        return [each for each in (self.credentials, *self.others) if each is not None]

    def of(self, image: str) -> dict[str, str] | None:
        """What to send for ``image``; None: what the SDK finds."""
        registry = registries.registry_of(image)
        return next((dict(each) for each in self.all if each["serveraddress"] == registry), None)

    def named(self, image: str) -> str | None:
        """The secret that what is sent for ``image`` comes from."""
        return self.secret if self.of(image) is not None else None


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
    for each in access.all:
        engine.sdk._auth_configs.add_auth(each["serveraddress"], dict(each))


def log_in(engine: Engine, access: Access) -> None:
    """See that a registry takes the credentials of ``access``, if these are a name and a password.

    Raises EngineError: it refuses them. Whatever else it says is for those to tell who want more of it.
    """
    given = access.credentials
    if given is None or "password" not in given:
        return
    registry = given["serveraddress"]
    what = f"logging in to the registry {registry}"
    try:
        engine.ask(what, lambda: engine.sdk.login(given["username"], given["password"], registry=registry, reauth=True))
    except EngineError as error:
        said = str(error).removeprefix(f"{what}: ")
        refusal = registries.refused(what, said, f"{registry}/image", secret=access.secret)
        if refusal.status == registries.REFUSED:
            raise refusal from error


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
        for said in answers(engine, what, ask):
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


def answers(engine: Engine, what: str, ask: Callable[[], Iterable[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    """What the engine says, word by word.

    Raises EngineError.
    """
    stream = iter(engine.ask(what, ask))
    while (said := engine.ask(what, lambda: next(stream, None))) is not None:
        yield said
