"""The Docker launcher: the contract, and what only a real engine can show."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from containers import Containers, containers
from flow_agent.errors import LaunchError
from flow_agent.launchers.docker import open_launcher
from flow_agent.testing.launcher_contract import (
    Launch,
    Launched,
    LauncherContract,
    prints_and_returns,
    raises,
    sleeps,
)
from images import with_older_python
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE, MINOR, archive_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
async def attempts(tmp_path: Path, docker_engine: DockerEngine) -> AsyncIterator[Containers]:
    async with containers(tmp_path, docker_engine) as found:
        yield found


@pytest.fixture
def launch(attempts: Containers) -> Launch:
    async def launch(function, *, go=True, lives=60.0, grace=1.0, secrets=(), **parameters) -> Launched:
        return await attempts(function, go=go, lives=lives, grace=grace, secrets=secrets, given=parameters)

    return launch


class TestDockerLauncher(LauncherContract):
    """All of the contract."""

    pytestmark = pytestmark
    starts_within = 8.0


def sees() -> dict[str, object]:
    return {
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "argv": [Path(f"/proc/{pid}/cmdline").read_text() for pid in os.listdir("/proc") if pid.isdigit()],
        "stdin": os.readlink("/proc/self/fd/0"),
    }


async def value(attempt: Launched) -> Any:
    ending = await attempt.end()
    assert ending.result is not None, (ending, attempt.texts)
    return json.loads(Path(ending.result).read_text())


async def test_secrets_stand_nowhere_that_others_can_read(attempts: Containers, docker_engine: DockerEngine) -> None:
    planted = "correct horse battery"
    attempt = await attempts(sees, secrets=(planted,), env={"TOKEN": planted, "PLAIN": "yes"}, go=False, given={})
    engine = docker_engine.connect()
    (container,) = engine.sdk.containers()
    known = json.dumps(engine.sdk.inspect_container(container["Id"]))
    top = json.dumps(engine.sdk.top(container["Id"]))
    written = engine.sdk.diff(container["Id"])
    logs = engine.sdk.logs(container["Id"]).decode()
    engine.close()
    assert planted not in known + top + logs
    assert "/flow-agent" not in {change["Path"] for change in written or ()} - {"/flow-agent"}

    await attempts.launcher.go(attempt.ref)
    found = await value(attempt)
    assert (found["env"]["TOKEN"], found["env"]["PLAIN"], found["env"]["OF_IMAGE"]) == (planted, "yes", "yes")
    assert planted not in "".join(found["argv"])
    assert found["stdin"] == "/dev/null"
    assert all(planted not in path.read_text(errors="replace") for path in written_by(attempts, attempt))


def written_by(attempts: Containers, attempt: Launched) -> list[Path]:
    """What the attempt wrote to the disk of the agent, its own return value left out."""
    folder = attempts.root / attempt.ref
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith("result")]


async def test_its_container_is_named_and_labelled(attempts: Containers, docker_engine: DockerEngine) -> None:
    attempt = await attempts(sleeps)
    (container,) = docker_engine.containers()
    assert container["Names"] == ["/flow-run1-1"]
    assert {name: container["Labels"][f"flow-agent.{name}"] for name in ("agent", "run", "claim", "attempt")} == {
        "agent": "test",
        "run": "run1",
        "claim": "1",
        "attempt": "1",
    }
    await attempt.launcher.stop(attempt.ref, 0)
    await attempt.end()


def has_no_writable_place(path: str) -> str:
    try:
        Path(path).write_text("x")
    except OSError as error:
        return str(error.strerror)
    return "written"


async def test_an_image_of_another_user_is_served_too(attempts: Containers) -> None:
    attempt = await attempts(sees, container={"user": "1000:1000"})
    found = await value(attempt)
    assert found["uid"] == 1000


async def test_a_user_of_the_image_who_may_not_write_is_served_too(
    attempts: Containers, docker_engine: DockerEngine
) -> None:
    engine = docker_engine.connect()
    engine.sdk.create_container(IMAGE, ["python3"], name="as-app", user="app")
    engine.sdk.commit("as-app", repository="as-app", tag="1", conf={"User": "app", "WorkingDir": "/home/app"})
    engine.sdk.remove_container("as-app", v=True)
    for _ in range(2):  # the second time it is known
        attempt = await attempts(sees, image="as-app:1")
        found = await value(attempt)
        assert (found["uid"], found["cwd"]) == (1000, "/home/app")
    engine.sdk.remove_image("as-app:1", force=True)
    engine.close()


async def test_a_read_only_container_can_write_to_tmp_alone(attempts: Containers) -> None:
    there = await value(await attempts(has_no_writable_place, container={"read_only": True}, given={"path": "/x"}))
    tmp = await value(await attempts(has_no_writable_place, container={"read_only": True}, given={"path": "/tmp/x"}))
    assert (there, tmp) == ("Read-only file system", "written")


def eats(megabytes: int) -> int:
    print("eating")
    return len([bytearray(1_000_000) for _ in range(megabytes)])


async def test_running_out_of_memory_is_told_as_such(attempts: Containers) -> None:
    attempt = await attempts(eats, container={"memory": 64 * 2**20}, given={"megabytes": 500})
    ending = await attempt.end()
    assert (ending.signal, attempt.texts) == (9, ["eating"])
    assert ending.memory is not None


def returns_much(size: int) -> str:
    return "x" * size


async def test_a_large_return_value_is_fetched_as_a_file(attempts: Containers) -> None:
    attempt = await attempts(returns_much, given={"size": 3_000_000})
    assert len(await value(attempt)) == 3_000_000


def returns_a_secret(pickled: bool) -> Any:
    secret = os.environ["TOKEN"]
    return {secret: {1, 2}} if pickled else [f"so: {secret}"]


@pytest.mark.parametrize("pickled", [False, True])
async def test_a_return_value_that_holds_a_secret_arrives_and_does_not_stand_in_the_log(
    attempts: Containers, docker_engine: DockerEngine, pickled: bool
) -> None:
    planted = 'correct "horse" bättery'
    attempt = await attempts(returns_a_secret, secrets=(planted,), env={"TOKEN": planted}, given={"pickled": pickled})
    ending = await attempt.end()
    engine = docker_engine.connect()
    (container,) = engine.sdk.containers(all=True)
    logs = engine.sdk.logs(container["Id"]).decode()
    engine.close()
    assert "horse" not in logs
    assert '"exit"' in logs
    assert ending.result is not None
    found = Path(ending.result).read_bytes()
    assert (pickle.loads(found) if pickled else json.loads(found)) == (
        {planted: {1, 2}} if pickled else [f"so: {planted}"]
    )


async def test_a_large_payload_is_copied(attempts: Containers) -> None:
    spec = attempts.spec(sees)
    Path(spec.folder, "payload", "large").write_bytes(os.urandom(6_000_000))
    Path(spec.folder, "payload", "link").symlink_to("large")
    ref = await attempts.launcher.create(spec)
    await attempts.launcher.go(ref)
    assert (await Launched(attempts.launcher, ref).end()).code == 0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("without-python:1", "has no Python"),
        ("old-python:1", "has Python 3.8.18, expected 3.11 or newer"),
        ("127.0.0.1:9/not/there:1", "does not answer"),
    ],
)
async def test_an_image_that_will_not_do_is_a_launch_error(
    attempts: Containers, docker_engine: DockerEngine, image: str, words: str
) -> None:
    with pytest.raises(LaunchError, match=words) as raised:
        await attempts(sees, image=image)
    assert raised.value.reason == "launch_failed"
    assert raised.value.transient == ("127" in image)
    assert docker_engine.containers() == []


async def test_a_python_that_is_truly_old_is_told_with_its_version(
    attempts: Containers, docker_engine: DockerEngine
) -> None:
    engine = docker_engine.connect()
    with with_older_python(engine) as (image, version), pytest.raises(LaunchError, match="has Python") as raised:
        await attempts(sees, image=image)
    assert f"has Python {version}, expected 3.11 or newer" in str(raised.value)
    engine.close()


@pytest.mark.parametrize(
    ("asked", "words", "way"),
    [
        ({"user": "nobody-here"}, "unable to find user nobody-here", ""),
        ({"ports": ["99999"]}, "a port is '99999'", ""),
        ({"volumes": ["/data/../etc:/x"]}, "a volume is '/data/../etc:/x'", ""),
        ({"networks": ["bridge", "not-there"]}, "network not-there not found", "docker network create not-there"),
        ({"networks": ["not-there"]}, "network not-there not found", "docker network create not-there"),
        ({"networks": ["none", "bridge"]}, "'none' beside others", ""),
        ({"cpus": 5000}, "Range of CPUs is from 0.01 to ", f"ask for at most {os.cpu_count()}.00"),
        ({"gpus": "all"}, "could not select device driver", "NVIDIA's Container Toolkit"),
        ({"host_config": {"shm_size": "lots"}}, "shm_size is 'lots'", "text as '64m'"),
    ],
)
async def test_what_no_container_can_be_is_told_once(
    tmp_path: Path, docker_engine: DockerEngine, asked: dict[str, Any], words: str, way: str
) -> None:
    allow = ("volumes:/data", "networks", "ports", "gpus", "host_config")
    async with containers(tmp_path, docker_engine, allow=allow) as attempts:
        with pytest.raises(LaunchError) as raised:
            await attempts(sees, container=asked)
    assert (raised.value.transient, words in str(raised.value)) == (False, True), raised.value
    assert way in (raised.value.hint or ""), raised.value.hint
    assert docker_engine.containers() == []


async def test_a_python_that_ends_at_once_is_told_with_its_words(
    attempts: Containers, docker_engine: DockerEngine
) -> None:
    engine = docker_engine.connect()
    engine.sdk.create_container(IMAGE, ["python3"], name="broken")
    script = f"#!/usr/local/bin/{MINOR}\nimport sys\nsys.exit('no such luck')\n"
    engine.sdk.put_archive("broken", "/", archive_of({"usr/local/bin/python3": (script, 0o755)}))
    engine.sdk.commit("broken", repository="broken-python", tag="1")
    engine.sdk.remove_container("broken", v=True)
    with pytest.raises(LaunchError, match="ended before it could start the attempt: no such luck"):
        await attempts(sees, image="broken-python:1")
    assert docker_engine.containers() == []
    engine.sdk.remove_image("broken-python:1", force=True)
    engine.close()


def made(engine: Any, name: str, files: dict[str, tuple[str, int]], base: str = IMAGE, **conf: Any) -> None:
    """An image called ``name`` with further ``files``."""
    container = engine.sdk.create_container(base, ["python3"])["Id"]
    engine.sdk.put_archive(container, "/", archive_of(files))
    engine.sdk.commit(container, *name.split(":"), conf=conf)
    engine.sdk.remove_container(container, v=True)


def shadowed() -> dict[str, Any]:
    return {"path": sys.path, "cwd": os.getcwd(), "hash": os.environ.get("PYTHONHASHSEED"), "seeded": hash("a")}


@pytest.mark.parametrize("variable", [{}, {"PYTHONPATH": "/app"}])
@pytest.mark.parametrize("env", [{}, {"PYTHONUTF8": "1"}])  # what is read at its start needs an interpreter of its own
async def test_modules_in_the_folder_of_an_image_are_those_of_its_flow_alone(
    attempts: Containers, docker_engine: DockerEngine, variable: dict[str, str], env: dict[str, str]
) -> None:
    engine = docker_engine.connect()
    names = ("json", "signal", "select", "fcntl", "contextlib", "base64", "traceback", "urllib", "cloudpickle")
    files = {f"app/{name}.py": ("print('shadow')\n", 0o644) for name in (*names, *(() if variable else ("types",)))}
    given = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONHASHSEED": "7", **variable}
    made(engine, "shadows:1", files, WorkingDir="/app", Env=[f"{name}={value}" for name, value in given.items()])
    try:
        attempt = await attempts(shadowed, image="shadows:1", env=env, secrets=("correct horse battery",))
        found = await value(attempt)
    finally:
        engine.sdk.remove_image("shadows:1", force=True)
        engine.close()
    assert found["cwd"] == "/app"
    assert found["path"].count("/app") == len(variable)
    if variable:
        assert found["path"].index("/app") < found["path"].index(f"/usr/local/lib/{MINOR}")
    assert found["hash"] == "7"


async def test_the_python_of_an_image_may_be_called_otherwise_when_its_name_has_moved(
    attempts: Containers, docker_engine: DockerEngine
) -> None:
    engine = docker_engine.connect()
    for kept, name in (("python", "first"), ("python3", "second")):
        other = {"python": "python3", "python3": "python"}[kept]
        script = f"#!/usr/local/bin/{MINOR}\n"
        files = {f"only/{kept}": (f"{script}import sys; exec(sys.argv[2])\n", 0o755)}
        made(engine, f"moving:{name}", files, Env=["PATH=/only"])
        assert other not in files
    for name in ("first", "second", "first"):
        engine.sdk.tag(f"moving:{name}", "moving", "now")
        assert (await value(await attempts(shadowed, image="moving:now")))["cwd"]
    for name in ("first", "second", "now"):
        engine.sdk.remove_image(f"moving:{name}", force=True)
    engine.close()


async def test_an_image_that_is_not_there_and_not_to_be_pulled(attempts: Containers) -> None:
    with pytest.raises(LaunchError, match="has no image nowhere:1, and pull_policy is 'never'"):
        await attempts(sees, image="nowhere:1", container={"pull_policy": "never"})


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"volumes": ["/etc:/etc:ro"]}, "volumes:/etc"),
        ({"ports": ["8080:80"]}, "ports:8080:80"),
        ({"networks": ["host"]}, "host_network:host"),
        ({"networks": ["other"]}, "networks:other"),
        ({"gpus": "all"}, "gpus"),
        ({"host_config": {"privileged": True}}, "host_config:privileged"),
    ],
)
async def test_what_reaches_into_the_machine_is_refused_unless_it_is_allowed(
    attempts: Containers, docker_engine: DockerEngine, asked: dict[str, Any], named: str
) -> None:
    with pytest.raises(LaunchError, match=f"asks for {named}") as raised:
        await attempts(sees, container=asked)
    assert raised.value.reason == "not_allowed"
    assert docker_engine.containers() == []


def looks_around(path: str) -> list[str]:
    return sorted(os.listdir(path))


async def test_what_is_allowed_is_done(tmp_path: Path, docker_engine: DockerEngine) -> None:
    shared = tmp_path / "shared" / "part"
    shared.mkdir(parents=True)
    (shared / "data").write_text("x")
    allow = (f"volumes:{shared}/", "host_config:shm_size", "host_network", "ports")
    async with containers(tmp_path / "home", docker_engine, allow=allow) as attempts:
        asked = {
            "volumes": [f"{shared}:/data:ro"],
            "host_config": {"shm_size": "10m"},
            "ports": ["127.0.0.1:8099:80"],
        }
        attempt = await attempts(looks_around, container=asked, given={"path": "/data"}, go=False)
        engine = docker_engine.connect()
        (container,) = engine.sdk.containers()
        known = engine.sdk.inspect_container(container["Id"])["HostConfig"]
        engine.close()
        assert known["ShmSize"] == 10 * 2**20
        assert known["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8099"}]}
        await attempts.launcher.go(attempt.ref)
        assert await value(attempt) == ["data"]
        with pytest.raises(LaunchError, match="volumes:/etc"):
            await attempts(sees, container={"volumes": ["/etc:/x"]})


async def test_a_volume_that_somebody_left_behind_is_removed_at_the_next_start(
    attempts: Containers, docker_engine: DockerEngine
) -> None:
    attempt, other = await attempts(sleeps), await attempts(sleeps)
    engine = docker_engine.connect()
    (left,) = [each["Id"] for each in engine.sdk.containers() if each["Labels"]["flow-agent.ref"] == attempt.ref]
    await anyio.to_thread.run_sync(partial(engine.sdk.remove_container, left, force=True))
    engine.close()
    assert (await attempt.end()).lost is not None
    assert len(docker_engine.volumes()) == 2
    await attempts.launcher.adopt({other.ref})
    assert len(docker_engine.volumes()) == 1
    await attempts.launcher.stop(other.ref, 0)
    await other.end()


def leaves_orphans() -> str:
    for _ in range(3):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.05)
            os._exit(0)
    time.sleep(0.5)
    zombies = [pid for pid in os.listdir("/proc") if pid.isdigit() and ") Z" in Path(f"/proc/{pid}/stat").read_text()]
    return f"{len(zombies)} zombies, parent {os.getppid()}"


async def test_orphans_are_collected(attempts: Containers) -> None:
    # Three children of its own are its own to collect.
    assert await value(await attempts(leaves_orphans)) == "3 zombies, parent 1"


def binary_noise() -> None:
    os.write(1, bytes(range(256)) * 300 + b"\nend")


async def test_any_bytes_come_through(attempts: Containers) -> None:
    attempt = await attempts(binary_noise)
    await attempt.end()
    output = (attempts.root / attempt.ref / "output").read_bytes()
    assert output == bytes(range(256)) * 300 + b"\nend"


def counts(until: int) -> int:
    for i in range(until):
        print(i)
        time.sleep(0.02)
    return until


async def test_another_life_goes_on_where_the_first_one_stopped(
    attempts: Containers, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    attempt = await attempts(counts, given={"until": 100})
    other = await attempts(sleeps)
    with anyio.move_on_after(1):
        await attempt.end()
    seen = len(attempt.lines)
    async with open_launcher(tmp_path, "test", {"url": docker_engine.url}) as successor:
        await successor.adopt({attempt.ref})
        assert [found["Labels"]["flow-agent.ref"] for found in docker_engine.containers()] == [attempt.ref]
        await successor.go(attempt.ref) if attempt.ref in successor._deadlines else None
        again = Launched(successor, attempt.ref)
        with anyio.fail_after(60):
            ending = await successor.wait(attempt.ref, again.sink, attempt=1, after=seen)
        await successor.extend(attempt.ref, time.monotonic() + 60)
    assert [*attempt.texts, *again.texts] == [str(i) for i in range(100)]
    assert ending.code == 0
    assert other.ref != attempt.ref


@pytest.mark.parametrize(("keep", "left"), [("never", []), ("failed", ["run2"]), ("always", ["run1", "run2"])])
async def test_containers_are_kept_as_the_setting_says(
    tmp_path: Path, docker_engine: DockerEngine, keep: str, left: list[str]
) -> None:
    async with containers(tmp_path, docker_engine, keep=keep) as attempts:
        for function in (prints_and_returns, raises):
            attempt = await attempts(function)
            await attempt.end()
            await attempts.launcher.remove(attempt.ref)
        await attempts.launcher.adopt(set())  # what is kept survives the next start too
        assert sorted(found["Labels"]["flow-agent.run"] for found in docker_engine.containers()) == left
    docker_engine.clear()


async def test_the_container_of_an_earlier_claim_is_in_nobodys_way(attempts: Containers) -> None:
    first = attempts.spec(prints_and_returns)
    await attempts.launcher.create(first)
    folder = Path(f"{attempts.root}/run1-2")
    Path(first.folder).rename(folder)
    ref = await attempts.launcher.create(replace(first, claim=2, folder=str(folder)))
    await attempts.launcher.go(ref)
    assert (await Launched(attempts.launcher, ref).end()).code == 0


def ends_process_1() -> None:
    os.kill(1, 15)
    time.sleep(30)


async def test_a_flow_that_ends_process_1_may_have_done_it_itself(attempts: Containers) -> None:
    ending = await (await attempts(ends_process_1)).end()
    assert "or by the flow itself" in (ending.lost or "")


async def test_a_container_that_somebody_kills_or_stops_is_lost(
    attempts: Containers, docker_engine: DockerEngine
) -> None:
    engine = docker_engine.connect()
    ends = (
        (engine.sdk.kill, "killed or removed from outside"),
        (partial(engine.sdk.remove_container, force=True, v=True), "removed"),
        (engine.sdk.stop, "by somebody else (`docker stop`)"),
    )
    for end, words in ends:
        attempt = await attempts(sleeps)
        (container,) = engine.sdk.containers()
        await anyio.to_thread.run_sync(end, container["Id"])
        ending = await attempt.end()
        assert ending.lost is not None
        assert words in ending.lost
        await attempts.launcher.remove(attempt.ref)
    engine.close()
