"""Registering a file: loaded in a process of its own, with an honest error for whatever it does."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from flow_agent.collect import collect
from flow_agent.errors import InvalidInput, RegistrationError
from flow_agent.runner.load import find_flow, flows_of, load_script

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    work = tmp_path / "folder"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


TWO = """
from flow_agent import Flow, flow

second = Flow("second ✨")

@flow(labels=["eu"])
def first(a=1):
    return a

again = first
if __name__ == "__main__":
    raise SystemExit("a main-guard ran")
"""


async def collected(target, **options):
    lines = []
    return await collect(target, on_output=lines.append, **options), lines


async def refused(target, kind=RegistrationError):
    with pytest.raises(kind) as caught:
        await collect(target, on_output=lambda line: None)
    return caught.value


async def test_every_flow_of_a_file_is_registered_once_in_the_order_of_definition(folder):
    Path("etl.py").write_text(TWO)
    before = sorted(folder.iterdir())

    found, lines = await collected("etl.py", labels=["x"])

    assert [each.flow for each in found] == ["second ✨", "first"]
    assert {"eu", "x"} <= set(found[1].labels)
    assert found[1].interpreter == sys.executable
    assert lines == []
    assert sorted(folder.iterdir()) == before


async def test_one_flow_of_a_file_can_be_named():
    Path("etl.py").write_text(TWO)

    found, _ = await collected("etl.py:second ✨")

    assert [each.flow for each in found] == ["second ✨"]


@pytest.mark.parametrize("place", ["deep/er/etl.py", "./deep/er/etl.py", "{folder}/deep/er/etl.py", "a:b.py"])
async def test_one_flow_of_a_file_can_be_named_whatever_the_path(place, folder):
    place = place.format(folder=folder)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text(TWO.replace("second ✨", "sec:ond ✨"))

    (one,), _ = await collected(f"{place}:first")
    (other,), _ = await collected(f"{place}:sec:ond ✨")
    both, _ = await collected(place)

    assert [one.flow, other.flow, len(both)] == ["first", "sec:ond ✨", 2]


async def test_a_module_can_be_named(folder):
    (folder / "pkg").mkdir()
    Path("pkg/__init__.py").write_text("")
    Path("pkg/common.py").write_text("def double(x):\n    return 2 * x\n")
    Path("pkg/etl.py").write_text(
        "from flow_agent import flow\nfrom .common import double\n@flow\ndef etl(a):\n    return double(a)\n"
    )

    for target in ("pkg.etl", "pkg.etl:etl", "pkg/etl.py"):
        found, _ = await collected(target)
        assert [each.flow for each in found] == ["etl"]
        function = pickle.loads(Path(found[0].location["path"]).read_bytes())
        assert function(4) == 8


async def test_what_a_file_prints_is_handed_on_line_by_line():
    Path("etl.py").write_text(
        TWO + "import sys\nprint('one ✨')\nprint('two', file=sys.stderr)\nprint('end', end='')\n"
    )

    _, lines = await collected("etl.py")

    assert lines == ["one ✨", "two", "end"]


async def test_a_file_may_be_named_like_a_module_that_is_in_use():
    Path("json.py").write_text("from flow_agent import flow\n@flow\ndef f():\n    return __name__\n")

    found, _ = await collected("json.py")

    assert pickle.loads(Path(found[0].location["path"]).read_bytes())() == "flow_json"


async def test_a_file_that_stores_and_registers_itself_only_gets_warnings():
    Path("etl.py").write_text(TWO + "first.storage.build()\nfirst.register()\n")

    found, lines = await collected("etl.py")

    assert len(found) == 2
    assert sum("does nothing while the file is being loaded" in line for line in lines) == 2


RAISES = """
def deep():
    raise ValueError("wrong thing")
