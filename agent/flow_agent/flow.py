"""What an author writes: a flow, and what it may ask of its run. Standard library only, and little of it.

Import from here with ``from flow_agent.flow import ...``: the name ``flow_agent.flow`` is the decorator.
"""
# ruff: noqa: PLC0415 - every flow file pays for what is imported at the top

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, overload

from flow_agent.checks import seconds, secret_names, texts
from flow_agent.current import (
    CurrentRun,
    bind,
    bind_run,
    current_run,
    loading,
    run_or_none,
    skipped_while_loading,
    undeclared,
)

if TYPE_CHECKING:
    from flow_agent.environments import LocalEnvironment

__all__ = ["CurrentRun", "Described", "Flow", "Storing", "bind_run", "current_run", "flow", "loading"]


class Described(Protocol):
    """A result or a run config: what can be written into a registration."""

    def describe(self) -> dict[str, Any]:
        """Itself as JSON-ready values, with its ``type``."""


class Storing(Protocol):
    """What a flow needs to know of a storage."""

    secrets: tuple[str, ...]

    def bind(self, flow: Flow) -> None:
        """Take ``flow`` among those that ``build()`` stores."""

    def unbind(self, flow: Flow) -> None:
        """Leave ``flow`` out again."""


def _callable(function: Callable[..., Any] | None, name: str) -> Callable[..., Any] | None:
    if function is None:
        return None
    if isinstance(function, Flow) or not callable(function):
        raise TypeError(f"flow {name!r}: the function is {function!r}, expected a function or None")
    import inspect

    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise TypeError(
            f"flow {name!r}: {function!r} has no signature that Python can read; wrap it in a function of your own"
        ) from error
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(
                f"flow {name!r}: parameter {parameter.name!r} is positional-only, but a run gives parameters by name;"
                " take the `/` out of the function's signature"
            )
    return function


def _described(value: Described | None, what: str, expected: str) -> Described | None:
    if value is not None and (isinstance(value, type) or not callable(getattr(value, "describe", None))):
        raise TypeError(f"{what} is {value!r}, expected {expected}")
    return value


