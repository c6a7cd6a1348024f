"""Flows as scripts in repositories of git: what the git hosts share."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

import posixpath
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from flow_agent.storages import author
from flow_agent.storages.base import Storage, Stored

if TYPE_CHECKING:
    from flow_agent.flow import Described, Flow
    from flow_agent.hosts.base import Repository
    from flow_agent.model import Json, Registration
    from flow_agent.ports import Fetched, SecretResolver

_REF = re.compile(r"(?!-)(?!/)(?!.*(\.\.|//|@\{|/\.|\.lock(/|$)))[^\x00-\x20\x7f~^:?*\[\\]+(?<![/.])")
"""What git allows as a name (git check-ref-format), which is also what no program takes for an option."""


class RepositoryStorage(Storage):
    """Reads flows from a repository when a run starts; registering uploads nothing.

    ``path`` is the file that defines the flow, from the top of the repository; alone it is the payload. ``root``, a
    folder of the repository that holds it (``"."`` is all of it), comes along, so that the flow can import what lies in
    it. ``ref`` is a branch, a tag or a commit; without it the repository's default branch counts. The commit is looked
    up for each run, and recorded on it; ``pin=True`` looks it up when the flow is registered, for good. The other
    arguments are those of ``Storage``.

    A subclass writes ``connect`` and ``repository_options``, and names its ``default_label``.

    Raises TypeError, ValueError: the arguments do not fit each other.
    """

    remote = True
    default_label: ClassVar[str]
    flow_name: str | None = None
    """What the flow is called in the file, where that is not its name."""
    path_name: ClassVar[str] = "path"
    """What the argument ``path`` is called."""
    ref_name: ClassVar[str] = "ref"

    def __init__(
        self,
        *,
        path: str | None,
        ref: str | None = None,
        root: str | None = None,
        pin: bool = False,
        stored_as_script: bool = True,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
    ) -> None:
        kind = type(self).__name__
        super().__init__(
            labels=labels,
            add_default_labels=add_default_labels,
            secrets=secrets,
            result=result,
            stored_as_script=True,
            pin=pin,
        )
        if not stored_as_script:
            raise ValueError(f"{kind}: a repository holds scripts, so stored_as_script cannot be off")
        self.path = checked_path(kind, self.path_name, path)
        self.root = "" if root in (".", "./", "") else checked_path(kind, "root", root)
        self.ref = checked_ref(kind, self.ref_name, ref)
        if self.root and self.path and not f"{self.path}/".startswith(f"{self.root}/"):
            raise ValueError(f"{kind}: {self.path_name} {self.path!r} is not below root {self.root!r}")

    @property
    def default_labels(self) -> tuple[str, ...]:
        """The label of agents that can reach such a host."""
        return (self.default_label,)

    def options(self) -> dict[str, Json]:
        """See :meth:`Storage.options`."""
        root = None if self.root is None else self.root or "."
        return {**self.repository_options(), self.path_name: self.path, self.ref_name: self.ref, "root": root}

    # What a subclass writes

    @abstractmethod
    def repository_options(self) -> dict[str, Json]:
        """The constructor's arguments that name the repository and how to reach it, JSON-ready; no secret's value."""

    @abstractmethod
    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[Repository]:
        """The repository, with credentials."""

    # Storing

    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """See :meth:`Storage.store`: nothing is stored; with ``pin`` the commit is looked up, its content hashed."""
        from flow_agent.errors import RegistrationError

        if self.path is None:
            raise RegistrationError(
                f"{self!r} names no file of the repository",
                hint=f"{type(self).__name__}(..., {self.path_name}='folder/flow.py')",
            )
        inside = posixpath.relpath(self.path, self.root or ".") if self.root is not None else self.path.rsplit("/")[-1]
        location: dict[str, Json] = {
            "path": self.path,
            "script": inside,
            "ref": self.ref,
            "commit": None,
            "source": None,
        }
        if self.root is None:
            self._warn_of_neighbours(flows)
        digest = size = None
        if self.pin:
            location["commit"], digest, size = self._pinned(location)
        return {
            flow.name: Stored(kind="script", location={**location, "source": flow.file}, digest=digest, size=size)
            for flow in flows
        }

    def _warn_of_neighbours(self, flows: Sequence[Flow]) -> None:
        """Warn of what the author's own copy of the file imports from beside it."""
        from flow_agent.storages.neighbours import warn_of_script

        way = f"{type(self).__name__}(..., root={posixpath.dirname(self.path or '') or '.'!r})"
        for flow in flows:
            if flow.file is not None:
                warn_of_script(flow, Path(flow.file), way)

    def _pinned(self, location: dict[str, Json]) -> tuple[str, str, int]:
        """Commit, digest and bytes of what is there now."""
        from flow_agent.errors import RegistrationError, StoreError
        from flow_agent.objects.base import blocking
        from flow_agent.storages import checkout, payload

        async def look(folder: Path) -> tuple[str, str]:
            async with author.secrets() as secrets, self.connect(secrets) as repository:
                found = await repository.commit(self.ref)
                assert found is not None  # nothing was known
                return found.name, await checkout.payload_of(repository, found.name, self, location, folder)

        with TemporaryDirectory(prefix="flow-agent-") as name:
            try:
                commit, digest = blocking(lambda: look(Path(name)))
            except (StoreError, payload.Refused) as error:
                raise RegistrationError(f"{self!r}: {error}", hint=getattr(error, "hint", None)) from error
            size = sum(each.lstat().st_size for each in Path(name, "payload").rglob("*") if not each.is_dir())
        return commit, digest, size

    # Fetching

    async def fetch(
        self, registration: Registration, into: Path, secrets: SecretResolver, known: str | None = None
    ) -> Fetched | None:
        """See :meth:`flow_agent.ports.Storage.fetch`."""
        from flow_agent.hosts.base import Commit
        from flow_agent.ports import Fetched
        from flow_agent.storages import checkout, download

        location: dict[str, Any] = dict(registration.location)
        before = Commit.of(known) if known is not None else None
        with download.as_fetch_errors(registration, into):
            async with self.connect(secrets) as repository:
                found: Commit | None
                if location.get("commit"):
                    found = Commit(location["commit"])
                    if before is not None and before.name == found.name:
                        return None
                else:
                    found = await repository.commit(self.ref, before)
                if found is None:
                    return None
                digest = await checkout.payload_of(repository, found.name, self, location, into)
        return Fetched(
            payload={
                "kind": "script",
                "root": "payload",
                "path": location["script"],
                "flow": self.flow_name or registration.flow,
            },
            revision=found.name,
            digest=digest,
            validator=found.validator,
        )


