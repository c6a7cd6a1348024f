"""The image of deploy/Dockerfile, built and run: not as root, as process 1, draining when it is told to end."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from command import unless_all_is_required
from flow_agent.engine.client import Engine
from images import without_further_images
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
NEEDED = (
    "boto3",
    "gcsfs",
    "azure.identity",
    "azure.keyvault.secrets",
    "azure.storage.blob",
    "docker",
    "yaml",
    "psycopg",
)
"""Of each extra something that it brings."""
COMPILED = ("pydantic_core", "grpc", "psycopg_binary")
TOOLS = ("sh", "mkdir", "chown", "chmod")
FLOWS = """
import time
from flow_agent import flow

@flow(name="naps")
def naps(seconds: float):
    print("napping", flush=True)
    time.sleep(seconds)
    return seconds
"""


def wheels(folder: Path, target: str) -> Path:
    """What the image installs, with what builds it: fetched out here, since the build has no network."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    constraints = ["--constraint", str(ROOT / ".ci/constraints.txt")]
    wanted = [f"{ROOT}[all]" if target == "all" else str(ROOT), "hatchling"]
    done = subprocess.run([*command, *constraints, *wanted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def needed_by(program: str) -> set[str]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {found[1] for found in re.finditer(r"(?:=> )?(/\S+) \(0x", said)}


def additions(wheels: Path) -> bytes:
    """What a base image has beside Python: a shell, some tools, what makes virtual environments; and the wheels."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        libraries: set[str] = set()
        for name in TOOLS:
            program = shutil.which(name)
            assert program is not None
            archive.add(os.path.realpath(program), f"bin/{name}")
            libraries |= needed_by(program)
        for package in COMPILED:  # what wheels expect of any system
            spec = find_spec(package)
            assert spec is not None
            for module in Path(str(spec.origin)).parent.rglob("*.so"):
                libraries |= {each for each in needed_by(str(module)) if "site-packages" not in each}
        for library in sorted(libraries):
            archive.add(os.path.realpath(library), library.lstrip("/"))
        stdlib = Path(sysconfig.get_path("stdlib"))
        archive.add(stdlib / "ensurepip", f"usr/local/lib/{stdlib.name}/ensurepip")
        archive.add(wheels, "wheels")
    return buffer.getvalue()


@contextmanager
def image_of(server: DockerEngine, folder: Path, target: str) -> Iterator[str]:
    """The image that ``target`` of the Dockerfile gives."""
    client = next(
        (name for name in ("/usr/bin/docker", shutil.which("docker")) if name and os.access(name, os.X_OK)), None
    )
    if client is None:
        unless_all_is_required("there is no docker to build with")
    base, name = f"base-of-agent:{target}", f"flow-agent:{target}"
    with without_further_images(server) as engine:
        made = engine.sdk.create_container(IMAGE, ["python3"])["Id"]
        engine.sdk.put_archive(made, "/", additions(wheels(folder, target)))
        # Nobody runs the larger one for long: compiling all of it takes half of its build.
        changes = ["ENV PIP_NO_COMPILE=1"] if target == "all" else None
        engine.sdk.commit(made, *base.split(":"), changes=changes)
        engine.sdk.remove_container(made, v=True)
        command = [str(client), "build", "--file", "deploy/Dockerfile", "--target", target, "--tag", name]
        for argument in (f"BASE={base}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", "PACKAGES="):
            command += ["--build-arg", argument]
        done = subprocess.run(
            [*command, "."],
            cwd=ROOT,
            env={**os.environ, "DOCKER_HOST": server.url, "DOCKER_BUILDKIT": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield name
        engine.sdk.prune_builds(all=True)


@pytest.fixture(scope="module")
def built(docker_engine_server: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with image_of(docker_engine_server, tmp_path_factory.mktemp("wheels"), "small") as name:
        yield name


class Container:
    """An agent in a container of the image, inside all the fences that the page names."""

    def __init__(self, engine: Engine, image: str) -> None:
        self.sdk = engine.sdk
        host = self.sdk.create_host_config(
            read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"], security_opt=["no-new-privileges"]
        )
        self.id = self.sdk.create_container(image, ["start", "--limit", "2"], host_config=host)["Id"]
        self.sdk.start(self.id)

    def __call__(self, *command: str) -> str:
        made = self.sdk.exec_create(self.id, list(command), stderr=True)["Id"]
        said: str = self.sdk.exec_start(made).decode()
        assert self.sdk.exec_inspect(made)["ExitCode"] == 0, said + self._crashes()
        return said

    def _crashes(self) -> str:
        show = "import pathlib; print(*(each.read_text() for each in pathlib.Path('crashes').glob('*')))"
        made = self.sdk.exec_create(self.id, ["python3", "-c", show], stderr=True)["Id"]
        return str(self.sdk.exec_start(made).decode())

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log()
            time.sleep(0.2)

    def state(self, run: str) -> str:
        return str(json.loads(self("flow-agent", "show", run, "--json"))["state"])

    def log(self) -> str:
        return str(self.sdk.logs(self.id).decode())


@pytest.fixture
def container(docker_engine: DockerEngine, built: str) -> Iterator[Container]:
    engine = docker_engine.connect()
    started = Container(engine, built)
    yield started
    engine.sdk.remove_container(started.id, force=True, v=True)
    engine.close()


def test_the_agent_of_the_image_is_process_1_of_a_user_without_rights_and_drains(container: Container) -> None:
    assert container("python3", "-c", "import os; print(os.getuid(), os.getgid())").split() == ["10001", "10001"]
    assert "flow-agent" in container("python3", "-c", "print(open('/proc/1/cmdline').read())")
    container("python3", "-c", f"open('flows.py', 'w').write({FLOWS!r})")
    container("flow-agent", "register", "flows.py")
    run = container("flow-agent", "submit", "naps", "-p", "seconds=6").strip()
    container.until(lambda: container.state(run) == "running")
    container.until(lambda: container.sdk.inspect_container(container.id)["State"]["Health"]["Status"] == "healthy")

    (last,) = container("flow-agent", "submit", "naps", "-p", "seconds=4").split()
    container.until(lambda: "napping" in container("flow-agent", "logs", last))
    container.sdk.stop(container.id, timeout=60)

    assert container.sdk.inspect_container(container.id)["State"]["ExitCode"] == 0
    said = [json.loads(line) for line in container.log().splitlines() if line.startswith("{")]
    ended = {each["run"]: each["state"] for each in said if each["event"] == "attempt.ended"}
    assert ended == {run: "succeeded", last: "succeeded"}, container.log()
    assert said[-1]["event"] == "agent.stopped"


@pytest.mark.slow
def test_the_image_with_everything_has_what_each_extra_brings(docker_engine: DockerEngine, tmp_path: Path) -> None:
    with image_of(docker_engine, tmp_path, "all") as image:
        engine = docker_engine.connect()
        script = f"import os, {', '.join(NEEDED)}; print(os.getuid())"
        made = engine.sdk.create_container(image, entrypoint=["python3"], command=["-c", script])["Id"]
        engine.sdk.start(made)
        code = engine.sdk.wait(made)["StatusCode"]
        said = engine.sdk.logs(made).decode()
        engine.sdk.remove_container(made, v=True)
        engine.close()
    assert (code, said) == (0, "10001\n")
