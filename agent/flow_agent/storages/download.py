"""From an object store into an attempt's folder: one object, or all below a prefix."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio import from_thread, to_thread

from flow_agent.errors import FetchError, StoreError
from flow_agent.model import Reason, Registration
from flow_agent.objects.base import Facts, Listed, ObjectStore
from flow_agent.ports import Fetched
from flow_agent.storages import archives, payload

AT_ONCE = 8
"""Objects below a prefix that are fetched at a time."""


@contextmanager
def as_fetch_errors(registration: Registration, into: Path) -> Iterator[None]:
    """What goes wrong inside becomes a FetchError that names the flow."""
    try:
        yield
    except StoreError as error:
        raise FetchError(
            f"flow {registration.flow!r}: {error}",
            transient=error.transient,
            retry_after=error.retry_after,
            reason=Reason.FLOW_NOT_FOUND if error.missing else None,
            hint=error.hint or ("register the flow again" if error.missing else None),
        ) from error
    except payload.Refused as error:
        raise FetchError(f"flow {registration.flow!r}: {error}", transient=False) from error
    except OSError as error:
        raise FetchError(
            f"flow {registration.flow!r}: {into} cannot be written: {error.strerror or error}", transient=True
        ) from error


async def one(store: ObjectStore, registration: Registration, into: Path, known: str | None) -> Fetched | None:
    """The object of ``registration``: a pickle, a script, or a folder in an archive; None if it is still ``known``.

    Raises StoreError, FetchError, Refused, OSError.
    """
    file, location = into / "flow.pickle", registration.location
    facts = await _object(store, registration, file, known)
    if facts is None:
        return None
    if registration.kind == "pickle":
        return Fetched(
            payload={"kind": "pickle", "path": "flow.pickle"},
            revision=facts.revision,
            digest=facts.digest,
            validator=facts.validator,
        )

    return Fetched(
        payload={"kind": "script", "root": "payload", "path": location["script"], "flow": registration.flow},
        revision=facts.revision,
        digest=await placed(registration, file, into / "payload", facts.digest),
        validator=facts.validator,
    )


async def placed(registration: Registration, file: Path, folder: Path, digest: str) -> str:
    """Put the script, or the archive of a folder, that lies in ``file`` into ``folder``; gives the payload's digest.

    ``digest`` is that of the file itself.

    Raises FetchError: the script is not in it. Refused, OSError.
    """
    location = registration.location

    def place() -> str:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        if not location.get("archive"):
            file.rename(folder / location["script"])
            return digest
        found, _ = archives.unpack(file, folder, from_thread.check_cancelled)
        file.unlink()
        if not (folder / location["script"]).is_file():
            raise _lacks(registration, location["key"])
        return found

    return await to_thread.run_sync(place)


async def _object(store: ObjectStore, registration: Registration, file: Path, known: str | None) -> Facts | None:
    """What is pinned comes as it was registered, as long as the store has that version; the digest decides."""
    location = registration.location
    if registration.digest is not None and location.get("version"):
        try:
            return await store.get(location["key"], file, version=location["version"], known=known)
        except StoreError as error:
            if not error.missing:
                raise
    return await store.get(location["key"], file, known=known)


async def folder(
    store: ObjectStore, registration: Registration, prefix: str, into: Path, known: str | None
) -> Fetched | None:
    """All objects below ``prefix``; None if they are still ``known``.

    Raises StoreError, FetchError, Refused, OSError.
    """
    target, script = into / "payload", registration.location["script"]
    listed = await store.keys(prefix, payload.MOST_FILES)
    places = _places(prefix, listed, store.where)
    validator = payload.digest_of_text(sorted((each.key, each.etag) for each in listed))
    if validator == known:
        return None
    if script not in places:
        raise _lacks(registration, prefix)
    await to_thread.run_sync(lambda: shutil.rmtree(target, ignore_errors=True))
    limit = anyio.CapacityLimiter(AT_ONCE)
    failed: list[StoreError | OSError] = []

    async def take(place: str, key: str) -> None:
        try:
            async with limit:
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                await store.get(key, target / place)
        except (StoreError, OSError) as error:
            failed.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for place, key in places.items():
            tasks.start_soon(take, place, key, name=f"fetch-{key}")
    if failed:
        raise failed[0]
    return Fetched(
        payload={"kind": "script", "root": "payload", "path": script, "flow": registration.flow},
        revision=validator,
        digest=await to_thread.run_sync(lambda: payload.digest_of(target, from_thread.check_cancelled)),
        validator=validator,
    )


def _places(prefix: str, listed: Sequence[Listed], where: str) -> dict[str, str]:
    """Where each object below the prefix goes in the payload's folder.

    Raises Refused: there are too many, they are too large, or one would lie elsewhere.
    """
    if len(listed) > payload.MOST_FILES or sum(each.size for each in listed) > payload.MOST_BYTES:
        raise payload.Refused(
            f"{where}/{prefix} holds more than {payload.MOST_FILES} objects or {payload.MOST_BYTES // 1_000_000} MB,"
            " expected the folder of a flow"
        )
    found = {}
    for each in listed:
        place = each.key[len(prefix) :].lstrip("/")
        if not place or place.endswith("/"):
            continue  # what some programs keep for a folder
        if posixpath.normpath(place) != place or place.startswith("../") or "\0" in place:
            raise payload.Refused(f"{where} holds {each.key!r}, which is no path below {prefix!r}")
        found[place] = each.key
    return found


def _lacks(registration: Registration, what: str) -> FetchError:
    location = registration.location
    return FetchError(
        f"flow {registration.flow!r}: {what} in {location.get('bucket', 'the archive')} holds no {location['script']}",
        transient=False,
        reason=Reason.FLOW_NOT_FOUND,
        hint="register the flow again",
    )
