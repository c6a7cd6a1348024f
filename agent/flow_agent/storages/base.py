"""What all storages share. Standard library only at import time: a flow file imports its storage in the attempt too."""
# ruff: noqa: PLC0415 - errors stay with the program; what runs an attempt elsewhere has the author's side only

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Self

from flow_agent.checks import secret_names, texts
from flow_agent.current import skipped_while_loading

if TYPE_CHECKING:
    from pathlib import Path

    from flow_agent.flow import Described, Flow
    from flow_agent.model import Json, Registration
    from flow_agent.ports import Fetched, SecretResolver


@lru_cache(maxsize=64)  # inspecting takes 0.2 ms, and each run asks for its storage
def _arguments(kind: type) -> frozenset[str]:
    """The names of what the constructor takes."""
    return frozenset(signature(kind).parameters)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One flow as it was stored: what its registration will say of it.

    ``location`` is what ``fetch`` needs to find it again, ``size`` in bytes. ``digest`` is the SHA-256 that the
    payload must have, or None for a script that follows its source. ``cloudpickle`` is the version that wrote a pickle.
    """

    kind: str
    location: Mapping[str, Json]
    digest: str | None = None
    size: int | None = None
    cloudpickle: str | None = None


class Storage(ABC):
    """Where flows are kept: binding flows to it, storing them, and describing itself to whoever fetches.

    ``labels`` are added to those of each flow, and ``default_labels`` too unless ``add_default_labels`` is off.
    ``secrets`` are names that the runs may ask for. ``result`` is where return values go (None: the storage's own
    place, if it has one). With ``stored_as_script`` the flow is kept as source code and loaded from that; such a
    script follows its source unless ``pin`` keeps it as it was when it was registered.

    A subclass writes ``options``, ``store`` and ``fetch``. Its constructor must take what ``options`` gives.
    """

    same_machine: ClassVar[bool] = False
    """Whether what is stored can be reached from the registering machine only."""
    of_interpreter: ClassVar[bool] = False
    """Whether what is stored lies among the packages of the interpreter that registers it."""
    launcher: ClassVar[str | None] = None
    """The launcher that its flows need, where the run config leaves that open; None: any."""
    remote: bool = False
    """Whether fetching goes over a network, so that what was fetched is worth keeping on the agent's machine."""

    def __init__(
        self,
        *,
        labels: Iterable[str] | None = None,
        add_default_labels: bool = True,
        secrets: Iterable[str] | None = None,
        result: Described | None = None,
        stored_as_script: bool = False,
        pin: bool = False,
    ) -> None:
        kind = type(self).__name__
        self._labels = texts(labels, what=f"{kind}: a label")
        self.add_default_labels = add_default_labels
        self.secrets = secret_names(secrets, what=f"{kind}: an item of secrets")
        if result is not None and not callable(getattr(result, "describe", None)):
            raise TypeError(f"{kind}: result is {result!r}, expected a result such as LocalResult()")
        self._result = result
        self.stored_as_script = stored_as_script
        self.pin = pin
        self.flows: dict[str, Flow] = {}
        self.stored: dict[str, Stored] = {}

    @property
    def default_labels(self) -> tuple[str, ...]:
        """Labels of agents that can reach what is stored."""
        return ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Its own labels and, if they are wanted, the default ones."""
        return tuple(dict.fromkeys([*self._labels, *(self.default_labels if self.add_default_labels else ())]))

    @property
    def result(self) -> Described | None:
        """Where return values of its flows go, unless a flow says otherwise; None: they are kept with the run."""
        return self._result

    # What an author does

    def bind(self, flow: Flow) -> None:
        """Take ``flow`` among those that ``build`` stores.

        Raises ValueError: another flow of that name is there already.
        """
        if self.flows.get(flow.name, flow) is not flow:
            raise ValueError(
                f"{self!r} has another flow named {flow.name!r} already;"
                " give one of them another name, or a storage of its own"
            )
        self.flows[flow.name] = flow

    def unbind(self, flow: Flow) -> None:
        """Leave ``flow`` out again."""
        if self.flows.get(flow.name) is flow:
            del self.flows[flow.name]
            self.stored.pop(flow.name, None)

    def build(self) -> Self:
        """Store every flow that is bound to this storage; ``stored`` then tells where. Only warns while loading.

        Raises RegistrationError: no flow is bound, or one cannot be stored.
        """
        if skipped_while_loading("storage.build()"):
            return self
        if not self.flows:
            from flow_agent.errors import RegistrationError

            raise RegistrationError(f"{self!r} has no flow to store; assign it first: flow.storage = storage")
        self.stored.update(self.store(list(self.flows.values())))
        return self

    # What a registration keeps

    def describe(self) -> dict[str, Json]:
        """Itself as JSON-ready values: ``type`` and what is needed to fetch."""
        return {"type": type(self).__name__, **self.options(), "secrets": list(self.secrets)}

    @classmethod
    def from_description(cls, data: Mapping[str, Json]) -> Self:
        """What ``describe`` gave; options of a newer program are left out."""
        known = _arguments(cls)
        return cls(**{name: value for name, value in data.items() if name in known})

    # What a subclass writes

    @abstractmethod
    def options(self) -> dict[str, Json]:
        """The constructor's arguments that fetching needs, JSON-ready; never a secret's value."""

    @abstractmethod
    def store(self, flows: Sequence[Flow]) -> dict[str, Stored]:
        """Store ``flows`` now, and tell where, by name. Blocks.

        Raises RegistrationError: one cannot be stored; then nothing should be left of the others.
        """

    def discard(self, stored: Stored) -> None:  # noqa: B027 - not every storage can take back
        """Remove what ``store`` wrote for a registration that came to nothing, if that can be. Blocks."""

    @abstractmethod
    async def fetch(
        self, registration: Registration, into: Path, secrets: SecretResolver, known: str | None = None
    ) -> Fetched | None:
        """See :meth:`flow_agent.ports.Storage.fetch`."""

    def __repr__(self) -> str:
        given: dict[str, Any] = {name: value for name, value in self.options().items() if value}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"
