"""Flows in images, on a real engine and with real registries."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_agent import Flow
from flow_agent.engine.client import Engine
from flow_agent.errors import RegistrationError
from flow_agent.model import Registration
from flow_agent.registration import build_registrations
from flow_agent.registration import discard as discard_registration
from flow_agent.run_configs import LocalRun
from flow_agent.storages import Docker, image_check
from flow_agent.testing.storage_contract import Secrets
from images import everything, names, with_older_python, without_further_images
from servers.docker_engine import DockerEngine
from servers.docker_image import IMAGE, MINOR
from servers.registry import PASSWORD, USER, Registry, registry_running

SCRIPT = """
from flow_agent import flow
from flow_agent.run_configs import LocalRun
from flow_agent.storages import Docker

@flow(name="scripted", storage=Docker(stored_as_script=True))
def scripted(n: int = 2):
    return 2 * n
"""

Make = Callable[..., Docker]


def double(n: int = 2) -> int:
    return 2 * n


def triple(n: int = 3) -> int:
    return 3 * n


@pytest.fixture(autouse=True)
def engine(docker_engine: DockerEngine, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine, and that it has no other images afterwards."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    monkeypatch.setenv("DOCKER_CONFIG", str(own_home / "docker"))
    with without_further_images(docker_engine) as engine:
        yield engine


@pytest.fixture
def make() -> Make:
    """A storage on the base image of the tests; the look into the image is left out where nothing depends on it."""

    def make(**given: Any) -> Docker:
        base = {} if "dockerfile" in given else {"base_image": IMAGE}
        return Docker(**{**base, "local_image": True, "ignore_healthchecks": True, **given})

    return make


def registered(storage: Docker, *runs: Callable[..., Any]) -> Registration:
    (made, *_) = build_registrations([Flow(run.__name__, run, storage=storage) for run in runs or (double,)])
    return made


def failure(storage: Docker, run: Callable[..., Any] = double) -> RegistrationError:
    with pytest.raises(RegistrationError) as caught:
        registered(storage, run)
    return caught.value


def inside(engine: Engine, image: str, *command: str) -> str:
    """What ``command`` writes in a container of ``image``."""
    made = engine.sdk.create_container(image, entrypoint=list(command[:1]), command=list(command[1:]))["Id"]
    try:
        engine.sdk.start(made)
        engine.sdk.wait(made)
        text: str = engine.sdk.logs(made).decode()
        return text
    finally:
        engine.sdk.remove_container(made, force=True, v=True)


def python(engine: Engine, image: str, code: str) -> Any:
    return json.loads(inside(engine, image, "python3", "-c", f"import json, os\nprint(json.dumps({code}))"))


def kept(engine: Engine, image: str) -> str:
    """All that the engine tells of an image, and all bytes of its layers."""
    told = json.dumps([engine.sdk.inspect_image(image), engine.sdk.history(image)])
    with tarfile.open(fileobj=io.BytesIO(b"".join(engine.sdk.get_image(image)))) as archive:
        layers = [archive.extractfile(member) for member in archive if member.isfile() and "layer" in member.name]
        text = b"".join(each.read() for each in layers if each is not None)
    return told + text.decode("latin-1")


# What an image holds


def test_a_pickled_flow_lies_in_an_image_that_is_known_by_its_id(make: Make, engine: Engine) -> None:
    made = registered(make(ignore_healthchecks=False))
    image = engine.sdk.inspect_image(made.location["name"])
    assert (made.kind, made.launcher, made.python) == ("image", "docker", MINOR.removeprefix("python"))
    assert made.location["image"] == f"sha256:{made.digest}" == image["Id"]
    assert made.location["name"].startswith("double:20")
    assert made.location["inside"] == {"kind": "pickle", "path": "/opt/flow-agent/flows/double.flow"}
    assert made.pinned
    assert image["RepoDigests"] == []
    assert (
        inside(engine, made.location["image"], "python3", "/opt/flow-agent/runner.pyz", "image").count('"error"') == 0
    )


@pytest.mark.anyio
async def test_what_is_fetched_is_the_name_of_the_image_and_the_place_in_it(make: Make, tmp_path: Path) -> None:
    storage = make()
    made = registered(storage)
    again = Docker.from_description(made.storage)
    for each in (storage, again):
        found = await each.fetch(made, tmp_path, Secrets({}))
        assert found.payload["image"] == found.revision == f"sha256:{made.digest}"
        assert (found.payload["kind"], found.payload["path"]) == ("pickle", "/opt/flow-agent/flows/double.flow")
        assert found.payload["pull"] == "never"
        assert found.digest == made.digest


def test_one_image_holds_many_flows_also_of_one_slug(make: Make, engine: Engine) -> None:
    storage = make(image_name="team/flows", image_tag="v1")
    flows = [Flow(name, double, storage=storage) for name in ("Daily", "daily", "other")]
    made = build_registrations(flows)
    assert {each.location["name"] for each in made} == {"team/flows:v1"}
    assert [each.location["inside"]["path"].rpartition("/")[2] for each in made] == [
        "daily.flow",
        "daily-2.flow",
        "other.flow",
    ]
    assert len({each.digest for each in made}) == 1


def test_the_name_of_an_image_of_several_flows_is_made_of_theirs(make: Make) -> None:
    assert registered(make(), double, triple).location["name"].startswith("double-triple:20")


def test_a_script_comes_along_with_its_folder(make: Make, engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib/helper.py").write_text("ANSWER = 42\n")
    (folder / "flow.py").write_text("from lib.helper import ANSWER\n" + SCRIPT)
    storage = make(stored_as_script=True, root=folder)
    flow = Flow("scripted", double, storage=storage)
    flow.file = str(folder / "flow.py")
    (made,) = build_registrations([flow])
    place = {"kind": "script", "root": "/opt/flow-agent/flows/scripted", "path": "flow.py", "flow": "scripted"}
    assert made.location["inside"] == place
    assert made.python is None
    found = python(engine, made.location["image"], "sorted(os.listdir('/opt/flow-agent/flows/scripted'))")
    assert found == ["flow.py", "lib"]


def test_a_script_may_be_one_that_the_image_has_from_files(make: Make, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(SCRIPT)
    storage = make(stored_as_script=True, path="/app/flow.py", files={str(tmp_path / "flow.py"): "/app/flow.py"})
    (made,) = build_registrations([Flow("scripted", double, storage=storage)])
    assert made.location["inside"] == {"kind": "script", "root": "/app", "path": "flow.py", "flow": "scripted"}


def test_files_folders_variables_and_commands_get_into_the_image(make: Make, engine: Engine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (data / "inner/a.txt").write_text("a")
    (data / "left.tmp").write_text("b")
    (data / "link").symlink_to("inner/a.txt")
    other = tmp_path / "other/data"
    other.parent.mkdir()
    other.write_text("a file of the same name")
    strange = tmp_path / "a[1] * $HOME 'x'.txt"
    strange.write_text("strange")
    (tmp_path / "ignore").write_text("# comment\n*.tmp\n")
    odd = {"PLAIN": "x", "ODD": """ 'single' "double" $HOME ${HOME} back\\slash # no comment é """}
    made = registered(
        make(
            env_vars=odd,
            files={str(data): "/srv/data folder", str(other): "/srv/other/", str(strange): "/srv/b[2] $HOME 'y'"},
            dockerignore=tmp_path / "ignore",
            extra_dockerfile_commands=["WORKDIR /srv", "USER app"],
        )
    )
    image = made.location["image"]
    assert python(engine, image, "[os.environ['PLAIN'], os.environ['ODD']]") == list(odd.values())
    assert python(engine, image, "sorted(os.listdir('/srv/data folder'))") == ["inner", "link"]
    assert python(engine, image, "open('/srv/data folder/link').read()") == "a"
    assert python(engine, image, "open('/srv/other/data').read()") == "a file of the same name"
    assert python(engine, image, "open('/srv/b[2] $HOME \\'y\\'').read()") == "strange"
    assert python(engine, image, "[os.getcwd(), os.getuid()]") == ["/srv", 1000]


