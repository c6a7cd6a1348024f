"""Flows as objects of a bucket: what S3, GCS and Azure share."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import os
import posixpath
import shutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, cast

from flow_agent.checks import slug
from flow_agent.storages import payload, pickling, sources
from flow_agent.storages.base import Storage, Stored

if TYPE_CHECKING:
    from flow_agent.errors import FetchError
    from flow_agent.flow import Described, Flow
    from flow_agent.model import Json, Registration
    from flow_agent.objects.base import Facts, ObjectStore
    from flow_agent.ports import Fetched, SecretResolver

_Path = str | os.PathLike[str]

AT_ONCE = 8
"""Objects below a prefix that are fetched at a time."""


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """One flow as it lies in a file, to be uploaded; ``file`` is None if its object is somebody else's."""

    flow: str
    kind: str
    key: str
    file: Path | None
    location: dict[str, Any]
    digest: str | None = None
    size: int | None = None


class ObjectStorage(Storage):
    """Keeps each flow as one object, under ``<flow's name as a slug>/<time>`` unless ``key`` says another.

    With ``stored_as_script`` the flow is loaded from source code: from ``local_script_path`` (the file it is defined
    in unless given), which is uploaded when it is registered. ``root``, a folder that holds that file, comes along as
    an archive, so that the flow can import what lies beside it. With a ``key`` and no ``local_script_path`` nothing is
    uploaded: the object is yours, and with ``prefix`` all objects below it come along. A script follows its object;
    ``pin=True`` keeps what was registered. The other arguments are those of ``Storage``.

    A subclass writes ``connect`` and ``bucket_options``, and names its ``default_label``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    remote = True
    default_label: ClassVar[str]
    key_name: ClassVar[str] = "key"
    """What the argument ``key`` is called by users of this store."""

    def __init__(
        self,
        *,
        key: str | None = None,
        stored_as_script: bool = False,
        local_script_path: _Path | None = None,
        root: _Path | None = None,
        prefix: str | None = None,
        overwrite: bool = True,
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
        self.key = self._checked_key(key)
        self.local_script_path = _absolute(local_script_path)
        self.root = _absolute(root)
        self.prefix = prefix
        self.overwrite = overwrite
        self._check_script()

    def _checked_key(self, key: str | None) -> str | None:
        if key is not None and (not isinstance(key, str) or not key or len(key.encode()) > 1024):
            raise ValueError(
                f"{type(self).__name__}: {self.key_name} is {key!r}, expected text of 1 to 1024 bytes in UTF-8"
            )
        return key

    def _check_script(self) -> None:
        kind = type(self).__name__
        given = {"local_script_path": self.local_script_path, "root": self.root, "prefix": self.prefix, "pin": self.pin}
        if not self.stored_as_script and (named := [name for name, value in given.items() if value]):
            raise ValueError(
                f"{kind}: {named[0]} is for scripts, but stored_as_script is off; add stored_as_script=True"
            )
        if self.prefix is not None and (not self.key or self.local_script_path or self.root or self.pin):
            raise ValueError(
                f"{kind}: prefix is for a folder of objects that are there already: it goes with {self.key_name}, and"
                " not with local_script_path, root or pin"
            )
        if self.prefix is not None and not (self.key or "").startswith(self.prefix):
            raise ValueError(f"{kind}: {self.key_name} {self.key!r} is not below prefix {self.prefix!r}")
        if self.root and self.local_script_path and not self.local_script_path.is_relative_to(self.root):
            raise ValueError(f"{kind}: local_script_path {self.local_script_path} is not below root {self.root}")

    @property
    def default_labels(self) -> tuple[str, ...]:
        """The label of agents that can reach such a store."""
        return (self.default_label,)

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`."""
        return {
            **self.bucket_options(),
            self.key_name: self.key,
            "stored_as_script": self.stored_as_script,
            "prefix": self.prefix,
        }

    # What a subclass writes

    @abstractmethod
    def bucket_options(self) -> dict[str, Json]:
        """The constructor's arguments that name the bucket and how to reach it, JSON-ready; no secret's value."""

    @abstractmethod
    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """The bucket, with credentials."""

    # Storing

    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """See :meth:`Storage.store`."""
        from flow_agent.errors import RegistrationError
        from flow_agent.objects.base import blocking

        with TemporaryDirectory(prefix="flow-agent-") as folder, _as_registration_error(self):
            packed = [self._pack(flow, Path(folder) / str(number)) for number, flow in enumerate(flows)]
            keys = [each.key for each in packed if each.file is not None]
            if twice := sorted({key for key in keys if keys.count(key) > 1}):
                raise RegistrationError(
                    f"{self!r} would keep several flows in the one object {twice[0]!r}",
                    hint=f"leave {self.key_name} out, or give each flow a storage of its own",
                )
            return blocking(lambda: self._upload(packed))

    def discard(self, stored: Stored) -> None:
        """See :meth:`Storage.discard`; an object that was not uploaded here stays."""
        from flow_agent.errors import StoreError
        from flow_agent.objects.base import blocking

        if not stored.location.get("uploaded"):
            return
        try:
            blocking(lambda: self._remove(stored.location))
        except StoreError:
            return  # it is only tidying up, after an error that has to be told

    async def _remove(self, location: Any) -> None:
        async with _author_secrets() as secrets, self.connect(secrets) as store:
            await store.delete(location["key"], version=location.get("version"))

    async def _upload(self, packed: Sequence[_Packed]) -> dict[str, Stored]:
        from flow_agent import retry

        stored: dict[str, Stored] = {}

        async def on_wait(number: int, wait: float, error: BaseException) -> None:
            """Somebody waits at the terminal: the error is told if it stays."""

        async with _author_secrets() as secrets, self.connect(secrets) as store:
            try:
                for each in packed:
                    location = {**each.location, "key": each.key, "bucket": store.where}
                    if each.file is not None:
                        put = partial(store.put, each.key, each.file, overwrite=self.overwrite)
                        facts = await retry.fetching(retry.Policy(), put, on_wait)
                        location |= {"uploaded": True, "version": facts.version, "etag": facts.etag}
                    stored[each.flow] = Stored(
                        kind=each.kind,
                        location=location,
                        digest=each.digest,
                        size=each.size,
                        cloudpickle=pickling.cloudpickle_version() if each.kind == "pickle" else None,
                    )
            except BaseException:
                for done in stored.values():
                    if done.location.get("uploaded"):
                        await store.delete(done.location["key"], version=done.location["version"])
                raise
        return stored

    # Packing

    def _pack(self, flow: Flow, file: Path) -> _Packed:
        key = self.key or f"{slug(flow.name)}/{_now()}"
        if not self.stored_as_script:
            with file.open("xb") as opened:
                hashed = payload.Hashed(opened)
                pickling.dump_function(flow, cast("BinaryIO", hashed))
            return _Packed(
                flow=flow.name,
                kind="pickle",
                key=key,
                file=file,
                location={"source": flow.file},
                digest=hashed.digest,
                size=hashed.size,
            )
        if self.key and self.local_script_path is None and self.root is None:
            return self._theirs(flow, self.key)
        script, root = sources.script_of(flow, self.local_script_path, self.root, "local_script_path")
        inside = script.relative_to(root).as_posix() if root else script.name
        with file.open("xb") as opened:
            if root:
                digest, size = payload.pack_folder(root, opened, lambda: None)
            else:
                hashed = payload.Hashed(opened)
                with script.open("rb") as source:
                    shutil.copyfileobj(source, cast("BinaryIO", hashed))
                digest, size = hashed.digest, hashed.size
        return _Packed(
            flow=flow.name,
            kind="script",
            key=key,
            file=file,
            location={"source": str(script), "script": inside, "archive": root is not None},
            digest=digest if self.pin else None,
            size=size,
        )

    def _theirs(self, flow: Flow, key: str) -> _Packed:
        """A script that lies in the store already."""
        from flow_agent.errors import RegistrationError

        if self.pin:
            raise RegistrationError(
                f"flow {flow.name!r}: pin keeps what is registered, but nothing is uploaded to {key!r}",
                hint="give local_script_path too, or leave pin out",
            )
        inside = key[len(self.prefix or "") :].lstrip("/") if self.prefix is not None else posixpath.basename(key)
        return _Packed(flow=flow.name, kind="script", key=key, file=None, location={"source": None, "script": inside})

    # Fetching

    async def fetch(
        self, registration: Registration, into: Path, secrets: SecretResolver, known: str | None = None
    ) -> Fetched | None:
        """See :meth:`flow_agent.ports.Storage.fetch`."""
        from flow_agent.errors import FetchError, StoreError
        from flow_agent.model import Reason

        try:
            async with self.connect(secrets) as store:
                if self.prefix is not None:
                    return await self._fetch_prefix(store, registration, into, known)
                return await self._fetch_object(store, registration, into, known)
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

    async def _fetch_object(
        self, store: ObjectStore, registration: Registration, into: Path, known: str | None
    ) -> Fetched | None:
        from anyio import from_thread, to_thread

        from flow_agent.ports import Fetched

        file = into / "flow.pickle"
        facts = await self._got(store, registration, file, known)
        if facts is None:
            return None
        if registration.kind == "pickle":
            return Fetched(
                payload={"kind": "pickle", "path": "flow.pickle"},
                revision=facts.revision,
                digest=facts.digest,
                validator=facts.validator,
            )
        location = registration.location

        def place() -> str:
            folder = into / "payload"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            if not location.get("archive"):
                file.rename(folder / location["script"])
                return facts.digest
            digest, _ = payload.unpack(file, folder, from_thread.check_cancelled)
            file.unlink()
            if not (folder / location["script"]).is_file():
                raise self._lacks(registration, location["script"])
            return digest

        return Fetched(
            payload={"kind": "script", "root": "payload", "path": location["script"], "flow": registration.flow},
            revision=facts.revision,
            digest=await to_thread.run_sync(place),
            validator=facts.validator,
        )

    async def _got(self, store: ObjectStore, registration: Registration, file: Path, known: str | None) -> Facts | None:
        """What is pinned comes as it was registered, as long as the store has that version; the digest decides."""
        from flow_agent.errors import StoreError

        location = registration.location
        if registration.digest is not None and location.get("version"):
            try:
                return await store.get(location["key"], file, version=location["version"], known=known)
            except StoreError as error:
                if not error.missing:
                    raise
        return await store.get(location["key"], file, known=known)

    async def _fetch_prefix(
        self, store: ObjectStore, registration: Registration, into: Path, known: str | None
    ) -> Fetched | None:
        import anyio
        from anyio import from_thread, to_thread

        from flow_agent.ports import Fetched

        prefix, folder = cast("str", self.prefix), into / "payload"
        listed = await store.keys(prefix, payload.MOST_FILES)
        places = _places(prefix, listed, store.where)
        validator = payload.digest_of_text(sorted((each.key, each.etag) for each in listed))
        if validator == known:
            return None
        if registration.location["script"] not in places:
            raise self._lacks(registration, registration.location["script"])
        await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
        limit = anyio.CapacityLimiter(AT_ONCE)

        async def one(place: str, key: str) -> None:
            async with limit:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                await store.get(key, folder / place)

        async with anyio.create_task_group() as tasks:
            for place, key in places.items():
                tasks.start_soon(one, place, key, name=f"fetch-{key}")
        digest = await to_thread.run_sync(lambda: payload.digest_of(folder, from_thread.check_cancelled))
        return Fetched(
            payload={
                "kind": "script",
                "root": "payload",
                "path": registration.location["script"],
                "flow": registration.flow,
            },
            revision=validator,
            digest=digest,
            validator=validator,
        )

    def _lacks(self, registration: Registration, script: str) -> FetchError:
        from flow_agent.errors import FetchError
        from flow_agent.model import Reason

        location = registration.location
        return FetchError(
            f"flow {registration.flow!r}: {self.prefix or location['key']} in {location['bucket']} holds no {script}",
            transient=False,
            reason=Reason.FLOW_NOT_FOUND,
            hint="register the flow again",
        )


def _absolute(value: _Path | None) -> Path | None:
    return None if value is None else Path(value).expanduser().absolute()


def _now() -> str:
    from slugify import slugify

    return slugify(datetime.now(UTC).isoformat(timespec="microseconds"))


def _author_secrets() -> AbstractAsyncContextManager[SecretResolver]:
    """What the registering machine has: its environment, its files of secrets, its settings."""
    from flow_agent.client import own_secrets

    return own_secrets()


def _places(prefix: str, listed: Sequence[Any], where: str) -> dict[str, str]:
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


@contextmanager
def _as_registration_error(storage: Storage) -> Iterator[None]:
    from flow_agent.errors import RegistrationError, StoreError

    try:
        yield
    except StoreError as error:
        raise RegistrationError(f"{storage!r} cannot store: {error}", hint=error.hint) from error
    except payload.Refused as error:
        raise RegistrationError(f"{storage!r} cannot store: {error}") from error
    except OSError as error:
        raise RegistrationError(
            f"{storage!r} cannot store: {error.strerror or error}", hint="free some space for temporary files"
        ) from error
