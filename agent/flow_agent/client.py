"""The same from Python as from the command line; every call works with an event loop running or not.

Settings are read as the command line reads them, at each call.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from flow_agent import operations
from flow_agent.errors import NotFound, ResultError, RunError
from flow_agent.labels import checked
from flow_agent.model import Json, LogLine, Reason, Registration, Run, State
from flow_agent.ports import Queue
from flow_agent.registration import build_registrations
from flow_agent.resolver import Resolver, opened
from flow_agent.settings import Settings, load

if TYPE_CHECKING:
    from flow_agent.flow import Flow

T = TypeVar("T")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Queue]:
    async with operations.open_queue(settings.queue, **settings.queue_arguments()) as queue:
        yield queue


@contextmanager
def _connected() -> Iterator[tuple[BlockingPortal, Queue]]:
    """An open queue in a loop of its own, in a thread that ends with the block: the caller may have a loop already."""
    settings = load()
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_opened(settings)) as queue:
        yield portal, queue


def _call(operation: Callable[[Queue], Awaitable[T]]) -> T:
    with _connected() as (portal, queue):
        return portal.call(operation, queue)


@asynccontextmanager
async def own_secrets() -> AsyncIterator[Resolver]:
    """Where a program finds secrets when it stores flows or reads results: where an agent here would find them."""
    async with opened(**load().secrets_arguments()) as resolver:
        yield resolver


class Handle:
    """A run that was submitted. Each property and method asks the queue anew."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id

    def run(self) -> Run:
        """Everything that the queue knows of it now."""
        return _call(lambda queue: queue.get(self.id))

    @property
    def state(self) -> State:
        """Where it stands now."""
        return self.run().state

    @property
    def reason(self) -> Reason | None:
        """How it ended, or why it was tried again; None if there is nothing to tell yet."""
        return self.run().reason

    def wait(self, timeout: float | None = None) -> State:
        """The state in which it ended, once it has.

        Raises TimeoutError: it has not within ``timeout`` seconds.
        """
        return _call(lambda queue: operations.wait_run(queue, self.id, timeout)).state

    def logs(self, follow: bool = False) -> Iterator[LogLine]:
        """What it wrote, in order; with ``follow``, as it comes, until it has ended."""
        with _connected() as (portal, queue):
            lines = operations.follow_logs(queue, self.id, follow=follow)
            try:
                while (entry := portal.call(_next, lines)) is not None:
                    yield entry
            finally:
                portal.call(lines.aclose)

    def result(self, timeout: float | None = None, *, unpickle: bool = False) -> Any:
        """What it returned, once it has ended.

        ``unpickle`` allows loading a pickle, which runs code of the flow's author here.

        Raises RunError: it failed or was cancelled; ``reason`` says how. ResultError: the result cannot be read.
        NotFound: nothing was kept. TimeoutError: it has not ended within ``timeout`` seconds.
        """

        async def body(queue: Queue) -> Any:
            run = await operations.wait_run(queue, self.id, timeout)
            if run.state is not State.SUCCEEDED and run.reason is not Reason.RESULT_FAILED:
                raise _failed(run)
            try:
                async with own_secrets() as secrets:
                    return await operations.read_result(run, secrets, unpickle=unpickle)
            except (ResultError, NotFound) as error:
                if run.state is State.SUCCEEDED:
                    raise
                raise _failed(run) from error  # nobody has recovered it

        return _call(body)

    def cancel(self, wait: bool = False) -> State:
        """Cancel it; with ``wait``, return when nothing of it runs any more. An ended run stays as it is."""
        return _call(lambda queue: operations.cancel_run(queue, self.id, wait=wait)).state

    def __repr__(self) -> str:
        return f"<run {self.id}>"


async def _next(lines: AsyncIterator[LogLine]) -> LogLine | None:
    return await anext(lines, None)


def _failed(run: Run) -> RunError:
    how = f" ({run.reason})" if run.reason not in {None, Reason.CANCELLED} else ""
    detail = f": {run.detail}" if run.detail else ""
    state = "was cancelled" if run.state is State.CANCELLED else run.state.value
    error = RunError(f"run {run.id} {state}{how}{detail}", hint=f"`flow-agent logs {run.id}` shows what it wrote")
    if run.reason is not None:
        error.reason = run.reason
    return error


def submit(flow: Flow | str, /, **parameters: Json) -> Handle:
    """Ask for a run of ``flow`` (a flow or its name) with these parameters: ``submit("add", a=1)``.

    Raises NotFound: no flow of that name is registered. ParametersInvalid: the parameters do not fit.
    """
    return _submit(flow, parameters)


def submit_with(
    flow: Flow | str,
    parameters: Mapping[str, Json] | None = None,
    *,
    labels: Iterable[str] = (),
    priority: int = 0,
    key: str | None = None,
    at: datetime | float | str | None = None,
) -> Handle:
    """As :func:`submit`, with what else the command line's ``submit`` takes.

    ``at`` is when it is due: a datetime (local time if it has no zone), seconds since the epoch, or what ``--at``
    takes. ``key`` given twice for one flow gives the first run again.

    Raises NotFound, ParametersInvalid; InvalidInput: a label or the time cannot be.
    """
    return _submit(flow, parameters or {}, labels=labels, priority=priority, key=key, at=at)


def _submit(
    flow: Flow | str,
    parameters: Mapping[str, Json],
    *,
    labels: Iterable[str] = (),
    priority: int = 0,
    key: str | None = None,
    at: datetime | float | str | None = None,
) -> Handle:
    due = (
        operations.due_time(at)
        if isinstance(at, datetime)
        else operations.parse_time(at)
        if isinstance(at, str)
        else at
    )
    name = flow if isinstance(flow, str) else flow.name

    async def body(queue: Queue) -> tuple[list[Run], str]:
        return await operations.submit_runs(queue, name, parameters, labels=labels, priority=priority, key=key, at=due)

    runs, warning = _call(body)
    if warning:
        warnings.warn(warning, UserWarning, stacklevel=3)  # the line that submits
    return Handle(runs[0].id)


def handle(run_id: str) -> Handle:
    """The handle of a run that was submitted before; ``run_id`` may be the beginning of an id.

    Raises NotFound: none or several have it.
    """
    return Handle(_call(lambda queue: queue.get(run_id)).id)


def register_flow(flow: Flow, labels: Iterable[str] = ()) -> Registration:
    """Store ``flow`` and make it known to the queue; ``labels`` are added to its own. Gives the registration.

    Raises RegistrationError: it cannot be stored. InvalidInput: a label is none.
    """
    # In this thread: the author's objects may not like another one.
    registrations = build_registrations([flow], labels=tuple(checked(labels)))
    (stored,) = _call(lambda queue: queue.register(registrations))
    return stored
