"""The local storage: what it writes, what it fetches, what it refuses."""

from __future__ import annotations

import hashlib
import io
import socket
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flow_agent import Flow, LocalResult
from flow_agent.archive import runner_archive
from flow_agent.errors import FetchError, RegistrationError
from flow_agent.model import Reason
from flow_agent.registration import build_registrations
from flow_agent.runner.load import find_flow, load_script
from flow_agent.storages import Local, archives, payload
from flow_agent.testing.storage_contract import Secrets, StorageContract, files_below

pytestmark = pytest.mark.anyio
NONE = Secrets({})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def into(tmp_path):
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path):
    """A folder with a flow that imports what lies beside it."""
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg/__init__.py").write_text("")
    (root / "pkg/helpers.py").write_text("def double(x):\n    return 2 * x\n")
    (root / "pkg/etl.py").write_text(
        "from flow_agent import flow\nfrom .helpers import double\n\n@flow\ndef etl(a=1):\n    return double(a)\n"
    )
    for skipped in ("__pycache__", ".git", "venv"):
        (root / skipped).mkdir()
        (root / skipped / "file").write_text("left out")
    (root / "venv/pyvenv.cfg").write_text("")
    return root


def registered(flow):
    (registration,) = build_registrations([flow])
    return registration


def gone(registration):
    location = {**registration.location, "path": "/nowhere/at-all"}
    return replace(registration, location={**location, "root": None}, flow="gone")


class PayloadIsThere(StorageContract):
    @pytest.fixture
    def storage(self, subject):
        return Local.from_description(registered(subject).storage)

    @pytest.fixture
    def registration(self, subject):
        return registered(subject)

    @pytest.fixture
    def missing(self, registration):
        return gone(registration)

    # The payload must be stored before the contract looks at what changes.
    @pytest.fixture
    def world(self, tmp_path, registration, storage):
        return tmp_path


class TestPickle(PayloadIsThere):
    @pytest.fixture
    def subject(self):
        return Flow("subject", lambda: 42)


class TestOneFile(PayloadIsThere):
    @pytest.fixture
    def subject(self, project):
        return Flow("etl", storage=Local(path=project / "pkg/helpers.py", stored_as_script=True))


class TestFolder(PayloadIsThere):
    @pytest.fixture
    def subject(self, project):
        (project / "link").symlink_to("pkg")
        return Flow("etl", storage=Local(path="pkg/etl.py", root=project, stored_as_script=True))


class TestPinnedFile(PayloadIsThere):
    @pytest.fixture
    def subject(self, project):
        return Flow("etl", storage=Local(path=project / "pkg/helpers.py", stored_as_script=True, pin=True))


class TestPinnedFolder(PayloadIsThere):
    @pytest.fixture
    def subject(self, project):
        (project / "pkg/link").symlink_to(project / "pkg/etl.py")
        return Flow("etl", storage=Local(path="pkg/etl.py", root=project, stored_as_script=True, pin=True))


# Storing


def test_the_snippet_of_the_storage_document_works(home):
    flow = Flow("local-flow", storage=Local())

    flow.storage.build()

    link = home / "flows/local-flow.flow"
    assert link.is_symlink()
    (stored,) = (home / "flows/local-flow").iterdir()
    assert link.resolve() == stored.resolve()
    assert flow.storage.stored["local-flow"].digest == hashlib.sha256(stored.read_bytes()).hexdigest()


def test_building_without_a_flow_is_an_error():
    with pytest.raises(RegistrationError, match="has no flow to store"):
        Local().build()


def test_several_flows_may_share_a_storage(home):
    storage = Local()
    Flow("a", storage=storage)
    Flow("b", storage=storage)
    storage.build()

    assert {"a.flow", "b.flow"} <= {path.name for path in (home / "flows").iterdir()}


@pytest.mark.parametrize("name", ["🎉", "../evil", "..", "Ümläut/é"])
def test_no_name_leads_out_of_the_folder(name, home):
    Flow(name).storage.build()
    flow = Flow(name)
    flow.storage.build()

    path = Path(flow.storage.stored[name].location["path"])
    assert path.parent.parent == home / "flows"
    assert path.parent.name.strip(".-")
    assert [p.name for p in home.parent.iterdir()] == ["home"]


