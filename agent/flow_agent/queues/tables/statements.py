"""How the parts of a store over tables run their statements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol


class Row(Protocol):
    """One row, its values by the names of their columns."""

    def __getitem__(self, column: str, /) -> Any:
        """The value of a column."""

    def keys(self) -> Iterable[str]:
        """The names of the columns."""


class Statements(ABC):
    """Runs named statements on one connection."""

    def forget(self) -> None:  # noqa: B027 - some remember nothing
        """Drop what is known of the database's content."""

    @abstractmethod
    def _run(self, name: str, **parameters: Any) -> None:
        """Run a statement that gives nothing back."""

    @abstractmethod
    def _count(self, name: str, **parameters: Any) -> int:
        """Run a statement that gives nothing back; how many rows it changed."""

    @abstractmethod
    def _run_many(self, name: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        """Run a statement that gives nothing back once for each of the parameters."""

    @abstractmethod
    def _rows(self, name: str, **parameters: Any) -> Sequence[Row]:
        """What a statement gives."""

    def _row(self, name: str, **parameters: Any) -> Row | None:
        """The first row that a statement gives; None if there is none."""
        rows = self._rows(name, **parameters)
        return rows[0] if rows else None

    @abstractmethod
    def _one(self, name: str, **parameters: Any) -> Any:
        """The first column of the first row; None if there is no row."""
