"""Flows in images, from the installed command to a container: registered, submitted, run."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Cli
from images import everything, without_further_images
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE
from servers.registry import PASSWORD, Registry

pytestmark = pytest.mark.timeout(300)

FLOWS = """
from flow_agent import Flow, current_run
from flow_agent.storages import Docker

storage = Docker({registry!r}, base_image={image!r}, local_image=True, image_name={name!r}, registry_secret={secret!r},
    env_vars={{"OF_STORAGE": "yes"}})

def double(n: int = 2):
    import os
    print("doubling", n)
    secrets = []
    try:
        secrets.append(current_run().secret("REGISTRY"))
    except LookupError:
        pass
    return [2 * n, os.environ["OF_STORAGE"], secrets, sorted(name for name in os.environ if "REGISTRY" in name)]

def fails():
    raise ValueError("on purpose")

doubles, failing = Flow("doubles", double, storage=storage), Flow("fails", fails, storage=storage)
"""
SCRIPTS = """
from helper import ANSWER
from flow_agent import flow
from flow_agent.storages import Docker

storage = Docker(base_image={image!r}, local_image=True, stored_as_script=True, root={root!r})

@flow(name="scripted", storage=storage)
def scripted(n: int = 2):
    return [n, ANSWER, __file__]
"""


@pytest.fixture
def cli(cli: Cli, docker_engine: DockerEngine) -> Iterator[Cli]:
    cli.env |= {"DOCKER_HOST": docker_engine.url, "DOCKER_CONFIG": str(cli.folder / "docker")}
    with without_further_images(docker_engine):
        yield cli


def flows(cli: Cli, registry: str | None, *, name: str, secret: str | None = None) -> str:
    text = FLOWS.format(registry=registry, image=IMAGE, name=name, secret=secret)
    return str(cli.write("flows.py", text))


def run_all(cli: Cli) -> None:
    cli("start", "--until-empty", "--launcher", "docker", timeout=200)


def test_flows_of_one_image_run_in_containers_of_it(cli: Cli, registry: Registry) -> None:
    done = cli.run("register", flows(cli, registry.address, name="two"), timeout=200)
    assert done.returncode == 0, done.stderr
    assert "step 1/3: FROM" in done.stderr
    assert f"pushed {registry.address}/two:" in done.stderr
    (good,), (bad,) = cli.submit("doubles", "-p", "n=21"), cli.submit("fails")
    run_all(cli)
    found = cli.show(good)
    assert found["state"] == "succeeded", found
    assert cli.json("result", good)[:2] == [42, "yes"]
    assert found["launcher"] == "docker"
    assert found["revision"].startswith(f"{registry.address}/two@sha256:")
    assert "doubling 21" in cli("logs", good)
    assert (cli.show(bad)["reason"], "on purpose" in cli.show(bad)["detail"]) == ("raised", True)


def test_a_script_in_an_image_finds_what_lies_beside_it(cli: Cli) -> None:
    root = cli.folder / "sources"
    cli.write("sources/helper.py", "ANSWER = 42\n")
    file = cli.write("sources/scripts.py", SCRIPTS.format(image=IMAGE, root=str(root)))
    cli("register", str(file), timeout=200)
    (run,) = cli.submit("scripted", "-p", "n=3")
    run_all(cli)
    assert cli.state(run) == "succeeded", cli.show(run)
    assert cli.json("result", run) == [3, 42, "/opt/flow-agent/flows/scripted/scripts.py"]
    assert cli.show(run)["revision"].startswith("sha256:")


def test_the_agent_pulls_from_a_private_registry_and_the_flow_does_not_see_how(
    cli: Cli, private_registry: Registry
) -> None:
    cli("secrets", "set", "REGISTRY", stdin=private_registry.secret)
    cli("register", flows(cli, private_registry.address, name="private", secret="REGISTRY"), timeout=200)
    (run,) = cli.submit("doubles")
    run_all(cli)
    assert cli.state(run) == "succeeded", cli.show(run)
    assert cli.json("result", run) == [4, "yes", [], []]
    assert PASSWORD not in cli("logs", run) + cli.log() + json.dumps(cli.show(run))


def test_a_version_stays_what_it_was_though_its_tag_moves(
    cli: Cli, registry: Registry, docker_engine: DockerEngine
) -> None:
    text = """
from flow_agent import Flow
from flow_agent.storages import Docker

def {name}():
    return {value}

flow = Flow({name!r}, {name}, storage=Docker({registry!r}, base_image={image!r}, local_image=True, image_name="moving",
    image_tag="latest", pin={pin}))
