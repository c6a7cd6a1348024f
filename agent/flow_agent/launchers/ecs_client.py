"""The services of AWS that tasks need, and what their errors mean here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from flow_agent import events, retry
from flow_agent.errors import CloudError, EngineError, SecretNotFound, StoreError
from flow_agent.objects.aws import aws_client
from flow_agent.objects.aws_errors import code, status
from flow_agent.objects.base import ANSWER_WITHIN
from flow_agent.objects.pool import clients

T = TypeVar("T")

BUSY = frozenset(
    {"ServerException", "LimitExceededException", "ServiceUnavailableException", "OperationAbortedException"}
    | {"BlockedException", "UpdateInProgressException", "RequestLimitExceeded", "ThrottlingException"}
)
"""Words of ECS and CloudWatch for what may pass."""
GONE = frozenset({"ClusterNotFoundException"})
"""Words of ECS for a cluster in which nothing can run any more."""
ABSENT = frozenset({"ClientException", "InvalidParameterException"})
"""Words of ECS for a task definition that is not there."""
NEEDS = "the launcher ecs"
HINTS = {
    "ClusterNotFoundException": "see ecs.cluster, and the region",
    "AccessDeniedException": "let the agent's role do ecs:RegisterTaskDefinition, DescribeTaskDefinition,"
    " DeregisterTaskDefinition, RunTask, DescribeTasks, ListTasks, StopTask, logs:GetLogEvents,"
    " FilterLogEvents, and iam:PassRole for the roles of tasks",
    "PlatformUnknownException": "see platformVersion in run_task_kwargs",
}


class Nobody:
    """The agent's own credentials come from its surroundings: a flow's secrets are no business of theirs."""

    async def get(self, name: str) -> str:
        """See ``ports.SecretResolver.get``.

        Raises SecretNotFound.
        """
        raise SecretNotFound(f"secret {name!r} is not used here")


@dataclass(frozen=True, kw_only=True)
class Services:
    """ECS and CloudWatch of one account and region. Each call takes the client that is kept for it: one with new
    credentials, if the last one was told that its own are not known any more."""

    account: str
    region: str
    given: Mapping[str, Any]
    """The options that clients are made with."""

    async def call(self, what: str, method: str, **arguments: Any) -> dict[str, Any]:
        """What ECS answers.

        Raises CloudError: ``transient`` if another try can help.
        """
        return await _asked("ecs", self.given, what, method, arguments)

    async def logged(self, what: str, method: str, *, region: str = "", **arguments: Any) -> dict[str, Any]:
        """What CloudWatch's logs of ``region`` answer; empty is the agent's own.

        Raises CloudError.
        """
        given = self.given if region in {"", self.region} else {**self.given, "region_name": region}
        return await _asked("logs", given, what, method, arguments)


async def patient(call: Callable[[], Awaitable[T]], what: str, lasting: frozenset[str] = GONE) -> T:
    """The answer of ``call``, which looks at what was started, asked again also where it is refused; a refusal is told
    once.

    Raises CloudError: its code is one of ``lasting``.
    """
    told = False

    def refused(error: EngineError) -> bool:
        return isinstance(error, CloudError) and error.code not in lasting

    def on_wait(wait: float, error: BaseException) -> None:
        nonlocal told
        again, told = told, not getattr(error, "transient", True)
        if not (again and told):
            events.cloud_waits(what, wait, error)

    return await retry.reached(call, on_wait, refused=refused)


async def _asked(
    service: str, given: Mapping[str, Any], what: str, method: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        async with aws_client(service, given, Nobody(), needs=NEEDS) as client:
            answer: dict[str, Any] = await client.call(
                what, ANSWER_WITHIN, partial(getattr(client.sdk, method), **arguments)
            )
    except StoreError as error:
        raise _explained(error) from error
    return answer


def _explained(error: StoreError) -> CloudError:
    word = code(error.__cause__)
    asks_for_more = word == "ClientException" and "Too many concurrent attempts" in str(error)
    transient = error.transient or word in BUSY or asks_for_more
    # Hints of the object stores are about objects; without an answer they are about credentials, and true here too.
    hint = HINTS.get(word) or (error.hint if status(error.__cause__) is None else None)
    return CloudError(str(error), transient=transient, code=word, retry_after=error.retry_after, hint=hint)


@asynccontextmanager
async def connected(options: Mapping[str, Any]) -> AsyncGenerator[Services]:
    """The services; ``options`` are the settings below ``ecs``.

    Raises CloudError: boto3 is not there, there are no credentials, or nobody answers.
    """
    given = {"region_name": options.get("region") or None, "endpoint_url": options.get("endpoint") or None}
    made = {name: value for name, value in given.items() if value is not None}
    async with clients():
        who = await _asked("sts", made, "asking AWS whose credentials these are", "get_caller_identity", {})
        try:
            async with aws_client("ecs", made, Nobody(), needs=NEEDS) as ecs:
                region = str(ecs.sdk.meta.region_name)
        except StoreError as error:
            raise _explained(error) from error
        yield Services(account=str(who["Account"]), region=region, given=made)
