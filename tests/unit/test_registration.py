"""What a registration says of a flow, and which parameters fit it."""

from __future__ import annotations

import functools
import json
import socket
import sys
from dataclasses import replace

import pytest

from flow_agent import Flow, LocalResult, LocalRun, Secret, UniversalRun
from flow_agent.errors import InvalidInput, ParametersInvalid, RegistrationError
from flow_agent.model import Parameter, Registration
from flow_agent.registration import PARAMETER_BYTES, build_registrations, check_parameters
from flow_agent.storages import Local


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def registered(flow, **options):
    (registration,) = build_registrations([flow], **options)
    return registration


def test_a_registration_says_all_that_a_run_needs_and_survives_json(home):
    flow = Flow(
        "nightly",
        lambda day="today": day,
        storage=Local(labels=["disk"], secrets=["S"]),
        run_config=LocalRun(labels=["config"], env={"T": Secret("T")}),
        labels=["flow"],
        secrets=["F"],
        retries=2,
        retry_delay=30,
        timeout=60,
    )
    found = registered(flow, labels=["given"])

    assert Registration.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.labels == tuple(sorted(["flow", "config", "disk", "given", socket.gethostname()]))
    assert (found.kind, found.pinned, found.launcher) == ("pickle", True, "process")
    assert (found.python, found.interpreter) == (f"3.{sys.version_info.minor}", sys.executable)
    assert found.secrets == ("F", "S", "T")
    assert found.run_config["env"] == {"T": {"secret": "T"}}
    assert found.result == LocalResult(home / "results").describe()
    assert (found.retries, found.retry_delay, found.timeout) == (2, 30.0, 60.0)
    assert len(found.digest) == 64
    assert found.size > 0
    assert found.cloudpickle


def test_the_hostname_can_be_left_out_of_the_labels():
    flow = Flow("x", storage=Local(add_default_labels=False), run_config=UniversalRun(labels=["a"]))

    assert registered(flow).labels == ("a",)
    assert registered(flow).launcher is None


def test_a_result_of_the_flow_goes_before_that_of_its_storage(tmp_path):
    flow = Flow("x", storage=Local(result=LocalResult(tmp_path / "storage")), result=LocalResult(tmp_path / "flow"))

    assert registered(flow).result["dir"] == str(tmp_path / "flow")


def test_a_script_that_is_not_pinned_has_neither_digest_nor_python():
    found = registered(Flow("x", storage=Local(stored_as_script=True)))

    assert (found.kind, found.digest, found.pinned, found.python, found.cloudpickle) == (
        *("script", None, False),
        *(None, None),
    )


def test_parameters_are_read_from_the_signature():
    def function(a: int, *ignored, b: list[str] | None = None, c=(1, 2), d=object, **rest): ...

    assert registered(Flow("x", function, storage=Local(stored_as_script=True))).parameters == (
        Parameter(name="a", required=True, annotation="int"),
        Parameter(name="b", annotation="list[str] | None"),
        Parameter(name="c", default=[1, 2]),
        Parameter(name="d", default="<class 'object'>"),
        Parameter(name="rest", kind="any"),
    )


def test_a_partial_function_has_the_parameters_that_are_left():
    flow = Flow("x", functools.partial(lambda a, b: a + b, b=2))

    assert [(p.name, p.required, p.default) for p in registered(flow).parameters] == [
        ("a", True, None),
        ("b", False, 2),
    ]


def test_two_flows_of_one_name_are_refused_before_anything_is_stored(home):
    with pytest.raises(RegistrationError, match="two flows are named 'x'"):
        build_registrations([Flow("x"), Flow("x")])
    assert not home.exists()


def test_a_label_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="label ' a'"):
        build_registrations([Flow("x")], labels=[" a"])


# Parameters


def of(function):
    return registered(Flow("x", function))


@pytest.mark.parametrize("parameters", [{"day": 1}, {"day": "x", "more": None}])
def test_parameters_that_fit_are_accepted(parameters):
    check_parameters(of(lambda day, more=1: None), parameters)


@pytest.mark.parametrize(
    ("parameters", "message", "hint"),
    [
        ({}, "needs the parameter 'day'", None),
        ({"day": 1, "dya": 2}, "has no parameter 'dya'; it takes day", "did you mean 'day'?"),
    ],
)
def test_parameters_that_do_not_fit_are_told(parameters, message, hint):
    with pytest.raises(ParametersInvalid, match=message) as caught:
        check_parameters(of(lambda day: None), parameters)
    assert caught.value.hint == hint


def test_a_flow_without_a_function_takes_no_parameters():
    with pytest.raises(ParametersInvalid, match="it takes none"):
        check_parameters(registered(Flow("x")), {"a": 1})


def test_any_name_fits_a_function_that_takes_any():
    check_parameters(of(lambda **rest: None), {"whatever": 1})


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x", object()])
def test_what_is_no_json_is_refused_even_where_the_signature_is_not_fixed(value):
    registration = replace(of(lambda a: None), pinned=False)

    with pytest.raises(InvalidInput, match="which 'a' cannot be") as caught:
        check_parameters(registration, {"a": value})
    assert not isinstance(caught.value, ParametersInvalid)


def test_parameters_have_a_limit_of_64_kib():
    registration = of(lambda a: None)
    check_parameters(registration, {"a": "x" * (PARAMETER_BYTES - len('{"a": ""}'))})

    with pytest.raises(InvalidInput, match=f"{PARAMETER_BYTES + 1} bytes"):
        check_parameters(registration, {"a": "x" * (PARAMETER_BYTES - len('{"a": ""}') + 1)})


def test_half_of_a_pair_is_refused_as_parameter():
    with pytest.raises(InvalidInput, match="half of a pair"):
        check_parameters(of(lambda a: None), {"a": "\ud800"})
