"""The older way to say how a flow's runs are started, kept so that old files still say it. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flow_agent.checks import texts

if TYPE_CHECKING:
    from flow_agent.run_configs import UniversalRun


class LocalEnvironment:
    """``metadata={"image": ...}`` and ``labels``; ``flow.environment = ...`` makes a ``UniversalRun`` of them.

    Raises TypeError, ValueError: ``executor``, ``on_start`` or ``on_exit`` is given (there is nothing that would
    serve them), or a label or the image is no text.
    """

    def __init__(
        self,
        executor: None = None,
        labels: Iterable[str] | None = None,
        on_start: None = None,
        on_exit: None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in {"executor": executor, "on_start": on_start, "on_exit": on_exit}.items():
            if value is not None:
                raise TypeError(f"LocalEnvironment: {name} is not supported; do it inside the flow's function")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(
                f"LocalEnvironment: metadata is {metadata!r}, expected a dict such as {{'image': 'name:tag'}}"
            )
        self.labels = texts(labels, what="LocalEnvironment: a label")
        self.metadata = dict(metadata or {})

    def run_config(self) -> UniversalRun:
        """The run config that says the same."""
        from flow_agent.run_configs import UniversalRun  # noqa: PLC0415 - for those who still use this

        return UniversalRun(image=self.metadata.get("image"), labels=self.labels)

    def __repr__(self) -> str:
        return f"LocalEnvironment(labels={list(self.labels)!r}, metadata={self.metadata!r})"