deep()
"""
FILES = {
    "raises": (RAISES, r"raises ValueError: wrong thing \(.*subject.py, line 3\)"),
    "is no Python": ("x = 1\ndef broken(:\n", r"subject.py, line 2: .*: def broken\(:"),
    "holds no flow": ("x = 1\n", "there is no flow in"),
    "ends itself": ("import sys\nsys.exit(3)\n", r"sys.exit\(3\)"),
    "ends itself with a text": ("raise SystemExit('so')\n", r"sys.exit\('so'\)"),
    "ends the process": ("import os\nos._exit(0)\n", "its process ended with exit code 0"),
    "is killed": ("import os\nos.kill(os.getpid(), 9)\n", "was killed by SIGKILL"),
    "is interrupted": ("raise KeyboardInterrupt\n", "was interrupted"),
    "has a flow that is none": ("from flow_agent import Flow\nFlow('')\n", "raises ValueError: a flow's name is ''"),
    "lacks a module": ("import not_there_at_all\n", "raises ModuleNotFoundError: No module named 'not_there_at_all'"),
    "has two flows of one name": (
        "from flow_agent import Flow\na = Flow('x')\nb = Flow('x')\n",
        "two flows are named 'x'",
    ),
    "has a flow that cannot be pickled": (
        "import threading\nfrom flow_agent import flow\nlock = threading.Lock()\n@flow\ndef f():\n    return lock\n",
        r"flow 'f' cannot be pickled, because it uses 'lock', which is of type _thread.lock",
    ),
}


@pytest.mark.parametrize("case", FILES)
async def test_nothing_is_registered_of_a_file_that(case, tmp_path):
    text, message = FILES[case]
    Path("subject.py").write_text(text)

    with pytest.raises(RegistrationError, match=message):
        await collect("subject.py", on_output=lambda line: None)
    assert list((tmp_path / "home").rglob("*.flow")) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing.py", "nothing.py does not exist"),
        ("nothing.py:x", "nothing.py does not exist"),
        ("no/thing.py:x", "no/thing.py does not exist"),
        ("x" * 300, "there is no module 'x+'"),
        (".", r"\. is a folder"),
        ("no_such_module", "there is no module 'no_such_module'"),
        ("no.such.module:x", "there is no module 'no'"),
        ("not a module", "there is no file not a module"),
        ("", "the target is empty"),
    ],
)
async def test_a_target_that_is_not_there_is_told(target, message):
    with pytest.raises(RegistrationError, match=message):
        await collect(target, on_output=lambda line: None)


async def test_a_flow_that_is_not_in_the_file_is_told_with_those_that_are():
    Path("etl.py").write_text(TWO)

    assert str(await refused("etl.py:third")).endswith("found: 'second ✨', 'first'")


async def test_the_traceback_shows_only_the_author_s_own_lines(folder):
    Path("etl.py").write_text(RAISES)

    shown = (await refused("etl.py")).traceback

    assert "in deep" in shown
    assert "flow_agent" not in shown
    assert "importlib" not in shown


async def test_a_label_that_is_none_is_told_as_bad_input():
    Path("etl.py").write_text(TWO)

    with pytest.raises(InvalidInput, match="label ''"):
        await collect("etl.py", labels=[""], on_output=lambda line: None)


NEIGHBOURLY = """
import functools, sys
sys.path.append("venv/lib/site-packages")
from flow_agent import flow
from flow_agent.storages import Local
import top

def decorated(function):
    @functools.wraps(function)
    def inner():
        return function()
    return inner

@flow(storage=Local({storage}))
@decorated
def f():
    import json, installed_thing
    {inside}
