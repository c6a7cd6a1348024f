"""Settings: where they come from, what wins, and what a person is told when one does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from flow_agent.errors import SettingsError
from flow_agent.settings import load


@pytest.fixture(autouse=True)
def home(own_home):
    return own_home


def refused(options=None, **keywords) -> tuple[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(options, **keywords)
    assert caught.value.exit_code == 2
    return str(caught.value), caught.value.hint or ""


def test_everything_has_a_default_and_the_queue_lies_in_the_home(home):
    settings = load()

    assert settings.home == home
    assert settings.queue == f"sqlite:{home}/queue.db"
    assert settings.lease.running == 120
    assert settings.agent.launchers == ("process", "docker")
    assert settings.agent.limit >= 1


def test_a_home_given_as_an_option_moves_the_queue_and_the_settings_file(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "flow-agent.toml").write_text("[agent]\nlimit = 7\n")

    settings = load({"home": str(other)})

    assert settings.queue == f"sqlite:{other}/queue.db"
    assert settings.agent.limit == 7


def test_option_wins_over_variable_over_file_over_default(home, monkeypatch):
    (home / "flow-agent.toml").write_text("[lease]\nrunning = 201\nclaimed = 202\nheartbeat = 9\n")
    monkeypatch.setenv("FLOW_AGENT_LEASE__RUNNING", "301")
    monkeypatch.setenv("FLOW_AGENT_LEASE__CLAIMED", "302")

    lease = load({"lease": {"running": 401}}).lease

    assert (lease.running, lease.claimed, lease.heartbeat) == (401, 302, 9)
    assert load().stop.grace == 10


def test_lists_and_mappings_in_variables_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_AGENT__LABELS", "gpu, eu,gpu")
    monkeypatch.setenv("FLOW_AGENT_AGENT__ENV", "A=1,B=x=y")

    agent = load().agent

    assert agent.labels == ("gpu", "eu")
    assert agent.env == {"A": "1", "B": "x=y"}


def test_a_list_given_later_replaces_the_earlier_one(home, monkeypatch):
    (home / "flow-agent.toml").write_text('[agent]\nlabels = ["file"]\nenv = {A = "file", B = "file"}\n')
    monkeypatch.setenv("FLOW_AGENT_AGENT__ENV", "A=variable")

    agent = load({"agent": {"labels": ["option"]}}).agent

    assert agent.labels == ("option",)
    assert agent.env == {"A": "variable"}


def test_the_named_file_is_read_instead_of_the_one_in_the_home(home, tmp_path, monkeypatch):
    (home / "flow-agent.toml").write_text("[agent]\nlimit = 3\n")
    named, by_variable = tmp_path / "a.toml", tmp_path / "b.toml"
    named.write_text("[agent]\nlimit = 4\n")
    by_variable.write_text("[agent]\nlimit = 5\n")

    monkeypatch.setenv("FLOW_AGENT_CONFIG", str(by_variable))

    assert load().agent.limit == 5
    assert load(config=named).agent.limit == 4


def test_a_named_file_that_is_not_there_is_an_error_that_says_who_named_it(tmp_path, monkeypatch):
    message, _ = refused(config=tmp_path / "none.toml")
    assert message.startswith("--config names the settings file")

    monkeypatch.setenv("FLOW_AGENT_CONFIG", str(tmp_path / "none.toml"))
    message, _ = refused()
    assert message.startswith("FLOW_AGENT_CONFIG names the settings file")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FLOW_AGENT_POL", "FLOW_AGENT_AGENT__POLL"),
        ("FLOW_AGENT_AGENT__LABLES", "FLOW_AGENT_AGENT__LABELS"),
        ("FLOW_AGENT_LABELS", "FLOW_AGENT_AGENT__LABELS"),
        ("FLOW_AGENT_QEUE", "FLOW_AGENT_QUEUE"),
        ("flow_agent_queue", "FLOW_AGENT_QUEUE"),
        ("FLOW_AGENT_LEASE", "FLOW_AGENT_LEASE__CLAIMED"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(monkeypatch, variable, meant):
    monkeypatch.setenv(variable, "1")

    message, hint = refused()

    assert message == f"environment variable {variable} is no setting"
    assert meant in hint


def test_a_variable_like_no_setting_gets_no_wild_guess(monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_XYZZY_PLUGH", "1")

    _, hint = refused()

    assert "did you mean" not in hint


@pytest.mark.parametrize("name", ["FLOW_AGENT_RUN_ID", "FLOW_AGENT_TEST_SEED"])
def test_the_variables_of_an_attempt_and_of_our_tests_are_no_mistake(monkeypatch, name):
    monkeypatch.setenv(name, "01jq")

    assert load().stop.grace == 10


def test_a_variable_that_is_set_to_nothing_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_STOP__GRACE", "")

    assert load().stop.grace == 10


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[lease]\nruning = 5\n", "lease.runing is no setting", "lease.running"),
        ("[lese]\nrunning = 5\n", "lese is no setting", "lease"),
        ("lease = 5\n", "lease is not a table of settings", ""),
        ("[lease]\nrunning = 'long'\n", "lease.running is 'long': input should be a valid number", "Seconds"),
        ("home = '/tmp'\n", "sets home", "FLOW_AGENT_HOME"),
        ("[lease]\nrunning = \n", "(at line 2, column 11)", ""),
    ],
)
def test_a_mistake_in_the_file_is_told_with_the_file(home, text, said, hint):
    path = home / "flow-agent.toml"
    path.write_text(text)

    message, way_out = refused()

    assert message.startswith(f"settings file {path}")
    assert said in message
    assert hint in way_out


def test_a_file_that_is_no_text_is_refused(home):
    (home / "flow-agent.toml").write_bytes(b"\xff\xfe\x00")

    message, _ = refused()

    assert "cannot be read" in message


def test_a_value_that_does_not_fit_is_told_with_the_place_it_came_from(monkeypatch):
    message, _ = refused({"agent": {"limit": 0}})
    assert message.startswith("option --limit is 0: ")

    monkeypatch.setenv("FLOW_AGENT_STOP__GRACE", "soon")
    message, _ = refused()
    assert message.startswith("environment variable FLOW_AGENT_STOP__GRACE is 'soon': ")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lease": {"running": 25}}, ["lease.running", "stop.grace", "lease.heartbeat"]),
        ({"stop": {"grace": 100}}, ["lease.running", "stop.grace", "lease.heartbeat"]),
        ({"lease": {"claimed": 20}}, ["lease.claimed", "lease.heartbeat"]),
        ({"fetch": {"seconds": 700}}, ["fetch.seconds", "fetch.release_for"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name_with_the_way_out(options, names):
    message, hint = refused(options)

    assert all(name in message for name in names)
    assert hint.startswith("raise ")


@pytest.mark.parametrize(
    "options",
    [
        {"stop": {"grace": float("inf")}},
        {"lease": {"heartbeat": float("nan")}},
        {"agent": {"labels": [" "]}},
        {"agent": {"name": ""}},
        {"agent": {"launchers": ""}},
        {"log": {"level": "loud"}},
    ],
)
def test_values_that_cannot_be_are_refused(options):
    message, _ = refused(options)

    assert message.startswith("option --")


def test_no_error_and_no_repr_shows_what_may_be_a_secret(monkeypatch):
    monkeypatch.setenv("FLOW_AGENT_QUEUE", "postgresql://me:hunter22@db/flows")
    monkeypatch.setenv("FLOW_AGENT_AGENT__ENV", "TOKEN=hunter22")
    assert "hunter22" not in repr(load())

    monkeypatch.setenv("FLOW_AGENT_AGENT__ENV", "hunter22")
    message, hint = refused()
    assert "hunter22" not in message + hint


def test_settings_do_not_change_once_loaded():
    settings = load()

    with pytest.raises(ValidationError):
        settings.home = Path("/elsewhere")
    with pytest.raises(ValidationError):
        settings.lease.running = 1.0


def test_the_queue_is_told_leases_and_how_it_commits():
    arguments = load({"lease": {"running": 99}, "sqlite": {"synchronous": "normal"}}).queue_arguments()

    assert arguments["leases"].running == 99
    assert arguments["options"] == {"synchronous": "normal"}
    assert load({"queue": "memory:"}).queue_arguments()["options"] == {}


def test_a_file_that_was_read_is_forgotten_when_the_settings_are_made(home):
    path = home / "flow-agent.toml"
    path.write_text("[stop]\ngrace = 7\n")
    assert load().stop.grace == 7

    path.unlink()

    assert load().stop.grace == 10
