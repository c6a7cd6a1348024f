"""The run that user code belongs to, and whether a flow file is only being loaded. Standard library only."""
# ruff: noqa: PLC0415 - every flow file pays for what is imported at the top

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging


class CurrentRun:
    """What user code may know and ask of its run.

    ``id`` is the run's id ("local" in ``flow.run()``), ``attempt`` counts from 1, ``parameters`` are those the
    function was called with, ``flow`` is the flow's name. ``secret`` finds the value of a declared secret.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the name that people look for
        attempt: int,
        parameters: Mapping[str, Any],
        flow: str,
        secret: Callable[[str], str],
    ) -> None:
        self.id = id
        self.attempt = attempt
        self.parameters = dict(parameters)
        self.flow = flow
        self._secret = secret

    @property
    def logger(self) -> logging.Logger:
        """Its records become lines of the run's log, with their level."""
        import logging

        return logging.getLogger("flow")

    def secret(self, name: str) -> str:
        """The value of a secret that the flow declares.

        Raises LookupError: it is not declared, or was not found; says the way out.
        """
        return self._secret(name)

    def __repr__(self) -> str:
        return f"<run {self.id} of flow {self.flow!r}, attempt {self.attempt}>"


class _Process:
    """What holds for the whole process: threads that user code starts see no context variable of ours."""

    run: CurrentRun | None = None
    loading: int = 0


_run: ContextVar[CurrentRun | None] = ContextVar("flow_agent_run", default=None)


@contextmanager
def bind(run: CurrentRun) -> Iterator[CurrentRun]:
    """``run`` is what ``current_run()`` gives, in this context and in threads that have none of their own."""
    token, before = _run.set(run), _Process.run
    _Process.run = run
    try:
        yield run
    finally:
        _Process.run = before
        _run.reset(token)


def bind_run(
    *,
    id: str,  # noqa: A002 - as in CurrentRun
    attempt: int,
    flow: str,
    parameters: Mapping[str, Any],
    secrets: Mapping[str, str],
) -> AbstractContextManager[CurrentRun]:
    """``bind`` for an attempt: ``secrets`` are the values of all secrets that its registration declares."""

    def secret(name: str) -> str:
        if name not in secrets:
            raise LookupError(undeclared(name, flow, secrets))
        return secrets[name]

    return bind(CurrentRun(id=id, attempt=attempt, flow=flow, parameters=parameters, secret=secret))


def run_or_none() -> CurrentRun | None:
    """The run that this code belongs to, if it belongs to one."""
    return _run.get() or _Process.run


def current_run() -> CurrentRun:
    """The run that this code belongs to.

    Raises RuntimeError: no flow runs here.
    """
    if (run := run_or_none()) is None:
        raise RuntimeError(
            "current_run() was called where no flow runs;"
            " call it inside the flow's function, and try the function out with flow.run()"
        )
    return run


@contextmanager
def loading() -> Iterator[None]:
    """A flow file is being loaded, not run: its own ``build()`` and ``register()`` calls only warn."""
    _Process.loading += 1
    try:
        yield
    finally:
        _Process.loading -= 1


def skipped_while_loading(what: str) -> bool:
    """Whether ``what`` must not happen because a file is being loaded; warns the caller's caller if so."""
    if _Process.loading:
        warnings.warn(
            f"{what} does nothing while the file is being loaded;"
            ' put it under `if __name__ == "__main__":` to keep it for your own use',
            stacklevel=3,
        )
    return bool(_Process.loading)


def undeclared(name: str, flow: str, declared: Iterable[str]) -> str:
    """The message for a secret that a flow asks for without having said so."""
    known = ", ".join(sorted(declared)) or "none"
    return f"flow {flow!r} does not declare the secret {name!r} (declared: {known}); add it to the flow's secrets"