def _defined_in() -> tuple[str | None, str | None]:
    """File and module of the code that makes a flow."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return (os.path.abspath(file) if file else None), frame.f_globals.get("__name__")  # noqa: PTH100 - pathlib is slow


class Flow:
    """A named function that is stored somewhere and run elsewhere; without a function a run of it returns None.

    ``storage`` is ``Local()`` unless given; assigning it binds the flow, so that ``flow.storage.build()`` stores it.
    ``labels`` say which agents may take its runs, ``secrets`` which secrets its runs may ask for by name.
    ``retries`` is how often a failed run is tried again, ``retry_delay`` the seconds before that, and ``timeout``
    the seconds that user code of one attempt may take.

    Raises TypeError, ValueError: an argument is not what it has to be; the message says what was expected.
    """

    _numbers = count()

    def __init__(
        self,
        name: str,
        function: Callable[..., Any] | None = None,
        *,
        storage: Storing | None = None,
        run_config: Described | None = None,
        result: Described | None = None,
        labels: Iterable[str] = (),
        secrets: Iterable[str] = (),
        retries: int = 0,
        retry_delay: float = 0,
        timeout: float | None = None,
    ) -> None:
        (self.name,) = texts([name], what="a flow's name")
        what = f"flow {name!r}:"
        self._set_function(_callable(function, name))
        self.number = next(Flow._numbers)
        self.file, self.module = _defined_in()
        self.run_config = run_config
        self.result = _described(result, f"{what} result", "a result such as LocalResult()")
        self.labels = texts(labels, what=f"{what} a label")
        self.secrets = secret_names(secrets, what=f"{what} an item of secrets")
        if isinstance(retries, bool) or not isinstance(retries, int):
            raise TypeError(f"{what} retries is {retries!r}, expected a whole number")
        if retries < 0:
            raise ValueError(f"{what} retries is {retries}, expected 0 or more")
        self.retries = retries
        self.retry_delay = seconds(retry_delay, f"{what} retry_delay", zero=True)
        self.timeout = None if timeout is None else seconds(timeout, f"{what} timeout", zero=False)
        self._environment: LocalEnvironment | None = None
        self._storage: Storing | None = None
        if storage is not None:
            self.storage = storage

    def _set_function(self, function: Callable[..., Any] | None) -> None:
        self.function = function
        if function is not None:
            # For help(), and for inspect.signature() of the flow itself.
            self.__doc__ = function.__doc__
            self.__wrapped__ = function

    @property
    def storage(self) -> Any:
        """Where the flow is stored; ``Local()`` if nothing else was said."""
        if self._storage is None:
            from flow_agent.storages.local import Local

            self.storage = Local()
        return self._storage

    @storage.setter
    def storage(self, storage: Storing) -> None:
        if isinstance(storage, type) or not callable(getattr(storage, "bind", None)):
            raise TypeError(f"flow {self.name!r}: storage is {storage!r}, expected a storage such as Local()")
        if storage is self._storage:
            return
        storage.bind(self)
        if self._storage is not None:
            self._storage.unbind(self)
        self._storage = storage

    @property
    def run_config(self) -> Any:
        """How and where its runs are started; None leaves it to the agent."""
        return self._run_config

    @run_config.setter
    def run_config(self, run_config: Described | None) -> None:
        self._run_config = _described(
            run_config, f"flow {self.name!r}: run_config", "a run config such as UniversalRun() or None"
        )

    @property
    def environment(self) -> LocalEnvironment | None:
        """The older way to say ``run_config``; assigning it sets that."""
        return self._environment

    @environment.setter
    def environment(self, environment: LocalEnvironment) -> None:
        from flow_agent.environments import LocalEnvironment

        if not isinstance(environment, LocalEnvironment):
            raise TypeError(f"flow {self.name!r}: environment is {environment!r}, expected a LocalEnvironment")
        run_config = environment.run_config()
        warnings.warn(f"flow.environment is deprecated; write flow.run_config = {run_config!r}", DeprecationWarning, 2)
        self.run_config, self._environment = run_config, environment

    @property
    def declared_secrets(self) -> tuple[str, ...]:
        """Every secret that a run may ask for: the flow's, its storage's, and those in its run config's env."""
        storage = self._storage.secrets if self._storage is not None else ()
        return tuple(dict.fromkeys([*self.secrets, *storage, *getattr(self.run_config, "secrets", ())]))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if self.function is None:
            if args or kwargs:
                raise TypeError(f"flow {self.name!r} has no function and takes no parameters")
            return None
        return self.function(*args, **kwargs)

    def run(self, /, **parameters: Any) -> Any:
        """Run the flow here and now, without queue or agent, and give what it returns; async functions too.

        ``current_run()`` has the id "local"; secrets come from the environment variables of their names.
        Called inside a run, it belongs to that run.

        Raises RuntimeError: the function is async, and an event loop already runs in this thread.
        """
        with bind(self._run_here(parameters)):
            value = self(**parameters)
            if not hasattr(value, "__await__"):
                return value
            import asyncio

            if asyncio._get_running_loop() is not None:
                getattr(value, "close", lambda: None)()
                raise RuntimeError(
                    f"flow {self.name!r} is async and an event loop runs already; await it: await flow(...)"
                )

            async def awaited() -> Any:
                return await value

            return asyncio.run(awaited())

    def _run_here(self, parameters: Mapping[str, Any]) -> CurrentRun:
        if (outer := run_or_none()) is not None:
            return CurrentRun(
                id=outer.id, attempt=outer.attempt, parameters=parameters, flow=self.name, secret=outer.secret
            )

        def secret(name: str) -> str:
            if name not in self.declared_secrets:
                raise LookupError(undeclared(name, self.name, self.declared_secrets))
            if name not in os.environ:
                raise LookupError(f"secret {name!r} is not set; in flow.run() it is the environment variable {name}")
            return os.environ[name]

        return CurrentRun(id="local", attempt=1, parameters=parameters, flow=self.name, secret=secret)

    def register(self, labels: Iterable[str] = ()) -> Any:
        """Store the flow and write it into the queue; gives the registration, with its version."""
        if skipped_while_loading("flow.register()"):
            return None
        from flow_agent.client import register_flow

        return register_flow(self, labels)

    def __getstate__(self) -> dict[str, Any]:
        # A flow that another flow's function uses travels with it: as a function, not with where it was stored.
        return {"name": self.name, "function": self.function}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fresh = Flow(state["name"])
        self.__dict__.update(fresh.__dict__)
        self._set_function(state["function"])

    def __repr__(self) -> str:
        return f"<flow {self.name!r}>"


@overload
def flow(function: Callable[..., Any], /) -> Flow: ...


@overload
def flow(
    *,
    name: str | None = None,
    storage: Storing | None = None,
    run_config: Described | None = None,
    result: Described | None = None,
    labels: Iterable[str] = (),
    secrets: Iterable[str] = (),
    retries: int = 0,
    retry_delay: float = 0,
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], Flow]: ...


def flow(function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a flow of a function: ``@flow``, or ``@flow(name=..., ...)`` with what :class:`Flow` takes.

    Without ``name`` the flow is called like the function.
    """
    if isinstance(function, str):
        raise TypeError(f"@flow was given the text {function!r}, expected a function; write @flow(name={function!r})")

    def make(function: Callable[..., Any]) -> Flow:
        found = getattr(function, "__name__", None) if name is None else name
        if found is None:
            raise TypeError(f"@flow was given {function!r}, which has no name; write @flow(name=...)")
        return Flow(found, function, **options)

    return make if function is None else make(function)