"""
    given = {"registry": registry.address, "image": IMAGE}
    cli("register", str(cli.write("a.py", text.format(name="stays", value=1, pin=True, **given))), timeout=200)
    cli("register", str(cli.write("b.py", text.format(name="moves", value=1, pin=False, **given))), timeout=200)
    runs = [*cli.submit("stays"), *cli.submit("moves")]
    run_all(cli)
    assert [cli.json("result", run) for run in runs] == [1, 1]
    # The same place in a newer image of the same tag.
    newer = text.format(name="moves", value=2, pin=False, **given)
    cli("register", str(cli.write("c.py", newer)), timeout=200)
    engine = docker_engine.connect()
    runs = [*cli.submit("stays"), *cli.submit("moves")]
    run_all(cli)
    assert [cli.json("result", run) for run in runs] == [1, 2]
    assert cli.show(runs[1])["revision"] == f"{registry.address}/moving:latest"
    engine.close()


def test_an_image_that_is_on_another_engine_only_is_told(cli: Cli, docker_engine: DockerEngine) -> None:
    cli("register", flows(cli, None, name="here-only"), timeout=200)
    engine = docker_engine.connect()
    for image in engine.sdk.images("here-only"):
        engine.sdk.remove_image(image["RepoTags"][0], force=True)
    engine.close()
    (run,) = cli.submit("doubles")
    run_all(cli)
    found = cli.show(run)
    assert found["reason"] == "launch_failed"
    assert "pushed to no registry" in found["detail"]
    assert "registry_url" in found["detail"]


INTERRUPTED = """
import os, time
if os.path.exists("/opt/flow-agent"):
    time.sleep(100)
from flow_agent import Flow
from flow_agent.storages import Docker

command = 'RUN ["python3", "-c", "import time; time.sleep({sleep})"]'
storage = Docker(base_image={image!r}, local_image=True, stored_as_script=True,
    extra_dockerfile_commands=["ENV A={sleep}", command])
flow = Flow("interrupted", storage=storage)
"""


@pytest.mark.parametrize(
    ("until", "sleep", "number"),
    [
        ("loading each flow", 0, signal.SIGINT),
        ("loading each flow", 0, signal.SIGTERM),
        ("step 3", 100, signal.SIGTERM),
    ],
)
def test_who_interrupts_registering_leaves_nothing_behind(
    cli: Cli, docker_engine: DockerEngine, until: str, sleep: int, number: int
) -> None:
    engine = docker_engine.connect()
    before = everything(engine)
    cli.write("slow.py", INTERRUPTED.format(image=IMAGE, sleep=sleep))
    with (cli.folder / "said").open("wb") as said:
        command = subprocess.Popen([cli.command, "register", "slow.py"], env=cli.env, cwd=cli.folder, stderr=said)
    cli.until(lambda: until in (cli.folder / "said").read_text(), 60)
    cli.until(docker_engine.containers, 60)
    time.sleep(1)  # it runs
    command.send_signal(number)
    assert command.wait(60) == 128 + number
    assert "flow-agent: interrupted; " in (cli.folder / "said").read_text()
    assert docker_engine.containers() == []
    assert everything(engine) == before
    engine.close()


def test_what_keeps_a_file_from_being_registered_leaves_no_image(
    cli: Cli, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    text = FLOWS.format(registry=None, image=IMAGE, name="nothing", secret=None)
    bad = (
        f"\nbad = Flow('bad', lambda: 1, storage=Docker(base_image={IMAGE!r}, local_image=True, dockerignore='none'))\n"
    )
    error = cli.run("register", str(cli.write("bad.py", text + bad)), timeout=200)
    assert error.returncode == 1
    assert "dockerignore names" in error.stderr
    engine = docker_engine.connect()
    assert engine.sdk.images("nothing") == []
    engine.close()


def test_a_step_that_fails_is_told_on_the_terminal(cli: Cli) -> None:
    text = f"""
from flow_agent import Flow
from flow_agent.storages import Docker

command = 'RUN ["python3", "-c", "import sys; print(1234); sys.exit(5)"]'
flow = Flow("x", storage=Docker(base_image={IMAGE!r}, local_image=True, extra_dockerfile_commands=[command]))
"""
    done = cli.run("register", str(cli.write("x.py", text)), timeout=200)
    assert done.returncode == 1
    assert "step 2/3" in done.stderr
    assert "ended with exit code 5; its output:\n  1234" in done.stderr
