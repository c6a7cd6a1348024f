"""The launcher of ECS: the contract, and what ECS and CloudWatch show, against moto and the stand-in before it."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from flow_agent import events, retry
from flow_agent.errors import CloudError, LaunchError, ResultError
from flow_agent.launchers import ecs_tasks
from flow_agent.launchers.ecs import ECSLauncher, open_launcher
from flow_agent.model import LaunchSpec, Reason, Registration
from flow_agent.objects import aws
from flow_agent.objects.pool import clients
from flow_agent.testing import launcher_contract as flows
from flow_agent.testing.launcher_contract import Launch, Launched, LauncherContract
from servers.ecs import GROUP, REGION, Ecs
from task_flows import returns_length, writes_much

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"
ROLE = "arn:aws:iam::123456789012:role/"


class Attempts:
    """Creates attempts of one launcher, each with a run of its own."""

    def __init__(self, launcher: ECSLauncher, ecs: Ecs) -> None:
        self.launcher, self.ecs = launcher, ecs

    def spec(
        self,
        function: Callable[..., Any],
        *,
        secrets: Any = (),
        given: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        **container: Any,
    ) -> LaunchSpec:
        """The launch spec of ``function``, which lies in a module of the image."""
        for number, value in enumerate(secrets):
            self.ecs.secrets[f"{ARN}S{number}"] = value
        registration = Registration(
            flow=function.__name__,
            kind="module",
            storage={"type": "Module", "module": f"{function.__module__}:{function.__name__}"},
            location={"module": function.__module__, "host": "", "source": None},
            secrets=tuple(f"S{number}" for number in range(len(secrets))),
            result=result,
        )
        return LaunchSpec(
            run_id=uuid.uuid4().hex[:26],
            flow=function.__name__,
            claim=1,
            attempt=1,
            folder="",
            payload={},
            parameters=given or {},
            deadline=0.0,
            grace=1.0,
            container=container,
            registration=registration,
        )

    async def __call__(self, function: Callable[..., Any], *, go: bool = True, **options: Any) -> Launched:
        """An attempt of ``function``; see ``spec``."""
        ref = await self.launcher.create(self.spec(function, **options))
        if go:
            await self.launcher.go(ref)
        return Launched(self.launcher, ref)


@asynccontextmanager
async def attempts_of(ecs: Ecs, **options: Any) -> AsyncIterator[Attempts]:
    given = {
        "region": REGION,
        "endpoint": ecs.url,
        "cluster": "flows",
        "image": "flow-agent:test",
        "log_group": GROUP,
        "subnets": (ecs.subnet(),),
        "secrets": {f"S{number}": f"{ARN}S{number}" for number in range(3)},
        "fetch_for": 10.0,
        **options,
    }
    async with clients(), open_launcher(Path("/nonexistent"), "test", given) as launcher:
        yield Attempts(launcher, ecs)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, ecs: Ecs) -> None:
    """Looks come sooner, and these are the credentials."""
    for name, value in ecs.environment.items():
        monkeypatch.setenv(name, value)
    for name, seconds in {"LOOK": 0.2, "FIND": 0.1, "FOUND_WITHIN": 1.0, "MISSING": 1.0}.items():
        monkeypatch.setattr(ecs_tasks, name, seconds)
    monkeypatch.setattr("flow_agent.launchers.ecs_follow.SOON", 0.1)
    monkeypatch.setattr("flow_agent.launchers.ecs_follow.BEHIND", 2.0)
    ecs.env["PYTHONPATH"] = str(Path(__file__).parents[1])


@pytest.fixture
async def attempts(ecs: Ecs) -> AsyncIterator[Attempts]:
    async with attempts_of(ecs) as found:
        yield found


@pytest.fixture
def launch(attempts: Attempts) -> Launch:
    async def launch(function, *, go=True, lives=60.0, grace=1.0, secrets=(), **parameters) -> Launched:
        return await attempts(function, go=go, secrets=secrets, given=parameters)

    return launch


class TestECSLauncher(LauncherContract):
    """All of the contract."""

    pytestmark = pytestmark
    starts_within = 20.0
    outlives = True


async def test_a_definition_is_registered_once_and_found_again(ecs: Ecs) -> None:
    for _ in range(2):  # the second launcher has seen nothing of the first
        async with attempts_of(ecs) as attempts:
            for _ in range(3):
                await attempts(flows.prints_and_returns, go=False)
            await attempts(flows.prints_and_returns, go=False, cpu="512")
    assert ecs.calls["RegisterTaskDefinition"] == 2
    assert len(ecs.ask("ecs.ListTaskDefinitions")["taskDefinitionArns"]) == 2


async def test_a_lost_answer_a_full_cluster_and_a_busy_service_start_one_task(ecs: Ecs, attempts: Attempts) -> None:
    ecs.faults["RunTask"] = [
        (400, "ThrottlingException", "Rate exceeded"),
        {"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY", "arn": "a"}]},
        {"tasks": [], "failures": [{"reason": "Capacity is unavailable at this time. Please try again later"}]},
        (500, "ServerException", "Service Unavailable"),
        "lost",
    ]
    attempt = await attempts(flows.prints_and_returns)
    ending = await attempt.end(within=60)
    assert (ending.code, attempt.texts) == (0, ["one", "two"])
    assert ecs.calls["RunTask"] == 6
    assert len(ecs.tasks) == 1


async def test_no_room_in_time_is_told_with_the_words_of_ecs(ecs: Ecs) -> None:
    ecs.faults["RunTask"] = [{"tasks": [], "failures": [{"reason": "RESOURCE:CPU", "arn": "a"}]}] * 200
    async with attempts_of(ecs, pending=1.0) as attempts:
        attempt = await attempts(flows.prints_and_returns)
        with pytest.raises(LaunchError, match=r"no room was found within 1 s \(ecs.pending\).*RESOURCE:CPU"):
            await attempt.end()


async def test_what_ecs_refuses_is_told_at_once(ecs: Ecs, attempts: Attempts) -> None:
    ecs.faults["RunTask"] = [(400, "AccessDeniedException", "User is not authorized to perform: ecs:RunTask")]
    attempt = await attempts(flows.prints_and_returns)
    with pytest.raises(LaunchError, match=r"it was refused: .*not authorized") as caught:
        await attempt.end()
    assert "iam:PassRole" in (caught.value.hint or "")


PULL = "CannotPullContainerError: pull image manifest has been retried 5 time(s): not found"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            {"unstarted": True, "told": {"stopCode": "TaskFailedToStart", "stoppedReason": PULL}},
            "could not be pulled: Can",
        ),
        (
            {
                "unstarted": True,
                "told": {
                    "stopCode": "TaskFailedToStart",
                    "stoppedReason": "ResourceInitializationError: unable to pull secrets: AccessDenied",
                },
            },
            "could not be prepared: ResourceInit",
        ),
        (
            {"unstarted": True, "told": {"stopCode": "TaskFailedToStart", "stoppedReason": "Capacity is unavailable"}},
            "no capacity for its task",
        ),
        ({"code": 125}, "what prepares the flow in its container failed"),
    ],
)
async def test_why_a_flow_never_began_is_told_apart(
    ecs: Ecs, attempts: Attempts, script: dict[str, Any], words: str
) -> None:
    ecs.script = script
    attempt = await attempts(flows.prints_and_returns)
    with pytest.raises(LaunchError, match=words):
        await attempt.end()


async def test_flow_agent_is_brought_to_an_image_that_has_only_python(ecs: Ecs, tmp_path: Path) -> None:
    (tmp_path / "plain_flow.py").write_text(
        "import importlib.util\ndef adds(a, b=1):\n    print(importlib.util.find_spec('anyio'))\n    return a + b\n"
    )
    ecs.env["PYTHONPATH"] = str(tmp_path)
    async with attempts_of(ecs, agent_image="flow-agent:test") as attempts:
        spec = attempts.spec(flows.prints_and_returns)
        assert spec.registration is not None
        storage = {"type": "Module", "module": "plain_flow:adds"}
        registration = replace(spec.registration, flow="adds", storage=storage)
        given = {"registration": registration, "parameters": {"a": 41}, "image": "python:3.12-slim"}
        ref = await attempts.launcher.create(replace(spec, **given))
        await attempts.launcher.go(ref)
        attempt = Launched(attempts.launcher, ref)
        ending = await attempt.end(within=120)
    assert (ending.code, ending.stored) == (0, {"result": {"inline": 42}}), (ending, attempt.texts)
    assert attempt.texts == ["None"]  # what was brought is for us, and no package of the flow's


async def test_a_task_for_which_room_was_lacking_may_be_another_attempt(ecs: Ecs, attempts: Attempts) -> None:
    ecs.script = {
        "unstarted": True,
        "told": {"stopCode": "TaskFailedToStart", "stoppedReason": "Capacity is unavailable"},
    }
    attempt = await attempts(flows.prints_and_returns)
    with pytest.raises(LaunchError) as caught:
        await attempt.end()
    assert (caught.value.transient, caught.value.reason) == (False, Reason.AGENT_LOST)


async def test_how_a_task_ended_is_told_apart(ecs: Ecs, attempts: Attempts) -> None:
    async def ending(**script: Any) -> Any:
        ecs.script = script
        return await (await attempts(flows.prints_and_returns)).end()

    memory = await ending(code=137, reason="OutOfMemoryError: Container killed due to memory usage")
    assert "ran out of its memory: OutOfMemoryError" in memory.memory
    by_hand = await ending(code=143, told={"stopCode": "UserInitiated", "stoppedReason": "Ada wanted it"})
    assert "stopped by somebody other than its agent: Ada wanted it" in by_hand.lost
    spot = await ending(
        code=137, told={"stopCode": "SpotInterruption", "stoppedReason": "Your Spot Task was interrupted."}
    )
    assert "interrupted, as spot capacity is" in spot.lost
    wordless = await ending(code=3)
    assert "ended without a word of what it started (exit code 3; Essential container exited)" in wordless.lost


async def test_a_task_that_does_not_start_is_given_up(ecs: Ecs) -> None:
    ecs.script = {"status": "PROVISIONING"}
    async with attempts_of(ecs, pending=1.0) as attempts:
        attempt = await attempts(flows.prints_and_returns)
        with pytest.raises(LaunchError, match=r"did not start within 1 s \(ecs.pending\): it is PROVISIONING"):
            await attempt.end()
    assert ecs.calls["StopTask"] == 1


async def test_long_lines_and_many_come_whole_and_once_with_a_log_that_is_busy(ecs: Ecs, attempts: Attempts) -> None:
    ecs.faults["GetLogEvents"] = [(400, "ThrottlingException", "Rate exceeded"), "lost"] * 3
    attempt = await attempts(writes_much, given={"lines": 60, "width": 40_000})
    ending = await attempt.end(within=120)
    assert ending.code == 0
    assert attempt.texts == [f"{number} {'x' * 40_000}" for number in range(60)]


async def test_another_agent_goes_on_where_the_first_one_was(ecs: Ecs) -> None:
    async with attempts_of(ecs) as first:
        attempt = await first(flows.sleeps, given={"seconds": 3.0})
        with anyio.move_on_after(60) as scope:

            async def sink(lines: Any) -> None:
                await attempt.sink(lines)
                scope.cancel()

            await first.launcher.wait(attempt.ref, sink, attempt=1)
        first.launcher.hand_over(attempt.ref)
    async with attempts_of(ecs) as second:
        assert second.launcher.scope == first.launcher.scope == "123456789012/eu-west-1/flows"
        later = Launched(second.launcher, attempt.ref)
        with anyio.fail_after(60):
            ending = await second.launcher.wait(attempt.ref, later.sink, attempt=1, after=1)
    assert (ending.code, attempt.texts, later.texts) == (0, ["asleep"], [])
    assert len(ecs.tasks) == 1


async def test_an_attempt_whose_task_was_never_started_is_lost_and_not_started_again(ecs: Ecs) -> None:
    async with attempts_of(ecs) as first:
        attempt = await first(flows.prints_and_returns, go=False)
    async with attempts_of(ecs) as second:
        await second.launcher.go(attempt.ref)
        ending = await Launched(second.launcher, attempt.ref).end()
    assert "either none was started" in (ending.lost or "")
    assert ecs.calls.get("RunTask", 0) == 0


async def test_without_a_log_group_the_exit_code_tells(ecs: Ecs) -> None:
    async with attempts_of(ecs, log_group="") as attempts:
        good = await attempts(flows.prints_and_returns)
        ending = await good.end(within=60)
        assert ending.receipt == {"ok": True}
        assert ["no log group is configured" in text for text in good.texts] == [True]
        bad = await attempts(flows.exits, given={"code": 7})
        assert (await bad.end(within=60)).code == 7


async def test_large_parameters_travel_through_the_result_store(ecs: Ecs, attempts: Attempts, tmp_path: Path) -> None:
    text = "".join(uuid.uuid4().hex for _ in range(1_000))  # no packing makes it small
    with pytest.raises(LaunchError, match="ECS takes 8192 in all") as caught:
        await attempts(returns_length, given={"text": text})
    assert "result store" in (caught.value.hint or "")
    store = {"type": "LocalResult", "dir": str(tmp_path / "results"), "location": "{flow}/{run_id}/{attempt}"}
    attempt = await attempts(returns_length, given={"text": text}, result=store)
    ending = await attempt.end(within=60)
    assert ending.code == 0, (ending, attempt.texts)
    ((request, *_),) = [list((tmp_path / "results").rglob("*.orders"))]
    assert text in request.read_text()
    assert text[:64] not in str(ecs.tokens)
    results = [path for path in (tmp_path / "results").rglob("*") if path.is_file() and path != request]
    await attempts.launcher.remove(attempt.ref)
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == results != []
    await attempts.launcher.remove(attempt.ref)


async def test_large_orders_are_removed_by_whoever_saw_the_end(ecs: Ecs, tmp_path: Path) -> None:
    text = "".join(uuid.uuid4().hex for _ in range(1_000))
    store = {"type": "LocalResult", "dir": str(tmp_path / "results"), "location": "{flow}/{run_id}/{attempt}"}
    async with attempts_of(ecs) as first:
        attempt = await first(returns_length, given={"text": text}, result=store)
        first.launcher.hand_over(attempt.ref)
        assert len(list((tmp_path / "results").rglob("*.orders"))) == 1
    async with attempts_of(ecs) as second:
        assert (await Launched(second.launcher, attempt.ref).end(within=60)).code == 0
        await second.launcher.remove(attempt.ref)
    assert list((tmp_path / "results").rglob("*.orders")) == []


async def test_secrets_are_arns_and_one_without_is_refused(ecs: Ecs) -> None:
    async with attempts_of(ecs, secrets={"S0": "hunter2"}) as attempts:
        with pytest.raises(LaunchError, match="by an ARN of Secrets Manager or SSM only") as caught:
            await attempts(flows.prints_and_returns, secrets=("value-of-it",))
        assert caught.value.reason is Reason.SECRET_NOT_FOUND
        assert "value-of-it" not in str(caught.value)
    async with attempts_of(ecs) as attempts:
        await (await attempts(flows.prints_and_returns, secrets=("value-of-it",))).end(within=60)
    assert b"value-of-it" not in b"".join(ecs.tokens.values())


@pytest.mark.parametrize(
    ("asked", "wish"),
    [
        ({"task_role_arn": f"{ROLE}admin"}, f"task_role:{ROLE}admin"),
        ({"execution_role_arn": f"{ROLE}admin"}, f"execution_role:{ROLE}admin"),
        ({"task_definition": {"taskRoleArn": f"{ROLE}admin"}}, f"task_role:{ROLE}admin"),
        ({"cluster": "others"}, "cluster:others"),
        ({"network": {"subnets": ["subnet-1"]}}, "network"),
        ({"run_task_kwargs": {"enableExecuteCommand": True}}, "run_task_kwargs:enableExecuteCommand"),
        ({"task_definition_arn": "arn:aws:ecs:eu-west-1:1:task-definition/x:1"}, "task_definition_arn:arn:aws:ecs"),
        ({"task_definition": {"volumes": [{"name": "a", "host": {"sourcePath": "/"}}]}}, "task_definition:volumes"),
        (
            {"task_definition": {"containerDefinitions": [{"privileged": True}]}},
            "task_definition:containerDefinitions.privileged",
        ),
        (
            {"task_definition": {"containerDefinitions": [{"secrets": [{"name": "A", "valueFrom": ARN}]}]}},
            "task_definition:containerDefinitions.secrets",
        ),
    ],
)
async def test_what_reaches_beyond_the_container_is_refused_unless_named(
    ecs: Ecs, attempts: Attempts, asked: dict[str, Any], wish: str
) -> None:
    with pytest.raises(LaunchError, match=r"ecs\.allow of this agent does not name that") as caught:
        await attempts(flows.prints_and_returns, go=False, **asked)
    assert caught.value.reason is Reason.NOT_ALLOWED
    assert f"asks for {wish}" in str(caught.value)
    if "task_definition_arn" in asked or asked.get("cluster"):
        return
    async with attempts_of(ecs, allow=(wish.partition(":")[0],)) as allowed:
        await allowed(flows.prints_and_returns, go=False, **asked)


async def test_without_credentials_the_launcher_says_so(ecs: Ecs) -> None:
    ecs.faults["sts"] = [(403, "InvalidClientTokenId", "The security token included in the request is invalid")]
    with pytest.raises(CloudError, match="asking AWS whose credentials these are"):
        async with attempts_of(ecs):
            pass


DENIED = (400, "AccessDeniedException", "User is not authorized to do this")


async def test_a_log_that_may_not_be_read_for_a_while_is_waited_for_and_that_is_told_once(
    ecs: Ecs, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(events, "cloud_waits", lambda what, wait, error: told.append(str(error)))
    ecs.faults["GetLogEvents"] = [DENIED] * 4
    attempt = await attempts(flows.prints_and_returns)
    ending = await attempt.end(within=60)
    assert (ending.code, attempt.texts) == (0, ["one", "two"])
    assert len([each for each in told if "not authorized" in each]) == 1


async def test_a_log_that_may_never_be_read_leaves_the_exit_code_and_says_that_lines_are_missing(
    ecs: Ecs, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow_agent.launchers.ecs_follow.UNREAD", 1.0)
    ecs.faults["GetLogEvents"] = [DENIED] * 1_000
    good = await attempts(flows.prints_and_returns)
    ending = await good.end(within=60)
    assert (ending.receipt, ending.stored) == ({"ok": True}, {"result": None})
    assert ["lines are missing here: the log of its task cannot be read" in text for text in good.texts] == [True]
    bad = await (await attempts(flows.exits, given={"code": 7})).end(within=60)
    assert (bad.code, bad.lost) == (7, None)
    assert "not authorized" in bad.tail


async def test_a_task_that_may_not_be_looked_at_is_waited_for_and_that_is_told_once(
    ecs: Ecs, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(events, "cloud_waits", lambda what, wait, error: told.append((what, str(error))))
    monkeypatch.setattr(retry, "REFUSED_AGAIN", 0.5)
    async with attempts_of(ecs) as first:
        attempt = await first(flows.sleeps, given={"seconds": 2.0})
        first.launcher.hand_over(attempt.ref)
    for action in ("ListTasks", "DescribeTasks", "DescribeTaskDefinition"):
        ecs.faults[action] = [DENIED] * 2
    async with attempts_of(ecs) as second:
        ending = await Launched(second.launcher, attempt.ref).end(within=60)
        assert ending.code == 0
        ecs.faults["DescribeTasks"] = [DENIED] * 5
        assert (await (await second(flows.prints_and_returns)).end(within=60)).code == 0
    assert len([what for what, error in told if "not authorized" in error and what.startswith("tasks in")]) == 1
    assert len([what for what, error in told if "not authorized" in error and what == attempt.ref]) <= 3


async def test_keys_that_were_changed_while_the_agent_lives_are_looked_for_again(
    ecs: Ecs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setattr(retry, "REFUSED_AGAIN", 0.5)
    monkeypatch.setattr(aws, "_sessions", {})
    file.write_text("[default]\naws_access_key_id = AKIAOLD\naws_secret_access_key = old\n")
    async with attempts_of(ecs) as attempts:
        attempt = await attempts(flows.sleeps, given={"seconds": 3.0})
        assert ecs.signer == "AKIAOLD"
        file.write_text("[default]\naws_access_key_id = AKIANEW\naws_secret_access_key = new\n")
        unknown = (400, "UnrecognizedClientException", "The security token included in the request is invalid.")
        for action in ("DescribeTasks", "GetLogEvents"):
            ecs.faults[action] = [unknown]
        assert (await attempt.end(within=60)).code == 0
        assert ecs.signer == "AKIANEW"


async def test_a_task_whose_definition_was_deregistered_is_followed_all_the_same(ecs: Ecs) -> None:
    async with attempts_of(ecs) as first:
        attempt = await first(flows.sleeps, given={"seconds": 2.0})
        first.launcher.hand_over(attempt.ref)
    (arn,) = ecs.ask("ecs.ListTaskDefinitions")["taskDefinitionArns"]
    ecs.ask("ecs.DeregisterTaskDefinition", taskDefinition=arn)
    async with attempts_of(ecs) as second:
        later = Launched(second.launcher, attempt.ref)
        ending = await later.end(within=60)
    assert (ending.code, later.texts) == (0, ["asleep"])


async def test_a_task_that_may_not_be_looked_at_is_not_given_up_for_not_starting(ecs: Ecs) -> None:
    ecs.faults["DescribeTasks"] = [DENIED] * 12
    async with attempts_of(ecs, pending=1.0) as attempts:
        attempt = await attempts(flows.prints_and_returns)
        ending = await attempt.end(within=60)
    assert (ending.code, attempt.texts) == (0, ["one", "two"])


async def test_a_task_whose_cluster_is_gone_is_lost(ecs: Ecs, attempts: Attempts) -> None:
    ecs.script = {"status": "RUNNING"}
    attempt = await attempts(flows.prints_and_returns)
    ecs.faults["DescribeTasks"] = [(400, "ClusterNotFoundException", "Cluster not found.")] * 1_000
    assert "ECS knows nothing of its task any more" in ((await attempt.end(within=60)).lost or "")


async def test_the_log_driver_is_told_to_drop_nothing(ecs: Ecs) -> None:
    own = {"logDriver": "awslogs", "options": {"awslogs-group": GROUP, "awslogs-stream-prefix": "own"}}
    async with attempts_of(ecs, allow=("task_definition",)) as attempts:
        await attempts(flows.prints_and_returns, go=False)
        for options in ({}, {"mode": "non-blocking"}):
            logging = {**own, "options": {**own["options"], **options, "awslogs-region": REGION}}
            given = {"containerDefinitions": [{"logConfiguration": logging}]}
            await attempts(flows.prints_and_returns, go=False, task_definition=given)
    arns = ecs.ask("ecs.ListTaskDefinitions")["taskDefinitionArns"]
    modes = [
        ecs.ask("ecs.DescribeTaskDefinition", taskDefinition=arn)["taskDefinition"]["containerDefinitions"][0][
            "logConfiguration"
        ]["options"]["mode"]
        for arn in arns
    ]
    assert sorted(modes) == ["blocking", "blocking", "non-blocking"]


async def test_a_good_exit_whose_last_word_got_lost_is_a_success_without_a_known_result(
    ecs: Ecs, attempts: Attempts
) -> None:
    ecs.script = {"code": 0}
    good = await attempts(flows.prints_and_returns)
    ending = await good.end(within=60)
    assert (ending.code, ending.receipt, ending.stored, ending.lost) == (0, {"ok": True}, {"result": None}, None)
    assert ["lines are missing here: its last one never came" in text for text in good.texts] == [True]
    ecs.script = {"code": 124}
    ending = await (await attempts(flows.prints_and_returns)).end(within=60)
    assert (ending.code, ending.receipt, ending.lost) == (0, None, None)


async def test_a_good_exit_of_who_knows_what_is_not_taken_for_a_success(ecs: Ecs) -> None:
    logging = {"awslogs-group": GROUP, "awslogs-stream-prefix": "own", "awslogs-region": REGION}
    container = {
        "name": "any",
        "image": "any",
        "memory": 512,
        "logConfiguration": {"logDriver": "awslogs", "options": logging},
    }
    made = ecs.ask("ecs.RegisterTaskDefinition", family="any", containerDefinitions=[container])
    ecs.script = {"code": 0}
    async with attempts_of(ecs, allow=("task_definition_arn",)) as attempts:
        arn = made["taskDefinition"]["taskDefinitionArn"]
        ending = await (await attempts(flows.prints_and_returns, task_definition_arn=arn)).end(within=60)
    assert "ended without a word of what it started (exit code 0" in (ending.lost or "")


async def test_an_attempt_that_found_no_room_is_asked_for_again_by_the_next_agent(ecs: Ecs) -> None:
    full = {"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY", "arn": "a"}]}
    ecs.faults["RunTask"] = [full] * 1_000
    async with attempts_of(ecs) as first:
        attempt = await first(flows.prints_and_returns, go=False)
        async with anyio.create_task_group() as group:
            group.start_soon(first.launcher.go, attempt.ref)
            group.start_soon(attempt.end)
            while ecs.calls.get("RunTask", 0) < 2:
                await anyio.sleep(0.05)
            group.cancel_scope.cancel()
        first.launcher.hand_over(attempt.ref)
        asked = ecs.calls["RunTask"]
    ecs.faults["RunTask"] = [full] * 2
    async with attempts_of(ecs) as second:
        later = Launched(second.launcher, attempt.ref)
        ending = await later.end(within=60)
        await second.launcher.remove(attempt.ref)
    assert (ending.code, ending.lost, later.texts) == (0, None, ["one", "two"])
    assert ecs.calls["RunTask"] == asked + 3
    ((task, _),) = zip(ecs.tasks.values(), [None], strict=True)
    assert task.started_by == attempt.ref.split("/")[1]
    names = ecs.ask("ecs.ListTaskDefinitions", status="ACTIVE")["taskDefinitionArns"]
    assert [name for name in names if "parked" in name] == []


async def test_large_orders_in_a_bucket_are_removed_and_that_they_stay_is_told(
    ecs: Ecs, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"{ecs.moto}/results"
    urllib.request.urlopen(urllib.request.Request(bucket, b"", method="PUT"), timeout=30).close()
    client = {"endpoint_url": ecs.moto, "region_name": REGION}
    store = {"type": "S3Result", "bucket": "results", "client_options": client, "location": "{flow}/{run_id}/{attempt}"}
    text = "".join(uuid.uuid4().hex for _ in range(1_000))

    def there() -> bool:
        with urllib.request.urlopen(f"{bucket}?list-type=2", timeout=30) as answer:
            return b".orders" in answer.read()

    attempt = await attempts(returns_length, go=False, given={"text": text}, result=store)
    assert there()
    await attempts.launcher.remove(attempt.ref)
    assert not there()
    told: list[str] = []
    monkeypatch.setattr(events, "orders_left", lambda ref, location, error: told.append(ref))
    attempt = await attempts(returns_length, go=False, given={"text": text}, result=store)
    monkeypatch.setattr("flow_agent.results.s3.S3Result.remove", refuses)
    await attempts.launcher.remove(attempt.ref)
    assert told == [attempt.ref]


async def refuses(*_: Any) -> None:
    """A store that does not let us remove."""
    raise ResultError("s3://results: 403 AccessDenied", transient=False)


async def test_a_log_in_another_region_is_read_there(ecs: Ecs) -> None:
    logging = {"awslogs-group": GROUP, "awslogs-stream-prefix": "own", "awslogs-region": "eu-central-1"}
    container = {"name": "any", "image": "any", "memory": 512}
    container["logConfiguration"] = {"logDriver": "awslogs", "options": logging}
    made = ecs.ask("ecs.RegisterTaskDefinition", family="any", containerDefinitions=[container])
    async with attempts_of(ecs, allow=("task_definition_arn",)) as attempts:
        arn = made["taskDefinition"]["taskDefinitionArn"]
        attempt = await attempts(flows.prints_and_returns, task_definition_arn=arn)
        ending = await attempt.end(within=60)
    assert (ending.code, attempt.texts) == (0, ["one", "two"])


async def test_how_a_task_ended_that_ecs_has_forgotten_is_read_from_its_log(ecs: Ecs) -> None:
    async with attempts_of(ecs) as first:
        for _ in range(2):  # one beside it, whose log is another
            attempt = await first(flows.prints_and_returns)
            await attempt.end(within=60)
            first.launcher.hand_over(attempt.ref)
    ecs.tasks.clear()
    async with attempts_of(ecs) as second:
        later = Launched(second.launcher, attempt.ref)
        ending = await later.end(within=60)
        assert (ending.code, ending.lost, later.texts) == (0, None, ["one", "two"])
        assert (ending.receipt or {})["ok"] is True
    ecs.faults["FilterLogEvents"] = [DENIED]
    async with attempts_of(ecs) as third:
        ending = await Launched(third.launcher, attempt.ref).end(within=60)
    assert "or that ended over an hour ago, and ECS has forgotten it" in (ending.lost or "")


async def test_what_a_stopped_task_wrote_last_is_read_though_it_comes_late(ecs: Ecs, attempts: Attempts) -> None:
    ecs.faults["GetLogEvents"] = [
        (400, "ResourceNotFoundException", "The specified log stream does not exist.")
    ] * 1_000

    async def stop() -> None:
        while not written():
            await anyio.sleep(0.1)
        await attempts.launcher.stop(attempt.ref, 1.0)
        (task,) = ecs.tasks.values()
        await anyio.to_thread.run_sync(task.over.wait)
        await anyio.sleep(1.0)
        ecs.faults["GetLogEvents"] = []

    def written() -> bool:
        if not ecs.ask("logs.DescribeLogGroups")["logGroups"]:
            return False
        return any(
            "asleep" in each["message"] for each in ecs.ask("logs.FilterLogEvents", logGroupName=GROUP)["events"]
        )

    attempt = await attempts(flows.sleeps)
    async with anyio.create_task_group() as group:
        group.start_soon(stop)
        ending = await attempt.end(within=60)
    assert (ending.ended_by, attempt.texts) == ("stop", ["asleep"])
