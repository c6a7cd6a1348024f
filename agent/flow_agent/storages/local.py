"""Flows in files of this machine: the default storage."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from flow_agent.home import home
from flow_agent.results.local import LocalResult
from flow_agent.storages import archives, payload, pickling, sources
from flow_agent.storages.base import Storage, Stored
from flow_agent.storages.shelf import publish, withdraw

if TYPE_CHECKING:
    from flow_agent.errors import FetchError
    from flow_agent.flow import Described, Flow
    from flow_agent.model import Json, Registration
    from flow_agent.ports import Fetched, SecretResolver

_Path = str | os.PathLike[str]


def _absolute(value: _Path | None, what: str) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise TypeError(f"Local: {what} is {value!r}, expected a path")
    return Path(value).expanduser().absolute()


class Local(Storage):
    """Keeps flows in files below ``directory`` (``<home>/flows`` unless given), for agents of this machine.

    A pickle goes to ``<directory>/<key>/<time>.flow``; ``<directory>/<key>.flow`` is a link to the newest. The key is
    the flow's name as a slug, with a short hash behind it where the name is not its own slug.

    With ``stored_as_script`` the flow is loaded from ``path``, the file it is defined in unless given. That file
    stands alone; with ``root`` all of that folder comes along, so that the flow can import what lies beside it.
    Such a flow is what the files are when a run starts; ``pin=True`` keeps them as they are now.

    ``validate`` refuses a ``directory`` that is something else. The other arguments are those of ``Storage``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    same_machine = True

    def __init__(
        self,
        directory: _Path | None = None,
        *,
        path: _Path | None = None,
        root: _Path | None = None,
        stored_as_script: bool = False,
        validate: bool = True,
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
        self._own = directory is not None
        self.directory = _absolute(directory, "directory") or home() / "flows"
        self.root = _absolute(root, "root")
        self.path = _absolute(self.root / path if self.root and path else path, "path")
        if (path or root or pin) and not stored_as_script:
            given = "path" if path else "root" if root else "pin"
            raise ValueError(f"Local: {given} is for scripts, but stored_as_script is off; add stored_as_script=True")
        if self.root and self.path and not self.path.is_relative_to(self.root):
            raise ValueError(f"Local: path {self.path} is not below root {self.root}")
        if validate and self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"Local: directory {self.directory} is a file, expected a folder, or a path still free")

    @property
    def default_labels(self) -> tuple[str, ...]:
        """The name of this machine: other machines do not have its files."""
        return (socket.gethostname(),)

    @property
    def result(self) -> Described:
        """Files of this machine too."""
        return self._result or LocalResult(self.directory / "results" if self._own else None)

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`."""
        return {
            "directory": str(self.directory),
            "path": str(self.path) if self.path else None,
            "root": str(self.root) if self.root else None,
            "stored_as_script": self.stored_as_script,
            "pin": self.pin,
        }

    # Storing

    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """See :meth:`Storage.store`."""
        stored: dict[str, Stored] = {}
        try:
            for flow in flows:
                stored[flow.name] = self._store(flow)
        except BaseException:
            for each in stored.values():
                self.discard(each)
            raise
        return stored

    def _store(self, flow: Flow) -> Stored:
        from flow_agent.errors import RegistrationError

        try:
            return self._script(flow) if self.stored_as_script else self._pickle(flow)
        except OSError as error:
            raise RegistrationError(
                f"flow {flow.name!r} cannot be stored in {self.directory}: {error.strerror or error}",
                hint="free some space on that disk"
                if error.errno in {errno.ENOSPC, errno.EDQUOT}
                else "give a folder that you may write: FLOW_AGENT_HOME, or Local(directory=...)",
            ) from error
        except payload.Refused as error:
            raise RegistrationError(f"flow {flow.name!r} cannot be stored: {error}") from error

    def discard(self, stored: Stored) -> None:
        """See :meth:`Storage.discard`; what is the author's own file stays."""
        if stored.digest is not None and not stored.location.get("theirs"):
            withdraw(self.directory, Path(stored.location["path"]))

    def _pickle(self, flow: Flow) -> Stored:
        def write(file: BinaryIO) -> payload.Hashed:
            hashed = payload.Hashed(file)
            pickling.dump_function(flow, cast("BinaryIO", hashed))
            return hashed

        path, hashed = publish(self.directory, flow.name, ".flow", write)
        return Stored(
            kind="pickle",
            location={"path": str(path), "host": socket.gethostname(), "source": flow.file},
            digest=hashed.digest,
            size=hashed.size,
            cloudpickle=pickling.cloudpickle_version(),
        )

    def _script(self, flow: Flow) -> Stored:
        path, root = self._source(flow)
        inside = path.relative_to(root).as_posix() if root else path.name
        location: dict[str, Json] = {"script": inside, "host": socket.gethostname(), "source": str(path)}
        if not self.pin:
            follows = {"path": str(path), "root": str(root) if root else None}
            return Stored(kind="script", location={**location, **follows})

        def write(file: BinaryIO) -> tuple[str, int]:
            if root:
                return archives.pack_folder(root, file, lambda: None)
            hashed = payload.Hashed(file)
            with path.open("rb") as source:
                while chunk := source.read(1 << 20):
                    hashed.write(chunk)
            return hashed.digest, hashed.size

        kept, (digest, size) = publish(self.directory, flow.name, ".tar" if root else path.suffix, write)
        return Stored(kind="script", location={**location, "path": str(kept), "root": None}, digest=digest, size=size)

    def _source(self, flow: Flow) -> tuple[Path, Path | None]:
        return sources.script_of(flow, self.path, self.root, "path")

    # Fetching

    async def fetch(
        self,
        registration: Registration,
        into: Path,
        secrets: SecretResolver,  # noqa: ARG002 - the port's signature
        known: str | None = None,  # noqa: ARG002 - files are here: looking is as good as copying
    ) -> Fetched:
        """See :meth:`flow_agent.ports.Storage.fetch`; needs no secret."""
        from anyio import from_thread, to_thread

        return await to_thread.run_sync(self.fetch_here, registration, into, from_thread.check_cancelled)

    def fetch_here(self, registration: Registration, into: Path, check: payload.Check) -> Fetched:
        """See :meth:`flow_agent.ports.NearStorage.fetch_here`."""
        from flow_agent.errors import FetchError

        try:
            return self._fetch(registration, into, check)
        except payload.Refused as error:
            raise FetchError(f"flow {registration.flow!r}: {error}", transient=False) from error
        except PermissionError as error:
            raise FetchError(
                f"flow {registration.flow!r}: {error.filename} may not be read by this agent's user: {error.strerror}",
                transient=False,
                hint="let that user read it, or start the agent as the one who registered the flow",
            ) from error
        except OSError as error:
            place = registration.location.get("root") or registration.location["path"]
            raise FetchError(f"flow {registration.flow!r}: copying {place} failed: {error}", transient=True) from error

    def lies_beside(self, registration: Registration, folder: Path) -> bool:
        """See :meth:`flow_agent.ports.NearStorage.lies_beside`."""
        place = Path(registration.location.get("root") or registration.location["path"])
        return place.stat().st_dev == folder.stat().st_dev

    def _fetch(self, registration: Registration, into: Path, check: payload.Check) -> Fetched:
        from flow_agent.ports import Fetched

        location = registration.location
        source = Path(location["path"])
        if not source.exists():
            raise self._gone(registration, source)
        # An earlier try that was cut short may have left something at the target.
        if registration.kind == "pickle":
            target = into / "flow.pickle"
            try:
                digest, _ = payload.copy_file(source, target, check)
            except FileExistsError:
                target.unlink()
                digest, _ = payload.copy_file(source, target, check)
            return Fetched(payload={"kind": "pickle", "path": "flow.pickle"}, revision=digest, digest=digest)
        folder = into / "payload"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        if location.get("root"):
            digest, _ = payload.copy_folder(Path(location["root"]), folder, check)
        elif registration.digest is not None and source.suffix == ".tar":
            digest, _ = archives.unpack(source, folder, check)
        else:
            digest, _ = payload.copy_file(source, folder / location["script"], check)
        if not (folder / location["script"]).is_file():
            raise self._gone(registration, Path(location["source"]))
        return Fetched(
            payload={"kind": "script", "root": "payload", "path": location["script"], "flow": registration.flow},
            revision=digest,
            digest=digest,
        )

    @staticmethod
    def _gone(registration: Registration, place: Path) -> FetchError:
        from flow_agent.errors import FetchError
        from flow_agent.model import Reason

        location: dict[str, Any] = dict(registration.location)
        here = socket.gethostname()
        there = f"; this agent runs on {here}" if location.get("host") != here else ""
        return FetchError(
            f"flow {registration.flow!r}: {place} does not exist; it was registered on {location.get('host')}"
            f" from {location.get('source')}{there}",
            transient=False,
            reason=Reason.FLOW_NOT_FOUND,
            hint="register the flow again, or let an agent of that machine take its runs",
        )
