"""What an author may say of an image, the text that is built of it, and what registries say."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from flow_agent import Flow
from flow_agent.archive import runner_archive
from flow_agent.engine import registries
from flow_agent.engine.images import Access, walk
from flow_agent.errors import RegistrationError, SecretNotFound
from flow_agent.run_configs import DockerRun, Secret
from flow_agent.storages import Docker, image_context
from flow_agent.storages.dockerfile import default_base, dockerfile
from flow_agent.storages.image_build import address, named
from flow_agent.storages.image_check import judge
from flow_agent.testing.storage_contract import SECRET

TOKEN = "ghp_" + "a1B2c3D4e5" * 4


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"base_image": "a", "dockerfile": "b"}, ValueError, "expected one of them"),
        ({"registry_url": "https://"}, ValueError, "expected a host"),
        ({"registry_url": "reg.example.org/Team"}, ValueError, "small letters"),
        ({"registry_url": 5}, TypeError, "expected text"),
        ({"image_name": "Flows"}, ValueError, "small letters"),
        ({"image_name": "flows:1"}, ValueError, "image_tag"),
        ({"image_tag": ".1"}, ValueError, "128"),
        ({"python_dependencies": "pandas"}, TypeError, r"expected a list: \['pandas'\]"),
        ({"python_dependencies": [""]}, ValueError, "expected text"),
        ({"extra_dockerfile_commands": [1]}, TypeError, "expected text"),
        ({"files": {"a": "b", "c": "/d"}}, ValueError, "files go to 'b', expected absolute paths"),
        ({"files": ["a"]}, TypeError, "expected a dict"),
        ({"env_vars": {"A": 1}}, TypeError, "expected text"),
        ({"env_vars": {"A B": "c"}}, ValueError, "letters"),
        ({"env_vars": {"A": "b\nc"}}, ValueError, "more than one line"),
        ({"env_vars": {"A": Secret("B")}}, TypeError, "DockerRun"),
        ({"build_kwargs": {"tag": "x"}}, ValueError, "expected some of"),
        ({"build_kwargs": {"target": "x"}}, ValueError, "build_kwargs has target"),
        ({"tls_config": 1}, TypeError, "ca_cert"),
        ({"tls_config": {"ca": "x"}}, TypeError, "tls_config has ca"),
        ({"path": "/a.py"}, ValueError, "stored_as_script=True"),
        ({"root": "/a"}, ValueError, "stored_as_script=True"),
        ({"path": "a.py", "stored_as_script": True}, ValueError, "absolute path in the image"),
        ({"path": "/a/../b.py", "stored_as_script": True}, ValueError, "absolute path in the image"),
        ({"path": "/a.py", "root": "/b", "stored_as_script": True}, ValueError, "expected one of them"),
        ({"path": "/", "stored_as_script": True}, ValueError, "absolute path in the image"),
        ({"dockerfile": 5}, TypeError, "expected a path"),
        ({"build_kwargs": [1]}, TypeError, "build_kwargs is of type list, expected a dict"),
        ({"build_kwargs": {1: 2}}, TypeError, "expected a dict of names"),
        ({"build_kwargs": {"buildargs": ["A=b"]}}, TypeError, "buildargs of build_kwargs is of type list"),
        ({"build_kwargs": {"buildargs": []}}, TypeError, "buildargs of build_kwargs is of type list"),
        ({"build_kwargs": {"timeout": 0}}, ValueError, "expected more than 0 seconds"),
        ({"build_kwargs": {"timeout": -1}}, ValueError, "expected more than 0 seconds"),
        ({"build_kwargs": {"timeout": None}}, TypeError, "expected a number of seconds"),
        ({"local_image": "yes"}, TypeError, "local_image is 'yes', expected True or False"),
        ({"ignore_healthchecks": "x"}, TypeError, "ignore_healthchecks is 'x', expected True or False"),
        ({"pin": "x"}, TypeError, "pin is 'x', expected True or False"),
        ({"stored_as_script": 1}, TypeError, "stored_as_script is 1, expected True or False"),
        ({"base_image": "a b"}, ValueError, "base_image is 'a b', expected the name of an image"),
        ({"registry_secret": TOKEN}, ValueError, "not shown"),
    ],
)
def test_arguments_that_do_not_fit_are_told(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Docker(**given)


IMAGES = [
    "python",
    "python:3.12-slim",
    "team/a__b/c--d:X_1.2-y",
    "localhost:5000/a:1",
    "REG.example.org/a",
    "[::1]:5000/a",
    f"reg.example.org/a@sha256:{'0' * 64}",
    f"a:1@sha256:{'a' * 64}",
    f"sha256:{'a' * 64}",
]
NO_IMAGES = ["a b", "A:b", "a@sha256:zz", "a@sha256:00", "a:", "a:.b", "/a", "a/", "-a", "https://a/b", "a//b", "a:b:c"]


@pytest.mark.parametrize("image", IMAGES)
def test_the_names_of_images_are_taken(image: str) -> None:
    assert Docker(base_image=image).base_image == DockerRun(image=image).image == image


@pytest.mark.parametrize("image", NO_IMAGES)
def test_what_cannot_be_the_name_of_an_image_is_told(image: str) -> None:
    for make in (lambda: Docker(base_image=image), lambda: DockerRun(image=image)):
        with pytest.raises(ValueError, match="expected the name of an image"):
            make()


@pytest.mark.parametrize(
    "given",
    [
        {"env_vars": {"A": TOKEN}},
        {"python_dependencies": [f"git+https://user:{SECRET}@example.org/x.git"]},
        {"extra_dockerfile_commands": [f"RUN curl -H 'Authorization: {TOKEN}' x"]},
        {"registry_url": f"user:{SECRET}@example.org"},
        {"build_kwargs": {"buildargs": {"A": TOKEN}}},
        {"base_url": f"tcp://user:{SECRET}@example.org"},
    ],
)
def test_credentials_do_not_get_into_an_image_and_are_not_shown(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"credentials|expected a host") as caught:
        Docker(**given)
    if "registry_url" not in given:
        assert TOKEN not in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "given", [{"env_vars": {"API_TOKEN": "abcdef"}}, {"build_kwargs": {"buildargs": {"API_KEY": "abcdef"}}}]
)
def test_what_only_looks_like_a_credential_is_warned_of(given: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="looks like a credential"):
        Docker(**given)


def test_what_an_author_gave_is_not_changed() -> None:
    dependencies, variables = ["pandas"], {"A": "b"}
    Docker(python_dependencies=dependencies, env_vars=variables)
    assert (dependencies, variables) == (["pandas"], {"A": "b"})


def test_the_name_is_registry_name_and_tag() -> None:
    flow = Flow("Nächtlicher Bericht", lambda: 1)
    assert named(Docker("https://reg.example.org:5000/team/", image_name="a/b", image_tag="1"), [flow]) == (
        "reg.example.org:5000/team/a/b:1"
    )
    name, _, tag = named(Docker(), [flow]).partition(":")
    assert name == "nachtlicher-bericht"
    assert tag.startswith("20")
    assert named(Docker(image_tag="1"), [Flow("🎉", lambda: 1)]).startswith("flow-")


def test_it_describes_itself_without_what_building_needs() -> None:
    storage = Docker("reg.example.org", env_vars={"A": "b"}, files={"a": "/b"}, registry_secret="REG", labels=["eu"])
    said = json.loads(json.dumps(storage.describe()))
    assert said["registry_secret"] == "REG"
    assert said["secrets"] == ["REG"]
    assert "env_vars" not in said
    assert Docker.from_description(said).describe() == said
    assert storage.labels == ("eu",)


@pytest.mark.parametrize("tls", [True, {"ca_cert": "/ca.pem", "client_cert": "/cert.pem", "client_key": "/key.pem"}])
def test_the_engine_s_address_takes_certificates(tls: Any) -> None:
    found = address(Docker(base_url="tcp://engine.example.org:2376", tls_config=tls))
    assert found.url == "tcp://engine.example.org:2376"
    assert found.tls["verify"] is True
    assert found.tls.get("client_cert") == (None if tls is True else ("/cert.pem", "/key.pem"))


# The Dockerfile


def test_what_changes_often_comes_last() -> None:
    text = dockerfile(
        "a",
        variables={"A": 'b "c" $d \\'},
        dependencies=["x>=1", "y; python_version < '4'"],
        files={"files/0/": "/data $a"},
        commands=["RUN b"],
    )
    assert text.splitlines() == [
        "FROM a",
        'ENV A="b \\"c\\" \\$d \\\\"',
        'RUN ["python3", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "x>=1",'
        " \"y; python_version < '4'\"]",
        'COPY ["files/0/", "/data \\\\$a"]',
        "RUN b",
        'COPY ["image/", "/opt/flow-agent/"]',
    ]


def test_the_base_image_has_the_python_that_registers() -> None:
    assert default_base() == f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


# The context


def files_of(buffer: io.BytesIO) -> dict[str, tarfile.TarInfo]:
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        found = {member.name: member for member in archive if member.isfile()}
    assert {member.uid for member in found.values()} == {0}
    return found


def test_a_context_holds_what_is_not_left_out(tmp_path: Path) -> None:
    context, image, data = (tmp_path / name for name in ("context", "image", "data"))
    for folder in (context / "sub", image / "flows", data):
        folder.mkdir(parents=True)
    (context / "sub/wanted").write_text("a")
    (context / "sub/left.log").write_text("b")
    (image / "flows/x.flow").write_text("d")
    (image / "flows/x.flow").chmod(0o600)
    (data / "left.log").write_text("e")
    patterns = image_context.patterns_of("# a comment\n\n**/*.log\n")
    theirs, ours = io.BytesIO(), io.BytesIO()
    image_context.theirs(theirs, "FROM x\n", context, patterns, walk)
    image_context.ours(ours, "FROM x\n", image, {"files/0/data": data}, patterns, walk)
    assert sorted(files_of(theirs)) == [".dockerignore", "Dockerfile.flow-agent", "sub/wanted"]
    found = files_of(ours)
    assert sorted(found) == ["Dockerfile.flow-agent", "image/flows/x.flow"]
    assert found["image/flows/x.flow"].mode == 0o644


# The look into the image


def image_folder(folder: Path, **flow: Any) -> Path:
    folder.mkdir()
    made = runner_archive(folder)
    made.rename(folder / "runner.pyz")
    (folder / "flows.json").write_text(json.dumps({"python": "3.8", "flows": [{"flow": "a", "digest": None, **flow}]}))
    return folder


def looked(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(folder / "runner.pyz"), "image"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_a_pickle_of_another_python_is_told(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a.flow").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    output = looked(image_folder(tmp_path / "i", kind="pickle", path=str(tmp_path / "a.flow"), digest=digest))
    with pytest.raises(RegistrationError, match=r"a pickle runs only on the Python that wrote it, 3\.8"):
        judge(output, lambda _: None)


def test_a_pickle_that_was_changed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.flow").write_bytes(b"x")
    output = looked(image_folder(tmp_path / "i", kind="pickle", path=str(tmp_path / "a.flow"), digest="0" * 64))
    with pytest.raises(RegistrationError, match="is not what was put there"):
        judge(output, lambda _: None)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("x = 1", "there is no flow 'a' in .*/a.py"),
        ("raise KeyError('a thing')", "KeyError: 'a thing'"),
        ("import os; print('bye', flush=True); os._exit(7)", r"exit code 7; it wrote:\n  bye"),
        ("import os; os.kill(os.getpid(), 9)", "loading it was ended by signal 9"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_script_that_cannot_be_loaded_is_told(script: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(script)
    output = looked(image_folder(tmp_path / "i", kind="script", root=str(tmp_path), path="a.py"))
    with pytest.raises(RegistrationError, match=says):
        judge(output, lambda _: None)


def test_a_check_that_did_not_come_to_its_end_is_no_good_sign() -> None:
    with pytest.raises(RegistrationError, match="it could not be told") as caught:
        judge('\nflow-agent-image: {"flow": "a"}\nKilled\n', lambda _: None)
    assert "Killed" in str(caught.value)


def test_what_a_flow_prints_while_it_is_loaded_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print('flow-agent', end='')\ndef a(): pass\n")
    output = looked(image_folder(tmp_path / "i", kind="script", root=str(tmp_path), path="a.py"))
    judge(output, lambda _: None)


# What registries say, and what they are told


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("python", "docker.io"),
        ("team/python:3", "docker.io"),
        ("localhost/a", "localhost"),
        ("localhost:5000/a:1", "localhost:5000"),
        ("reg.example.org/a@sha256:00", "reg.example.org"),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    assert registries.registry_of(image) == registry


@pytest.mark.parametrize(
    ("said", "transient", "missing", "hint"),
    [
        ("no basic auth credentials", False, False, "docker login"),
        ("unauthorized: authentication required", False, False, "docker login"),
        ("denied: requested access to the resource is denied", False, False, "docker login"),
        ("manifest for a/b:1 not found: manifest unknown: manifest unknown", False, True, "is its name"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", True, False, "reaches"),
        ("toomanyrequests: You have reached your pull rate limit", True, False, "reaches"),
        ("received unexpected HTTP status: 503 Service Unavailable", True, False, "reaches"),
        ("Get https://x/v2/: net/http: TLS handshake timeout", True, False, "reaches"),
        ("http: server gave HTTP response to HTTPS client", False, False, "insecure-registries"),
        ("something else", False, False, None),
    ],
)
def test_what_a_registry_says_has_its_meaning(said: str, transient: bool, missing: bool, hint: str | None) -> None:
    error = registries.refused("pulling", said, "reg.example.org/a:1", secret=None)
    assert (error.transient, error.missing) == (transient, missing)
    assert said in str(error)
    assert (hint or "") in (error.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"username": "u", "password": SECRET}),
        json.dumps({"auths": {"reg.example.org": {"auth": base64.b64encode(f"u:{SECRET}".encode()).decode()}}}),
        json.dumps({"auths": {"https://reg.example.org/v1/": {"username": "u", "password": SECRET}}}),
    ],
)
def test_credentials_come_in_the_shapes_that_people_have(text: str) -> None:
    found = registries.credentials("REG", text, "reg.example.org/a:1")
    assert found == {"username": "u", "password": SECRET, "serveraddress": "reg.example.org"}
    access = Access(credentials=found, secret="REG")
    assert access.of("reg.example.org/b:2") == found
    assert access.of("elsewhere.example.org/b:2") is None
    assert access.named("elsewhere.example.org/b:2") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", SECRET, '{"username": "u"}', '{"auths": {"other": {"auth": "dTpw"}}}']
)
def test_a_secret_without_credentials_is_told_and_not_shown(text: str) -> None:
    with pytest.raises(SecretNotFound, match=r"no credentials for the registry reg\.example\.org") as caught:
        registries.credentials("REG", text, "reg.example.org/a:1")
    assert SECRET not in f"{caught.value}{caught.value.hint}"