def checked_path(kind: str, name: str, path: str | None) -> str | None:
    """A path of a repository: below its top, and no option of a program.

    Raises TypeError, ValueError.
    """
    if path is None:
        return None
    if not isinstance(path, str):
        raise TypeError(f"{kind}: {name} is {path!r}, expected a path of the repository as text")
    found = posixpath.normpath(path.strip("/")) if path else ""
    if not found or found.startswith(("..", "-")) or found == "." or not found.isprintable() or "\\" in found:
        raise ValueError(f"{kind}: {name} is {path!r}, expected a path below the top of the repository")
    return found


def checked_ref(kind: str, name: str, ref: str | None) -> str | None:
    """A branch, a tag or a commit.

    Raises TypeError, ValueError.
    """
    if ref is None:
        return None
    if not isinstance(ref, str):
        raise TypeError(f"{kind}: {name} is {ref!r}, expected a branch, a tag or a commit as text")
    if not _REF.fullmatch(ref):
        raise ValueError(f"{kind}: {name} is {ref!r}, which git allows as no name of a branch, a tag or a commit")
    return ref


def checked_host(kind: str, name: str, url: str | None, default: str) -> str:
    """The address of a host, without a slash at its end.

    Raises TypeError, ValueError: it is none, or holds credentials.
    """
    from urllib.parse import urlsplit

    if url is None:
        return default
    if not isinstance(url, str):
        raise TypeError(f"{kind}: {name} is {url!r}, expected an address such as {default}")
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{kind}: {name} holds credentials or a query, which would stand in the registration;"
            " keep a token in a secret, and name it"
        )
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError(f"{kind}: {name} is {url!r}, expected an address such as {default}")
    return parts.geturl().rstrip("/")
