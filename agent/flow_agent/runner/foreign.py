"""Flows of other frameworks, run as what they are where their package is installed: Prefect 1, and Prefect 2 and 3.

They are known by the names of their classes: whoever has such an object has its package loaded already.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import inspect

Framework = Literal["prefect1", "prefect"]

_CLASSES: dict[tuple[str, str], Framework] = {
    ("prefect.core.flow", "Flow"): "prefect1",
    ("prefect.flows", "Flow"): "prefect",
}
MOST_TOLD = 3
"""Failed tasks that the reason of an end names."""


class Ended(Exception):
    """A flow ended in a state of its framework; ``reason`` is one of the public reasons."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def framework(value: object) -> Framework | None:
    """Whose flow ``value`` is; None: it is none of another framework."""
    return next(
        (found for kind in type(value).__mro__ if (found := _CLASSES.get((kind.__module__, kind.__name__)))), None
    )


class Callee:
    """A flow of another framework as a function: what a registration asks for its signature. ``target`` is itself."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.__name__ = str(target.name)
        self.__doc__ = getattr(target, "__doc__", None) if framework(target) == "prefect" else None
        self.__signature__ = signature(target)

    def __call__(self, **parameters: Any) -> Any:
        """Run it here; as :func:`run`."""
        return run(self.target, parameters, {}, os.getcwd())


def signature(target: Any) -> inspect.Signature:
    """The parameters that a run of ``target`` may have."""
    import inspect  # 10 ms, where nothing has it ready

    if framework(target) == "prefect":
        return inspect.signature(target.fn)
    found = sorted(target.parameters(), key=lambda parameter: str(parameter.name))
    named = [
        inspect.Parameter(
            parameter.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if parameter.required else parameter.default,
        )
        for parameter in found
        if _can_be_named(parameter.name)
    ]
    if len(named) < len(found):  # Prefect 1 takes any text as a name, Python does not
        named.append(inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(named)


def _can_be_named(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _misfit(target: Any, parameters: Mapping[str, Any]) -> str | None:
    """Why ``target`` cannot have ``parameters``; None: it can."""
    if framework(target) == "prefect":
        import inspect

        try:
            inspect.signature(target.fn).bind(**parameters)
        except TypeError as error:
            return str(error)
        return None
    known = {str(parameter.name): bool(parameter.required) for parameter in target.parameters()}
    if unknown := sorted(parameters.keys() - known.keys()):
        return f"got an unexpected parameter {unknown[0]!r}"
    missing = sorted(name for name, required in known.items() if required and name not in parameters)
    return f"missing a required parameter: {missing[0]!r}" if missing else None


def run(target: Any, parameters: Mapping[str, Any], secrets: Mapping[str, str], folder: str) -> Any:
    """Run ``target`` with its own engine, and give what it returns (Prefect 1: nothing).

    ``secrets`` are the values that it may have by name, ``folder`` is for what the engine keeps meanwhile.

    Raises Ended: it ended in a state that is no success, or does not take the parameters. Whatever user code raises.
    """
    if (why := _misfit(target, parameters)) is not None:
        names = ", ".join(sorted(parameters)) or "none"
        raise Ended("parameters_invalid", f"{why}; the run's parameters: {names}")
    if framework(target) == "prefect1":
        return _run_prefect1(target, parameters, secrets)
    return _run_prefect(target, parameters, folder)


# Prefect 1


def _run_prefect1(flow: Any, parameters: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    import prefect
    from prefect.utilities.configuration import set_temporary_config

    from flow_agent.runner import records

    records.take_over("prefect")
    # Its agents set it: task results go where the flow says.
    given = "PREFECT__FLOWS__CHECKPOINTING" in os.environ
    config = contextlib.nullcontext() if given else set_temporary_config({"flows.checkpointing": True})
    known = {**prefect.context.get("secrets", {}), **secrets}
    with config, prefect.context(secrets=known):
        try:
            state = flow.run(parameters=dict(parameters), run_on_schedule=False)
        except EOFError:
            raise Ended("raised", "a task is paused until somebody approves it, and here is nobody") from None
    if not state.is_successful():
        reason = "cancelled" if type(state).__name__ == "Cancelled" else "raised"
        raise Ended(reason, _told(state))


def _told(state: Any) -> str:
    """The end of a flow of Prefect 1: its message, and what the first failed tasks say."""
    failed = []
    for task, each in state.result.items() if isinstance(state.result, dict) else ():
        if each.is_failed() and type(each).__name__ != "TriggerFailed":
            error = each.result
            text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(each.message)
            failed.append(f"task {task.name!r}: {text[:500]}")
    more = [f"and {len(failed) - MOST_TOLD} more tasks"] if len(failed) > MOST_TOLD else []
    return "; ".join([f"{type(state).__name__}: {state.message}", *sorted(failed)[:MOST_TOLD], *more])


# Prefect 2 and 3


def _run_prefect(flow: Any, parameters: Mapping[str, Any], folder: str) -> Any:
    from flow_agent.runner import records

    records.take_over("prefect")
    with _own_server(folder):
        if getattr(flow, "should_validate_parameters", False):
            try:
                flow.validate_parameters(dict(parameters))
            except Exception as error:
                if type(error).__name__ != "ParameterTypeError":
                    raise
                raise Ended("parameters_invalid", " ".join(str(error).split())) from None
        try:
            value = flow(**parameters)
            return _awaited(value) if isinstance(value, Coroutine) else value
        except BaseException as error:
            if (ended := _state_in(error)) is not None:
                raise ended from None
            raise


def _awaited(value: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    async def flow() -> Any:
        return await value

    return asyncio.run(flow())


def _state_in(error: BaseException) -> Ended | None:
    """The state of Prefect that an exception of its own stands for."""
    if not type(error).__module__.startswith("prefect."):
        return None
    match type(error).__name__:
        case "CancelledRun":
            return Ended("cancelled", f"the flow ended as Cancelled: {error}")
        case "Pause" | "PausedRun":
            return Ended("raised", "the flow is paused until somebody resumes it, and here is nobody")
        case "FailedRun" | "CrashedRun" | "UnfinishedRun":
            return Ended("raised", f"the flow ended as {type(error).__name__.removesuffix('Run')}: {error}")
    return None


@contextlib.contextmanager
def _own_server(folder: str) -> Iterator[None]:
    """Where the settings name no server, Prefect starts one beside the run; its database is the run's own.

    Several on one database meet "database is locked".
    """
    from prefect import settings

    changed: dict[Any, Any] = {}
    if settings.PREFECT_API_URL.value() is None:
        database = f"sqlite+aiosqlite:///{os.path.abspath(folder)}/prefect.db"
        # The second is what Prefect 2 called the first.
        for name, value in (
            ("PREFECT_SERVER_DATABASE_CONNECTION_URL", database),
            ("PREFECT_API_DATABASE_CONNECTION_URL", database),
            ("PREFECT_SERVER_ANALYTICS_ENABLED", False),
            # Its 20 s are too few where several runs begin at one time.
            ("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", 180),
        ):
            known = getattr(settings, name, None)
            if known is not None and name not in os.environ:
                changed[known] = value
    with settings.temporary_settings(changed):
        yield


# Loading


@contextlib.contextmanager
def loading(source: bytes) -> Iterator[None]:
    """While this is open, a script's own calls of Prefect 1's ``flow.run()`` and ``flow.register()`` only warn."""
    context: Callable[..., Any] | None = None
    if b"prefect" in source:
        with contextlib.suppress(ImportError):
            import prefect

            if str(getattr(prefect, "__version__", "")).startswith(("0.", "1.")):
                context = prefect.context
    with context(loading_flow=True) if context is not None else contextlib.nullcontext():
        yield
