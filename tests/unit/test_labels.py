"""The rule of matching."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_agent.errors import InvalidInput
from flow_agent.labels import LONGEST, checked, matches
from flow_agent.model import AgentInfo

LABELS = st.frozensets(st.sampled_from(["eu", "EU", "gpu", "e", "eu "]))


def agent(**changes):
    return AgentInfo(id="a", name="a", incarnation="1", **changes)


@given(run=LABELS, own=LABELS)
def test_an_agent_takes_a_run_when_it_has_all_its_labels(run, own):
    assert matches(run, None, agent(labels=own)) is all(label in own for label in run)


@given(run=LABELS, own=LABELS, more=LABELS)
def test_more_labels_never_make_an_agent_take_less(run, own, more):
    assert matches(run, None, agent(labels=own)) <= matches(run, None, agent(labels=own | more))


@given(own=LABELS)
def test_an_agent_of_labelled_runs_only_leaves_runs_without_labels(own):
    assert not matches(frozenset(), None, agent(labels=own, only_labelled=True))
    assert matches(frozenset(), None, agent(labels=own))


def test_the_launcher_a_run_asks_for_must_be_one_of_the_agents():
    both = agent(launchers={"process": "", "docker": "engine"})
    assert matches(frozenset(), "docker", both)
    assert not matches(frozenset(), "ecs", both)


@pytest.mark.parametrize("label", ["", " eu", "eu ", "e\nu", "e\x00u", "x" * (LONGEST + 1)])
def test_what_is_no_label_is_refused_by_name(label):
    with pytest.raises(InvalidInput) as caught:
        checked(["fine", label])
    assert repr(label) in str(caught.value)


def test_labels_may_hold_any_printable_character():
    given_in = ["eu-west-1", "a b", "é", "x" * LONGEST, "50%", "it's"]
    assert checked(given_in) == frozenset(given_in)
