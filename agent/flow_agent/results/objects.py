"""Return values in an object store: what S3Result, GCSResult and AzureResult share."""
# ruff: noqa: PLC0415 - see storages.base; a flow file imports this module in the attempt too

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self

from flow_agent.results.base import LOCATION, checked_location, rendered

if TYPE_CHECKING:
    from pathlib import Path

    from flow_agent.errors import ResultError, StoreError
    from flow_agent.objects.base import ObjectStore
    from flow_agent.ports import SecretResolver


class ObjectResult(ABC):
    """Keeps return values as objects; ``location`` is the template of their keys.

    The fields of the template are ``{flow}`` (the flow's name as it can stand in a key), ``{run_id}`` and
    ``{attempt}``. A subclass writes ``options`` and ``connect``; its constructor must take what ``options`` gives.
    """

    def __init__(self, location: str = LOCATION) -> None:
        self.location = checked_location(location)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The constructor's arguments but ``location``, JSON-ready; never a secret's value."""

    @abstractmethod
    def connect(self, secrets: SecretResolver) -> AbstractAsyncContextManager[ObjectStore]:
        """The store, with credentials."""

    def describe(self) -> dict[str, Any]:
        """Itself as JSON-ready values."""
        return {"type": type(self).__name__, **self.options(), "location": self.location}

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> Self:
        """What ``describe`` gave."""
        return cls(**{name: value for name, value in data.items() if name != "type"})

    def render(self, flow: str, run_id: str, attempt: int) -> str:
        """The key of one attempt's return value."""
        return rendered(self.location, flow, run_id, attempt)

    async def put(self, location: str, source: Path, secrets: SecretResolver) -> None:
        """See :meth:`flow_agent.ports.ResultStore.put`."""
        from flow_agent.errors import StoreError

        try:
            async with self.connect(secrets) as store:
                await store.put(location, source)
        except StoreError as error:
            raise _result_error(error) from error

    async def get(self, location: str, folder: Path, secrets: SecretResolver) -> Path:
        """See :meth:`flow_agent.ports.ResultStore.get`; a copy in ``folder``."""
        from flow_agent.errors import StoreError

        path = folder / "result"
        try:
            async with self.connect(secrets) as store:
                await store.get(location, path)
        except StoreError as error:
            raise _result_error(error) from error
        return path

    async def remove(self, location: str, secrets: SecretResolver) -> None:
        """See :meth:`flow_agent.ports.ResultStore.remove`."""
        from flow_agent.errors import StoreError

        try:
            async with self.connect(secrets) as store:
                await store.delete(location)
        except StoreError as error:
            raise _result_error(error) from error

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(repr(self.describe()))

    def __repr__(self) -> str:
        given = {name: value for name, value in self.options().items() if value}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _result_error(error: StoreError) -> ResultError:
    from flow_agent.errors import ResultError

    return ResultError(str(error), transient=error.transient, hint=error.hint, retry_after=error.retry_after)