def test_an_own_dockerfile_is_built_in_the_current_folder(
    make: Make, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "wanted.txt").write_text("wanted")
    (folder / "left.txt").write_text("left")
    (folder / ".dockerignore").write_text("left.*\n")
    stages = f"FROM {IMAGE} AS one\nARG WHAT\nENV MADE=$WHAT\nCOPY . /work/\nFROM one\nENV MADE=no\n"
    (folder / "Dockerfile").write_text(f"# escape=`\n{stages}")
    monkeypatch.chdir(folder)
    made = registered(
        make(
            dockerfile="Dockerfile",
            env_vars={"ODD": 'a"`$b\\'},
            build_kwargs={"buildargs": {"WHAT": "here"}, "target": "one"},
        )
    )
    image = made.location["image"]
    assert python(engine, image, "[os.environ['MADE'], os.environ['ODD']]") == ["here", 'a"`$b\\']
    assert python(engine, image, "sorted(os.listdir('/work'))") == ["Dockerfile", "wanted.txt"]
    assert sorted(path.name for path in folder.iterdir()) == [".dockerignore", "Dockerfile", "left.txt", "wanted.txt"]


def test_what_did_not_change_is_not_built_again(
    make: Make, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY . /work/\n")
    monkeypatch.chdir(tmp_path)

    def layers(run: Callable[..., Any]) -> list[str]:
        found: list[str] = engine.sdk.inspect_image(registered(make(dockerfile="Dockerfile"), run).location["image"])[
            "RootFS"
        ]["Layers"]
        return found

    first, same, other = layers(double), layers(double), layers(triple)
    assert first == same
    assert first[:-1] == other[:-1]
    assert first[-1] != other[-1]


# Errors of building


@pytest.mark.parametrize("way", ["base", "dockerfile"])
def test_the_failing_step_and_its_output_are_told_and_nothing_stays(
    way: str, make: Make, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the steps before it, or the whole of the dockerfile, have made images without a name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nENV UNIQUE={way}\n")
    kept = registered(make(extra_dockerfile_commands=["ENV SHARED=1"]))
    before = everything(engine)
    code = "import sys; print('on its way'); sys.exit('this went wrong')"
    command = f"RUN {json.dumps(['python3', '-c', code])}"
    given = {"dockerfile": "Dockerfile"} if way == "dockerfile" else {}
    error = failure(make(extra_dockerfile_commands=["ENV SHARED=1", "ENV A=b", command, "ENV C=d"], **given))
    text = str(error)
    assert "step 4/6, RUN" in text
    assert "ended with exit code 1" in text
    assert "this went wrong" in text
    assert "on its way" in text
    assert everything(engine) == before
    assert engine.sdk.inspect_image(kept.location["image"])


def test_the_output_of_a_failing_step_is_told_without_its_colours(make: Make) -> None:
    code = "print('\\x1b[91mred\\x1b[0m'); [print('\\x1b[0m') for _ in range(60)]; raise SystemExit(1)"
    error = str(failure(make(extra_dockerfile_commands=[f"RUN {json.dumps(['python3', '-c', code])}"])))
    assert error.endswith("its output:\n  red")


def test_a_base_image_without_pip_is_told(make: Make) -> None:
    error = failure(make(python_dependencies=["anything"]))
    assert "No module named pip" in str(error)
    assert "the base image has no pip" in str(error.hint)


def test_an_image_from_scratch_is_told(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    monkeypatch.chdir(tmp_path)
    assert "FROM scratch has nothing in it" in str(failure(make(dockerfile="Dockerfile")).hint)


def test_a_dockerfile_that_is_a_folder_is_told(make: Make, tmp_path: Path) -> None:
    assert f"dockerfile names {tmp_path}, which is a folder, expected a file" in str(failure(make(dockerfile=tmp_path)))


def test_a_flow_that_asks_for_processes_is_refused_before_anything_is_built(
    make: Make, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(engine)
    with pytest.raises(RegistrationError, match="LocalRun starts processes, which cannot see into one") as caught:
        build_registrations([Flow("local", double, storage=make(), run_config=LocalRun())])
    assert "DockerRun()" in str(caught.value.hint)
    assert everything(engine) == before
    assert "step" not in capsys.readouterr().err


def test_a_step_that_is_no_step_is_told(make: Make) -> None:
    assert "unknown instruction: FRMO" in str(failure(make(extra_dockerfile_commands=["FRMO x"])))


def test_a_base_image_that_should_be_here_and_is_not(make: Make) -> None:
    error = failure(make(base_image="no/such:image"))
    assert "no/such:image is not in the engine" in str(error)
    assert "local_image" in str(error.hint)


def test_paths_that_are_not_there_are_named(make: Make, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in str(failure(make(files={str(tmp_path / "none"): "/none"})))
    assert str(tmp_path / "none") in str(failure(make(dockerfile=tmp_path / "none")))
    assert str(tmp_path / "none") in str(failure(make(dockerignore=tmp_path / "none")))


# The look into the image


def test_a_script_that_needs_what_the_image_lacks_is_refused(
    make: Make, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(engine)
    (tmp_path / "flow.py").write_text("import no_such_package_anywhere\n" + SCRIPT)
    files = {str(tmp_path / "flow.py"): "/app/flow.py"}
    storage = make(stored_as_script=True, path="/app/flow.py", files=files, ignore_healthchecks=False)
    error = failure(storage)
    assert "'double' cannot be loaded in the image: No module named 'no_such_package_anywhere'" in str(error)
    assert "python_dependencies=['no_such_package_anywhere']" in str(error.hint)
    assert "flow.py" in capsys.readouterr().err
    assert names(engine) == before

    registered(make(stored_as_script=True, path="/app/flow.py", files=files, ignore_healthchecks=True))


def test_a_script_that_does_not_end_loading_is_ended_with_its_container(
    make: Make, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(engine)
    monkeypatch.setattr(image_check, "WITHIN", 0.0)
    monkeypatch.setattr(image_check, "BEGIN_WITHIN", 6.0)
    (tmp_path / "flow.py").write_text("import time\ntime.sleep(60)\n")
    files = {str(tmp_path / "flow.py"): "/app/flow.py"}
    error = failure(make(stored_as_script=True, path="/app/flow.py", files=files, ignore_healthchecks=False))
    assert "not loaded in the image in time" in str(error)
    assert engine.sdk.containers(all=True) == []
    assert names(engine) == before


def test_modules_of_an_image_that_are_called_as_those_of_python_are_in_nobodys_way(make: Make, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    for name in ("json", "base64", "hashlib", "pathlib", "traceback"):
        (tmp_path / f"app/{name}.py").write_text("")
    files, path = {str(tmp_path / "app"): "/app"}, {"PYTHONPATH": "/app"}
    given = {"files": files, "env_vars": path, "extra_dockerfile_commands": ["WORKDIR /app"]}
    assert registered(make(ignore_healthchecks=False, **given)).kind == "image"


def test_a_path_that_the_image_lacks_is_told(make: Make) -> None:
    assert "there is no file flow.py in /nowhere" in str(
        failure(make(stored_as_script=True, path="/nowhere/flow.py", ignore_healthchecks=False))
    )


def test_an_image_with_an_old_python_is_refused(make: Make, tmp_path: Path) -> None:
    """What stands in for one says that it is old, to whatever it runs."""
    old = tmp_path / "python3"
    old.write_text(
        f"#!/usr/local/bin/{MINOR}\nimport runpy, sys\nsys.version_info = (3, 8, 18, 'final', 0)\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    old.chmod(0o755)
    path = {"PATH": "/old:/usr/local/bin:/usr/bin:/bin"}
    error = failure(make(files={str(old): "/old/python3"}, env_vars=path, ignore_healthchecks=False))
    assert "the image has Python 3.8, expected 3.11 or newer" in str(error)
    assert "newer base image" in str(error.hint)


def test_an_image_whose_python_is_truly_old_is_refused(make: Make, engine: Engine) -> None:
    with with_older_python(engine) as (image, version):
        error = failure(make(base_image=image, ignore_healthchecks=False))
    minor = ".".join(version.split(".")[:2])
    assert f"the image has Python {minor}, expected 3.11 or newer" in str(error)


def test_an_image_without_python_is_refused(make: Make, engine: Engine) -> None:
    before = names(engine)
    error = failure(make(base_image="without-python:1", ignore_healthchecks=False))
    assert "there is neither python3 nor python on its PATH" in str(error)
    assert "3.11" in str(error.hint)
    assert names(engine) == before


# Registries


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_an_image_is_pushed_and_known_by_its_digest_there(
    scheme: str, make: Make, engine: Engine, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(engine)
    made = registered(make(registry_url=f"{scheme}{registry.address}/team", image_name=f"pushed{len(scheme)}"))
    name, _, tag = made.location["name"].rpartition(":")
    digest = registry.digest(f"team/pushed{len(scheme)}", tag)
    assert digest == f"sha256:{made.digest}"
    assert made.location["image"] == f"{name}@{digest}"
    assert names(engine) == before
    engine.sdk.pull(name, tag=digest)
    assert python(engine, made.location["image"], "os.path.isfile('/opt/flow-agent/flows/double.flow')")
    said = capsys.readouterr().err
    assert "step 1/2: FROM" in said
    assert f"pushed {made.location['name']}" in said


def test_the_base_image_is_pulled(make: Make, engine: Engine, registry: Registry) -> None:
    base = f"{registry.address}/base:1"
    engine.sdk.tag(IMAGE, f"{registry.address}/base", "1")
    engine.sdk.push(f"{registry.address}/base", tag="1")
    engine.sdk.remove_image(base)
    registered(make(base_image=base, local_image=False))
    assert base in names(engine)


def test_a_base_image_that_no_registry_has_is_told(make: Make, registry: Registry) -> None:
    error = failure(make(base_image=f"{registry.address}/nothing:1", local_image=False))
    assert "nothing:1" in str(error)
    assert "see that" in str(error.hint)


def test_an_own_dockerfile_begins_with_an_image_of_a_private_registry(
    make: Make, engine: Engine, private_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, auth = f"{private_registry.address}/base:1", {"username": USER, "password": PASSWORD}
    engine.sdk.tag(IMAGE, *base.rsplit(":", 1))
    engine.sdk.push(base, auth_config=auth)
    engine.sdk.remove_image(base)
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGISTRY", private_registry.secret)
    given = {"dockerfile": "Dockerfile", "local_image": False, "registry_url": private_registry.address}
    error = failure(make(**given))
    assert "step 1/1, FROM" in str(error)
    assert "local_image=True" in str(error.hint)
    made = registered(make(**given, registry_secret="REGISTRY"))
    assert PASSWORD not in json.dumps(made.to_json())


def test_who_does_not_pin_runs_what_the_name_means(make: Make, registry: Registry) -> None:
    made = registered(make(registry_url=registry.address, image_name="moves", image_tag="latest", pin=False))
    assert made.digest is None
    assert not made.pinned


@pytest.mark.anyio
async def test_what_is_not_pinned_is_fetched_by_name(make: Make, registry: Registry, tmp_path: Path) -> None:
    storage = make(registry_url=registry.address, image_name="moves", image_tag="latest", pin=False)
    made = registered(storage)
    found = await storage.fetch(made, tmp_path, Secrets({}))
    assert found.payload["image"] == f"{registry.address}/moves:latest"
    assert found.payload["pull"] == "always"


@pytest.mark.parametrize("way", ["login", "secret"])
def test_a_registry_that_wants_a_password_gets_it_and_nobody_else_does(
    way: str,
    make: Make,
    engine: Engine,
    private_registry: Registry,
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = None
    if way == "login":
        (own_home / "docker").mkdir()
        (own_home / "docker/config.json").write_text(private_registry.login)
    else:
        named = "REGISTRY"
        monkeypatch.setenv("REGISTRY", private_registry.secret)
    made = registered(make(registry_url=private_registry.address, image_name=f"by-{way}", registry_secret=named))
    name, _, tag = made.location["name"].rpartition(":")
    assert private_registry.tags(f"by-{way}") == [tag]
    auth = {"username": USER, "password": PASSWORD}
    engine.sdk.pull(name, tag=f"sha256:{made.digest}", auth_config=auth)
    assert PASSWORD not in kept(engine, made.location["image"])
    assert PASSWORD not in json.dumps(made.to_json())
    assert PASSWORD not in capsys.readouterr().err
    assert made.secrets == (() if named is None else (named,))


@pytest.mark.parametrize("wrong", ["none", "password", "shape"])
def test_a_registry_that_refuses_is_told_without_the_password(
    wrong: str,
    make: Make,
    engine: Engine,
    private_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = names(engine)
    values = {
        "none": None,
        "password": json.dumps({"username": USER, "password": f"{PASSWORD}-no"}),
        "shape": json.dumps({"user": USER, "pass": PASSWORD}),
    }
    named = None if wrong == "none" else "REGISTRY"
    if named is not None:
        monkeypatch.setenv("REGISTRY", str(values[wrong]))
    error = failure(make(registry_url=private_registry.address, image_name="refused", registry_secret=named))
    assert PASSWORD not in f"{error}{error.hint}{error.__cause__}{error.__context__}"
    assert private_registry.address in str(error)
    assert {"none": "docker login", "password": "secret REGISTRY", "shape": "expected JSON"}[wrong] in str(error.hint)
    assert names(engine) == before
    assert private_registry.tags("refused") == []
    # Where the registry can be asked, nothing was built for it.
    assert ("step 1" in capsys.readouterr().err) == (wrong == "none")


def test_one_secret_may_hold_the_credentials_of_two_registries(
    make: Make,
    engine: Engine,
    docker_engine: DockerEngine,
    private_registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auth = {"username": USER, "password": PASSWORD}
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path)
    with registry_running(docker_engine, tmp_path / "second", private=True) as second:
        base = f"{second.address}/base:1"
        engine.sdk.tag(IMAGE, *base.rsplit(":", 1))
        engine.sdk.push(base, auth_config=auth)
        (tmp_path / "Dockerfile").write_text(f"FROM {base}\n")
        for name, begin in (("pulled", {"base_image": base}), ("built", {"dockerfile": "Dockerfile"})):
            engine.sdk.remove_image(base)
            given = {**begin, "registry_url": private_registry.address, "image_name": name, "registry_secret": "BOTH"}
            monkeypatch.setenv("BOTH", private_registry.login)
            assert failure(make(**given, local_image=False))
            login = json.loads(private_registry.login)["auths"]
            monkeypatch.setenv("BOTH", json.dumps({"auths": {**login, f"http://{second.address}/v2/": auth}}))
            assert registered(make(**given, local_image=False)).location["pushed"]


def test_a_registry_that_is_down_is_tried_again_and_then_told(
    make: Make, engine: Engine, docker_engine: DockerEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(engine)
    (tmp_path / "registry").mkdir()
    with registry_running(docker_engine, tmp_path / "registry") as gone:
        pass
    error = failure(make(registry_url=gone.address, image_name="nowhere"))
    assert f"the registry {gone.address} does not answer" in str(error)
    assert "try 2 in" in capsys.readouterr().err
    assert names(engine) == before


# What is left


def test_an_engine_that_is_not_there_is_told(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    error = failure(make())
    assert f"unix://{tmp_path}/none.sock does not answer" in str(error)
    assert "start it" in str(error.hint)


def test_base_url_goes_before_the_environment(
    make: Make, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert registered(make(base_url=docker_engine.url)).kind == "image"


def test_a_registration_that_came_to_nothing_leaves_no_image(make: Make, engine: Engine) -> None:
    before = names(engine)
    storage = make()
    made = registered(storage)
    assert names(engine) != before
    discard_registration(made, Docker.from_description(made.storage))
    assert names(engine) == before


def test_packages_are_installed_with_the_variables_of_the_image(make: Make, engine: Engine, tmp_path: Path) -> None:
    """Without a network: pip, as the base image of this test has it, finds a wheel in the image."""
    import pip

    packages = f"/usr/local/lib/{MINOR}/site-packages"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels)
    site = str(Path(pip.__file__).parent)
    base = registered(
        make(image_name="base-with-pip", image_tag="1", files={site: f"{packages}/pip", str(wheels): "/wheels"})
    )
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "PIP_ROOT_USER_ACTION": "ignore"}
    storage = make(base_image="base-with-pip:1", env_vars=variables, python_dependencies=["answer>=1"])
    made = registered(storage)
    code = "__import__('answer').ANSWER"
    assert python(engine, made.location["image"], code) == 42
    error = failure(make(base_image="base-with-pip:1", env_vars=variables, python_dependencies=["no-such-thing"]))
    assert "No matching distribution found for no-such-thing" in str(error)
    assert base.kind == "image"


def wheel(folder: Path) -> None:
    """A package of one module."""
    import zipfile

    with zipfile.ZipFile(folder / "answer-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("answer.py", "ANSWER = 42\n")
        archive.writestr("answer-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n")
        archive.writestr(
            "answer-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("answer-1.0.dist-info/RECORD", "")
