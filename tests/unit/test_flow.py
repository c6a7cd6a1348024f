"""What an author writes: flows, run configs, and what a run may ask of its surroundings."""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
import threading
import warnings

import cloudpickle
import pytest

import flow_agent
from flow_agent import Flow, LocalResult, LocalRun, Secret, UniversalRun, current_run, flow
from flow_agent.current import bind_run, loading
from flow_agent.environments import LocalEnvironment
from flow_agent.storages import Local


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def python(program: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Importing


def test_importing_the_package_brings_only_the_standard_library_and_little_of_ours():
    out = python("import sys; before = set(sys.modules); import flow_agent; print(*(set(sys.modules) - before))")

    ours = {name for name in out.split() if name.startswith("flow_agent")}
    others = {name.partition(".")[0] for name in out.split()} - {"flow_agent"} - set(sys.stdlib_module_names)
    assert len(ours) < 5
    assert others == set()


@pytest.mark.parametrize("first", ["flow_agent.flow", "flow_agent.storages.local", "flow_agent.results"])
def test_flow_is_the_decorator_whatever_was_imported_first(first):
    assert python(f"import {first}; from flow_agent import flow; print(type(flow).__name__)").strip() == "function"


def test_a_flow_file_brings_no_package_of_others():
    out = python(
        "import sys; before = set(sys.modules)\n"
        "from flow_agent import Flow, LocalRun\nfrom flow_agent.storages import Local\n"
        "Flow('x', storage=Local(), run_config=LocalRun())\n"
        "print(*(set(sys.modules) - before))"
    )

    assert {name.partition(".")[0] for name in out.split()} - set(sys.stdlib_module_names) == {"flow_agent"}


# Flows


def test_a_decorated_function_is_a_flow_named_like_it():
    @flow
    def add(a, b=1):
        """Adds."""
        return a + b

    assert add.name == "add"
    assert add.__doc__ == "Adds."
    assert add(1, b=4) == 5
    assert add.run(a=2) == 3


def test_the_decorator_takes_what_a_flow_takes():
    @flow(name="nightly", labels=["eu", "eu"], retries=2, retry_delay=30, timeout=60, secrets=["TOKEN"])
    def report(): ...

    assert (report.name, report.labels, report.retries) == ("nightly", ("eu",), 2)
    assert (report.retry_delay, report.timeout, report.secrets) == (30.0, 60.0, ("TOKEN",))


def test_a_flow_without_a_function_returns_nothing():
    assert Flow("empty").run() is None
    with pytest.raises(TypeError, match="takes no parameters"):
        Flow("empty").run(a=1)


def test_an_async_function_is_run_to_its_end():
    @flow
    async def later(a):
        return a, current_run().id

    assert later.run(a=1) == (1, "local")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_async_flow_inside_an_event_loop_says_to_await_it(anyio_backend):
    async def later(): ...

    with pytest.raises(RuntimeError, match="await it"):
        Flow("later", later).run()


BAD = {
    "an empty name": (lambda: Flow(""), ValueError, "a flow's name is ''"),
    "a number as name": (lambda: Flow(3), TypeError, "a flow's name is 3"),
    "a line break in the name": (lambda: Flow("a\nb"), ValueError, "control characters"),
    "a name of 256 characters": (lambda: Flow("x" * 256), ValueError, "1 to 255"),
    "a text as function": (lambda: Flow("x", "y"), TypeError, "expected a function or None"),
    "labels as one text": (lambda: Flow("x", labels="eu"), TypeError, r"expected a list: \['eu'\]"),
    "an empty label": (lambda: Flow("x", labels=[""]), ValueError, "a label is ''"),
    "negative retries": (lambda: Flow("x", retries=-1), ValueError, "expected 0 or more"),
    "half a retry": (lambda: Flow("x", retries=0.5), TypeError, "expected a whole number"),
    "True as retries": (lambda: Flow("x", retries=True), TypeError, "expected a whole number"),
    "no time at all": (lambda: Flow("x", timeout=0), ValueError, "more than 0 seconds"),
    "infinite time": (lambda: Flow("x", timeout=float("inf")), ValueError, "more than 0 seconds"),
    "a delay as text": (lambda: Flow("x", retry_delay="1m"), TypeError, "number of seconds"),
    "a class as storage": (lambda: Flow("x", storage=Local), TypeError, "expected a storage such as Local"),
    "a dict as run config": (lambda: Flow("x", run_config={}), TypeError, "expected a run config"),
    "a path as result": (lambda: Flow("x", result="here"), TypeError, "expected a result"),
    "a positional-only parameter": (lambda: Flow("x", lambda a, /: a), TypeError, "'a' is positional-only"),
    "the name where the function goes": (lambda: flow("nightly"), TypeError, r"write @flow\(name='nightly'\)"),
    "a function without a name": (lambda: flow(functools.partial(print)), TypeError, "has no name"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_flow_is_refused_that_has(case):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make()


def test_names_of_emoji_are_names():
    assert Flow("👩‍🔬 ✨").name == "👩‍🔬 ✨"


# Storage and environment


def test_assigning_a_storage_binds_the_flow_to_it_and_leaves_the_old_one():
    one, two = Local(), Local()
    subject = Flow("x", storage=one)
    subject.storage = two

    assert (list(one.flows), list(two.flows)) == ([], ["x"])


def test_the_storage_is_local_unless_said_otherwise():
    subject = Flow("x")

    assert isinstance(subject.storage, Local)
    assert subject.storage is subject.storage


def test_two_flows_of_one_name_cannot_share_a_storage():
    storage = Local()
    Flow("x", storage=storage)

    with pytest.raises(ValueError, match="another flow named 'x'"):
        Flow("x", storage=storage)


def test_an_environment_becomes_a_run_config_with_a_warning():
    subject = Flow("x")
    with pytest.warns(DeprecationWarning, match="UniversalRun"):
        subject.environment = LocalEnvironment(metadata={"image": "repo/name:tag"}, labels=["eu"])

    assert subject.run_config == UniversalRun(image="repo/name:tag", labels=["eu"])


def test_building_and_registering_only_warn_while_a_file_is_loaded(home):
    subject = Flow("x", lambda: None)
    with loading():
        with pytest.warns(UserWarning, match=r"storage\.build\(\) does nothing"):
            subject.storage.build()
        with pytest.warns(UserWarning, match=r"flow\.register\(\) does nothing"):
            assert subject.register() is None

    assert not home.exists()


# The current run


def test_there_is_no_current_run_outside_of_one():
    with pytest.raises(RuntimeError, match=r"flow\.run\(\)"):
        current_run()


def test_a_run_here_knows_itself_and_gets_declared_secrets_from_the_environment(monkeypatch):
    monkeypatch.setenv("TOKEN", "value")
    monkeypatch.setenv("OTHER", "value")

    @flow(secrets=["TOKEN", "UNSET"])
    def ask(a=1):
        run = current_run()
        found = [run.id, run.attempt, run.parameters, run.flow, run.logger.name, run.secret("TOKEN")]
        with pytest.raises(LookupError, match="does not declare the secret 'OTHER'"):
            run.secret("OTHER")
        with pytest.raises(LookupError, match="environment variable UNSET"):
            run.secret("UNSET")
        return found

    assert ask.run(a=2) == ["local", 1, {"a": 2}, "ask", "flow", "value"]


def test_secrets_of_storage_and_run_config_are_declared_too():
    subject = Flow("x", secrets=["A"], storage=Local(secrets=["B", "A"]), run_config=LocalRun(env={"C": Secret("C")}))

    assert subject.declared_secrets == ("A", "B", "C")


def test_threads_of_a_flow_see_its_run():
    seen = []

    @flow
    def threads():
        thread = threading.Thread(target=lambda: seen.append(current_run().flow))
        thread.start()
        thread.join()

    threads.run()

    assert seen == ["threads"]
    with pytest.raises(RuntimeError):
        current_run()


def test_a_flow_called_inside_a_run_belongs_to_that_run():
    inner = Flow("inner", lambda: (current_run().id, current_run().secret("S")))

    with bind_run(id="01abc", attempt=2, flow="outer", parameters={}, secrets={"S": "value"}):
        assert inner.run() == ("01abc", "value")
        with pytest.raises(LookupError, match="declared: S"):
            current_run().secret("T")


# Pickling


def test_a_flow_travels_as_a_function_without_its_storage():
    again = pickle.loads(cloudpickle.dumps(Flow("x", lambda a: a + 1, storage=Local(), labels=["eu"])))

    assert again(1) == 2
    assert again.run(a=2) == 3
    assert again.name == "x"
    assert again.labels == ()


def test_a_flow_whose_function_names_the_flow_itself_can_be_pickled():
    @flow
    def count(n):
        return n if n > 2 else count(n + 1)

    again = pickle.loads(cloudpickle.dumps(count))

    assert again(0) == 3


# Run configs


def test_run_configs_describe_themselves_as_json_and_are_equal_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = LocalRun(env={"A": "1", "B": Secret("NAME")}, labels=["x"], working_dir="work")

    assert json.loads(json.dumps(config.describe())) == {
        "type": "LocalRun",
        "env": {"A": "1", "B": {"secret": "NAME"}},
        "labels": ["x"],
        "working_dir": str(tmp_path / "work"),
        "python": None,
    }
    assert config == LocalRun(env={"B": Secret("NAME"), "A": "1"}, labels=["x"], working_dir=tmp_path / "work")
    assert config != UniversalRun(env=config.env, labels=["x"])
    assert (LocalRun().launcher, UniversalRun().launcher) == ("process", None)


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        ({"A": 1}, TypeError, "of type int, expected text"),
        ({"A=B": "1"}, ValueError, "'A=B'"),
        ({"": "1"}, ValueError, "at least one character"),
        ({"A": "x\0"}, ValueError, "NUL"),
        ([("A", "1")], TypeError, "expected a dict"),
    ],
)
def test_an_environment_variable_is_refused_that_cannot_be_one(env, error, message):
    with pytest.raises(error, match=message):
        LocalRun(env=env)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "hunter22"),
        ("API_TOKEN", "abcdefgh"),
        ("ANYTHING", "AKIA" + "ABCDEFGHIJKLMNOP"),
        ("ANYTHING", "gh" + "p_abcdefghijklmnopqrstuvwxyz"),
        ("DATABASE", "postgresql://me:letmein@host/db"),
    ],
)
def test_a_literal_that_looks_like_a_credential_is_warned_about_without_showing_it(name, value):
    with pytest.warns(UserWarning, match=rf"Secret\('{name}'\)") as caught:
        config = UniversalRun(env={name: value})

    assert value not in str(caught[0].message)
    assert value not in repr(config)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("env", [{"KEYBOARD": "qwertz"}, {"TOKEN_FILE": "run/token"}, {"URL": "https://host/a:b@c"}])
def test_other_values_are_not_warned_about(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UniversalRun(env=env)


def test_the_public_names_are_what_they_say():
    assert flow_agent.LocalResult is LocalResult
    with pytest.raises(AttributeError, match="nope"):
        _ = flow_agent.nope
