"""Flows as objects of a bucket: what S3, GCS and Azure share."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from flow_agent.checks import slug
from flow_agent.storages import author, packing, payload, pickling
from flow_agent.storages.base import Storage, Stored

if TYPE_CHECKING:
    from flow_agent.flow import Described, Flow
    from flow_agent.model import Json, Registration
    from flow_agent.objects.base import Facts, ObjectStore
    from flow_agent.ports import Fetched, SecretResolver
    from flow_agent.storages.packing import Packed

_Path = str | os.PathLike[str]


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
        async with author.secrets() as secrets, self.connect(secrets) as store:
            await store.delete(location["key"], version=location.get("version"))

    async def _upload(self, packed: Sequence[Packed]) -> dict[str, Stored]:
        from flow_agent import retry

        stored: dict[str, Stored] = {}

        async def on_wait(number: int, wait: float, error: BaseException) -> None:
            """Somebody waits at the terminal: the error is told if it stays."""

        async with author.secrets() as secrets, self.connect(secrets) as store:
            try:
                for each in packed:
                    location = {**each.location, "key": each.key, "bucket": store.where}
                    if each.file is not None:
                        put = _Upload(store, each.key, each.file, overwrite=self.overwrite)
                        facts = await retry.fetching(retry.Policy(), put, on_wait)
                        location |= {"uploaded": not put.there, "version": facts.version, "etag": facts.etag}
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

    def _pack(self, flow: Flow, file: Path) -> Packed:
        key = self.key or f"{slug(flow.name)}/{_now()}"
        if not self.stored_as_script:
            return packing.pickled(flow, key, file)
        if self.key and self.local_script_path is None and self.root is None:
            return packing.theirs(flow, key, prefix=self.prefix, pin=self.pin)
        return packing.script(flow, key, file, given=self.local_script_path, root=self.root, pin=self.pin)

    # Fetching

    async def fetch(
        self, registration: Registration, into: Path, secrets: SecretResolver, known: str | None = None
    ) -> Fetched | None:
        """See :meth:`flow_agent.ports.Storage.fetch`."""
        from flow_agent.storages import download

        with download.as_fetch_errors(registration, into):
            async with self.connect(secrets) as store:
                if self.prefix is not None:
                    return await download.folder(store, registration, self.prefix, into, known)
                return await download.one(store, registration, into, known)


class _Upload:
    """One file on its way to its key, where it may lie already (``there``).

    An upload whose answer is lost may have been taken, and is then in the way of its own second try where nothing is
    overwritten.
    """

    def __init__(self, store: ObjectStore, key: str, file: Path, *, overwrite: bool) -> None:
        self._store, self._key, self._file, self._overwrite = store, key, file, overwrite
        self.there = False

    async def __call__(self) -> Facts:
        """One try.

        Raises StoreError.
        """
        from flow_agent.errors import StoreError

        try:
            return await self._store.put(self._key, self._file, overwrite=self._overwrite)
        except StoreError as error:
            if error.transient or self._overwrite or (facts := await self._same()) is None:
                raise
            self.there = True
            return facts

    async def _same(self) -> Facts | None:
        """What lies there, if that is our file."""
        from flow_agent.errors import StoreError

        copy = self._file.with_name(f"{self._file.name}.there")
        try:
            facts = await self._store.get(self._key, copy)
        except StoreError:
            return None
        return facts if facts is not None and facts.digest == payload.digest_of(self._file) else None


def _absolute(value: _Path | None) -> Path | None:
    return None if value is None else Path(value).expanduser().absolute()


def _now() -> str:
    from slugify import slugify

    return slugify(datetime.now(UTC).isoformat(timespec="microseconds"))


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