def test_names_that_look_alike_in_a_path_share_a_folder_and_no_file(home):
    flows = [Flow(name) for name in ["a/b", "A B", "a-b", "x" * 100, "x" * 101, "🎉", "🎊"]]
    for flow in flows:
        flow.storage.build()

    stored = [Path(flow.storage.stored[flow.name].location["path"]) for flow in flows]
    assert len(set(stored)) == len(flows)
    assert all(path.exists() for path in stored)
    assert (home / "flows/a-b.flow").resolve() == stored[2].resolve()


def test_builds_at_the_same_moment_do_not_collide(home):
    flows = [Flow("same") for _ in range(8)]
    threads = [threading.Thread(target=flow.storage.build) for flow in flows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    paths = {flow.storage.stored["same"].location["path"] for flow in flows}
    assert len(paths) == 8
    assert {path.name for path in (home / "flows/same").iterdir()} == {Path(path).name for path in paths}
    assert (home / "flows/same.flow").resolve() in {Path(path).resolve() for path in paths}
    assert {path.name for path in (home / "flows").iterdir()} == {"same", "same.flow"}


def test_what_cannot_be_pickled_is_named_with_the_way_to_it(home):
    lock = threading.Lock()

    def inner():
        return lock

    def outer():
        return inner()

    with pytest.raises(
        RegistrationError, match=r"flow 'bad' .*'inner' -> 'lock', which is of type _thread.lock"
    ) as caught:
        Flow("bad", outer).storage.build()
    assert "stored_as_script=True" in caught.value.hint
    assert list((home / "flows/bad").iterdir()) == []


def test_a_pickle_runs_elsewhere_without_the_modules_beside_it(project, tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'pkg')\n"
        "import deeper; from flow_agent import Flow\n"
        "def run(a): return deeper.quadruple(a)\n"
        "flow = Flow('x', run); flow.storage.build(); print(flow.storage.stored['x'].location['path'])"
    )
    (project / "pkg/deeper.py").write_text("import helpers\ndef quadruple(x): return 2 * helpers.double(x)\n")
    script = project / "main.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script)], cwd=project, capture_output=True, text=True, check=True)

    load = f"import pickle; print(pickle.load(open({done.stdout.strip()!r}, 'rb'))(3))"
    elsewhere = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert elsewhere.stdout.strip() == "12"


# Scripts


async def test_a_script_that_is_not_pinned_is_what_the_file_is_now(project, into):
    path = project / "pkg/helpers.py"
    registration = registered(Flow("x", storage=Local(path=path, stored_as_script=True)))
    path.write_text("changed = True\n")

    fetched = await Local().fetch(registration, into, NONE)

    assert (registration.digest, registration.pinned) == (None, False)
    assert fetched.payload == {"kind": "script", "root": "payload", "path": "helpers.py", "flow": "x"}
    assert (into / "payload/helpers.py").read_text() == "changed = True\n"
    assert fetched.revision == hashlib.sha256(b"changed = True\n").hexdigest()


@pytest.mark.parametrize("root", [True, False])
async def test_a_pinned_script_stays_what_it_was(root, project, into):
    path = project / "pkg/helpers.py"
    before = path.read_text()
    storage = Local(path=path, root=project if root else None, stored_as_script=True, pin=True)
    registration = registered(Flow("etl", storage=storage))
    path.unlink()

    fetched = await Local().fetch(registration, into, NONE)

    assert (into / "payload" / fetched.payload["path"]).read_text() == before
    assert fetched.revision == registration.digest
    assert payload.digest_of(into / "payload") == registration.digest