"""


def neighbours(folder, **parts) -> Path:
    """A file with things beside it: modules, a package, and an environment."""
    (folder / "top.py").write_text("def deep():\n    from pkg.part import thing\n    return thing\n")
    (folder / "helper_mod.py").write_text("")
    (folder / "pkg").mkdir()
    (folder / "pkg/__init__.py").write_text("")
    (folder / "pkg/part.py").write_text("thing = 1\n")
    site = folder / "venv/lib/site-packages"
    site.mkdir(parents=True)
    (site / "installed_thing.py").write_text("")
    (folder / "main.py").write_text(NEIGHBOURLY.format(**{"storage": "", "inside": "pass"} | parts))
    return folder / "main.py"


@pytest.mark.parametrize(
    ("inside", "module"),
    [
        ("import helper_mod", "helper_mod"),
        ("import pkg.part as p", "pkg.part"),
        ("from pkg import part", "pkg"),
        ("return [(lambda: top.deep())() for _ in range(1)]", "pkg.part"),
    ],
)
async def test_a_module_beside_the_flow_that_only_a_function_imports_is_warned_about(inside, module, folder):
    neighbours(folder, inside=inside)

    (registration,), lines = await collected("main.py")

    assert registration.kind == "pickle"
    (warning,) = [line for line in lines if "Warning" in line]
    assert f"{module!r} is imported inside a function" in warning
    assert f"Local(stored_as_script=True, root={str(folder)!r})" in warning
    assert warning.startswith(str(folder))


@pytest.mark.parametrize("inside", ["pass", "return top", "import anyio, flow_agent"])
async def test_nothing_is_warned_about_that_a_run_will_find(inside, folder):
    neighbours(folder, inside=inside)

    _, lines = await collected("main.py")

    assert lines == []


async def test_a_module_that_is_installed_from_the_flow_s_own_folder_is_not_warned_about(folder, monkeypatch):
    """The interpreter finds it in every attempt, as after an installation in editable form."""
    neighbours(folder, inside="import helper_mod")
    asked = folder / "python"
    asked.write_text(
        f"#!{sys.executable}\nimport os, sys\nos.environ['PYTHONPATH'] = {str(folder)!r}\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    asked.chmod(0o755)
    file = folder / "main.py"
    file.write_text(f"import sys\nsys.executable = {str(asked)!r}\n{file.read_text()}")

    _, lines = await collected("main.py")

    assert lines == []


@pytest.mark.parametrize(("storage", "warned"), [("", ["top"]), (", root={folder!r}", [])])
async def test_a_script_stored_without_what_lies_beside_it_is_warned_about(storage, warned, folder):
    neighbours(folder, storage="stored_as_script=True" + storage.format(folder=str(folder)))

    _, lines = await collected("main.py")

    warnings = [line for line in lines if "Warning" in line]
    assert [f"{name!r} lies beside the script" in line for name, line in zip(warned, warnings, strict=True)] == [
        True for _ in warned
    ]
    assert all(f"root={str(folder)!r}" in line for line in warnings)


async def test_a_script_in_a_repository_without_what_lies_beside_it_is_warned_about(folder):
    file = neighbours(folder)
    file.write_text(
        file.read_text().replace("Local()", "GitHub('owner/name', 'flows/main.py')").replace("Local", "GitHub")
    )

    _, lines = await collected("main.py")

    (warning,) = [line for line in lines if "Warning" in line]
    assert "'top' lies beside the script" in warning
    assert warning.endswith("store its folder too: GitHub(..., root='flows')")


async def test_a_refused_file_leaves_nothing_of_its_other_flows_behind(tmp_path):
    Path("etl.py").write_text(TWO)
    await collected("etl.py:first")
    (before,) = (tmp_path / "home/flows/first").iterdir()
    Path("etl.py").write_text(
        "import threading\nfrom flow_agent import flow\nfrom flow_agent.storages import Local\n"
        "@flow\ndef first(): return 1\n"
        "@flow(storage=Local(path=__file__, stored_as_script=True))\ndef script(): return 1\n"
        "@flow(storage=Local(stored_as_script=True, pin=True))\ndef pinned(): return 1\n"
        "lock = threading.Lock()\n@flow\ndef last(): return lock\n"
    )

    await refused("etl.py")

    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file() and not path.is_symlink()] == [before]
    assert (tmp_path / "home/flows/first.flow").resolve() == before
    assert Path("etl.py").exists()


async def test_a_thread_that_the_file_leaves_running_does_not_hold_it_up():
    Path("etl.py").write_text(TWO + "import threading\nthreading.Thread(target=threading.Event().wait).start()\n")

    with anyio.fail_after(20):
        found, _ = await collected("etl.py")
    assert len(found) == 2


SLEEPS = TWO + "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\nprint(child.pid, flush=True)\n"


async def ended(pid: int) -> None:
    with anyio.fail_after(10):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await anyio.sleep(0.02)


async def test_what_the_file_started_ends_with_it():
    Path("etl.py").write_text(SLEEPS)

    with anyio.fail_after(20):
        _, lines = await collected("etl.py")

    await ended(int(lines[0]))


async def test_being_cancelled_ends_the_file_and_what_it_started():
    Path("etl.py").write_text(SLEEPS + "time.sleep(600)\n")
    lines = []

    async with anyio.create_task_group() as tasks:

        async def run():
            await collect("etl.py", on_output=lines.append)

        tasks.start_soon(run)
        with anyio.fail_after(20):
            while not lines:
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()

    await ended(int(lines[0]))
    assert [child for child in psutil.Process().children() if "collect" in " ".join(child.cmdline())] == []


# Loading, as the attempt does it


@pytest.fixture
def clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_script_is_loaded_under_its_name_with_its_folder_on_the_path(folder, clean_imports):
    Path("beside_it.py").write_text("value = 3\n")
    Path("some-script.py").write_text("import beside_it\nvalue = beside_it.value\nfile = __file__\n")

    module = load_script(folder, "some-script.py")

    assert (module.__name__, module.value, module.file) == ("some-script", 3, str(folder / "some-script.py"))
    assert sys.modules["some-script"] is module
    assert sys.path[0] == str(folder)


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(folder, clean_imports, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = folder / "edited.py"
    values = []
    for text in ("value = 1\n", "value = 2\n"):
        path.write_text(text)
        os.utime(path, (1_000_000, 1_000_000))
        values.append(load_script(folder, "edited.py").value)

    assert values == [1, 2]


def test_a_script_that_raises_leaves_no_module_behind(folder, clean_imports):
    Path("broken_one.py").write_text("1 / 0\n")

    with pytest.raises(ZeroDivisionError):
        load_script(folder, "broken_one.py")
    assert "broken_one" not in sys.modules


def test_a_flow_is_found_by_its_name_not_its_variable(folder, clean_imports):
    Path("named_flows.py").write_text(TWO)
    module = load_script(folder, "named_flows.py")

    assert find_flow(module, "second ✨") is module.second
    assert [flow.name for flow in flows_of(module)] == ["second ✨", "first"]
    with pytest.raises(LookupError, match=r"there is no flow 'again' in .*; found: 'second ✨', 'first'"):
        find_flow(module, "again")
