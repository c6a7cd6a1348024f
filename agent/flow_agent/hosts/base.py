"""What a storage needs of a git host, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Commit:
    """A commit by its full name; ``etag`` is what the host can be asked with whether the ref still leads to it."""

    name: str
    etag: str = ""

    @property
    def validator(self) -> str:
        """Both in one text."""
        return f"{self.name} {self.etag}".rstrip()

    @classmethod
    def of(cls, validator: str) -> Commit:
        """What ``validator`` was made of."""
        name, _, etag = validator.partition(" ")
        return cls(name, etag)


class Repository(ABC):
    """One repository, with credentials.

    Every method raises StoreError: ``missing`` if there is no such repository, ref or file, ``transient`` if another
    try can help; it names host, repository, ref and path, and never a secret. Nothing is tried twice here. Nothing
    blocks the event loop.
    """

    where: str
    """For people, such as ``github.com/owner/name``."""
    credentials: str
    """Where the credentials come from, for people; never their value."""
    gives_folders: ClassVar[bool] = False
    """Whether ``folder`` makes the folder itself; else it writes a tar file with the paths of the repository, all of
    them or those of the folder, below one more folder."""

    @abstractmethod
    async def commit(self, ref: str | None, known: Commit | None = None) -> Commit | None:
        """The commit that ``ref`` leads to now: a branch, a tag, a commit, or None for the default branch.

        None if it is still ``known``.
        """

    @abstractmethod
    async def file(self, commit: str, path: str, into: Path) -> str:
        """Stream the file ``path`` of ``commit`` into the new file ``into``; gives its SHA-256 (hex)."""

    @abstractmethod
    async def folder(self, commit: str, path: str, into: Path) -> None:
        """Put the folder ``path`` (empty: the whole repository) of ``commit`` at ``into``; see ``gives_folders``."""

    @abstractmethod
    async def check(self) -> None:
        """Ask for the repository."""