def test_a_script_may_name_its_storage_where_only_the_runner_s_archive_is(tmp_path):
    archive = runner_archive(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "from flow_agent import Flow, LocalResult, LocalRun, Secret\nfrom flow_agent.storages import Local\n"
        "from flow_agent.current import loading\nimport warnings; warnings.simplefilter('ignore')\n"
        "flow = Flow('x', storage=Local(result=LocalResult()), run_config=LocalRun(env={'A': Secret('B')}))\n"
        "with loading():\n    flow.storage.build()\n"
        "print(flow.declared_secrets)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.stderr) == ("('B',)", "")


async def test_a_folder_comes_with_its_modules_and_without_what_does_not_belong(project, into, monkeypatch):
    registration = registered(Flow("etl", storage=Local(path="pkg/etl.py", root=project, stored_as_script=True)))
    fetched = await Local().fetch(registration, into, NONE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    module = load_script(into / "payload", fetched.payload["path"])

    try:
        assert find_flow(module, "etl").run(a=4) == 8
        assert sorted(files_below(into / "payload")) == ["pkg/__init__.py", "pkg/etl.py", "pkg/helpers.py"]
    finally:
        for name in ("pkg", "pkg.etl", "pkg.helpers"):
            sys.modules.pop(name, None)


def test_the_script_is_the_file_that_defines_the_flow_unless_said_otherwise():
    assert registered(Flow("x", storage=Local(stored_as_script=True))).location["path"] == __file__


def test_a_link_out_of_the_folder_is_refused(project, tmp_path):
    (tmp_path / "outside").write_text("private")
    (project / "pkg/link").symlink_to(tmp_path / "outside")

    with pytest.raises(RegistrationError, match=r"pkg/link is a link out of"):
        Flow("x", storage=Local(path="pkg/etl.py", root=project, stored_as_script=True)).storage.build()


async def test_a_link_that_leads_out_later_is_a_lasting_error(project, tmp_path, into):
    registration = registered(Flow("x", storage=Local(path="pkg/etl.py", root=project, stored_as_script=True)))
    (project / "pkg/link").symlink_to("/etc")

    with pytest.raises(FetchError, match="is a link out of") as caught:
        await Local().fetch(registration, into, NONE)
    assert not caught.value.transient


def test_a_folder_with_too_much_in_it_is_refused(project, monkeypatch):
    monkeypatch.setattr(payload, "MOST_FILES", 2)

    with pytest.raises(RegistrationError, match="holds more than 2 files"):
        Flow("x", storage=Local(path="pkg/etl.py", root=project, stored_as_script=True)).storage.build()


@pytest.mark.parametrize(
    ("path", "message"), [("nothing.py", "does not exist"), ("pkg", "is a folder"), ("venv/file", "left out")]
)
def test_a_script_is_refused_that_is(path, message, project):
    storage = Local(path=path, root=project, stored_as_script=True)

    with pytest.raises(RegistrationError, match=message):
        Flow("x", storage=storage).storage.build()


@pytest.mark.parametrize(
    "options",
    [
        {"path": "x.py"},
        {"root": "."},
        {"pin": True},
        {"root": "a", "path": "/b/x.py", "stored_as_script": True},
        {"directory": __file__},
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options):
    with pytest.raises(ValueError, match="Local: "):
        Local(**options)


# Fetching


async def test_a_missing_flow_says_where_it_came_from(into):
    registration = registered(Flow("x", lambda: None))
    Path(registration.location["path"]).unlink()

    with pytest.raises(FetchError, match=f"registered on {socket.gethostname()} from {__file__}") as caught:
        await Local().fetch(registration, into, NONE)
    assert (caught.value.reason, caught.value.transient) == (Reason.FLOW_NOT_FOUND, False)


def archive(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, link in members:
            info = tarfile.TarInfo(name)
            if link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info, io.BytesIO(b""))
    return path


@pytest.mark.parametrize(
    "members",
    [
        [("../out", None)],
        [("/out", None)],
        [("a/../../out", None)],
        [("link", "/etc")],
        [("link", "..")],
        [("a/b/c/up", "../../.."), ("link", "a/b/c/up/../..")],
        [("link", "."), ("link/out", None)],
        [("a/link", "../../out")],
    ],
)
def test_an_archive_that_leads_out_is_refused(members, tmp_path, into):
    target = into / "payload"
    target.mkdir()

    with pytest.raises(payload.Refused):
        archives.unpack(archive(tmp_path / "bad.tar", *members), target, lambda: None)
    assert all(not path.is_symlink() or path.resolve().is_relative_to(target) for path in target.rglob("*"))
    assert not (tmp_path / "out").exists()


async def test_what_is_no_archive_is_a_lasting_error(project, into):
    storage = Local(path="pkg/etl.py", root=project, stored_as_script=True, pin=True)
    registration = registered(Flow("etl", storage=storage))
    Path(registration.location["path"]).write_bytes(b"nothing of the kind")

    with pytest.raises(FetchError, match="no archive that can be read") as caught:
        await Local().fetch(registration, into, NONE)
    assert not caught.value.transient


def test_a_result_goes_to_the_same_place_as_the_flow(tmp_path, home):
    assert Local().result == LocalResult(home / "results")
    assert Local(tmp_path / "mine").result == LocalResult(tmp_path / "mine/results")
    assert Local(result=LocalResult("/x")).result == LocalResult("/x")
