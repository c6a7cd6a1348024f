"""Why a run is where it is: each state has its sentence, and a way out where there is one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flow_agent.model import AgentInfo, Limit, Reason, Registration, Run, State
from flow_agent.ports import Leases
from flow_agent.why import Explanation, explain, span

NOW = 1_900_000_000.0
FLOW = Registration(flow="report", kind="pickle", storage={"type": "S3"}, location={})


def run(state: State = State.QUEUED, **changes) -> Run:
    return replace(Run(id="01jq", flow="report", version=1, state=state, created_at=NOW - 60), **changes)


def agent(name: str = "one", **changes) -> AgentInfo:
    return replace(AgentInfo(id=name, name=name, incarnation="i", limit=2, seen_at=NOW - 1, silent=1), **changes)


def why(asked: Run, *agents: AgentInfo, registration: Registration = FLOW, **more) -> Explanation:
    return explain(asked, registration, agents, now=NOW, **more)


def test_a_reader_whose_clock_is_wrong_sees_who_lives_all_the_same():
    live, gone = agent(seen_at=NOW - 7200, silent=1), agent(seen_at=NOW + 7200, silent=600)

    assert "can take it now" in why(run(), live).sentence
    assert "no agent is alive; the last one, 'one', gave a sign of life 10 min ago" in why(run(), gone).sentence
    held = run(State.RUNNING, agent="one", started_at=NOW - 7300)
    assert "its lease has ended" in why(held, gone, leases=Leases(claimed=30, running=120)).sentence


def test_a_run_that_is_due_later_says_when():
    said = why(run(State.SCHEDULED, due_at=NOW + 300), agent())

    assert "is due at 2030-03-17 17:51:40 UTC, in 5 min" in said.sentence
    assert said.hint == ""


def test_a_run_that_waits_for_its_next_attempt_says_how_the_last_one_ended():
    said = why(run(State.SCHEDULED, due_at=NOW + 30, attempt=1, reason=Reason.RAISED, detail="ValueError: no"), agent())

    assert "attempt 1" in said.sentence
    assert "raised: ValueError: no" in said.sentence
    assert "in 30 s" in said.sentence


def test_a_run_put_back_before_it_started_says_why():
    said = why(run(State.SCHEDULED, due_at=NOW + 30, detail="S3 answered 503"), agent())

    assert "(S3 answered 503)" in said.sentence


def test_a_scheduled_run_whose_time_has_come_is_explained_as_one_that_waits():
    assert "no agent is alive" in why(run(State.SCHEDULED, due_at=NOW - 1)).sentence


def test_with_nobody_alive_the_hint_is_the_exact_command():
    said = why(run(labels=frozenset({"gpu", "big one", "host"}), launcher="docker"), here="host")

    assert said.sentence == "run 01jq waits, and no agent is alive"
    assert said.hint == "start one: `flow-agent start -l 'big one' -l gpu --launcher docker`"


def test_an_agent_without_a_sign_of_life_does_not_count_but_is_named():
    said = why(run(), agent("old", silent=600))

    assert "no agent is alive; the last one, 'old', gave a sign of life 10 min ago" in said.sentence


def test_how_long_an_agent_counts_as_alive_can_be_told():
    quiet = agent("quiet", silent=100)

    assert "no agent is alive" in why(run(), quiet).sentence
    assert "can take it now" in why(run(), quiet, alive_within=180).sentence


def test_a_label_that_nobody_has_is_named_with_the_nearest_agent():
    far, near = agent("far", labels=frozenset({"z"})), agent("near", labels=frozenset({"eu"}))

    said = why(run(labels=frozenset({"eu", "gpu"})), far, near)

    assert said.sentence == "run 01jq waits for label 'gpu', which no live agent has; the nearest, 'near', lacks 'gpu'"
    assert said.hint == "start one: `flow-agent start -l eu -l gpu`"


@pytest.mark.parametrize(("wanted", "offered"), [("gpuu", "gpu"), ("GPU", "gpu"), ("s3-flow-store", "s3-flow-storage")])
def test_a_label_that_looks_misspelt_is_answered_with_the_one_there_is(wanted, offered):
    said = why(run(labels=frozenset({wanted})), agent(labels=frozenset({offered, "other"})))

    assert repr(offered) in said.hint


def test_labels_that_only_several_agents_have_together_are_explained():
    said = why(
        run(labels=frozenset({"a", "b"})), agent("x", labels=frozenset({"a"})), agent("y", labels=frozenset({"b"}))
    )

    assert "all of its labels and its launcher at once; the nearest, 'x', lacks 'b'" in said.sentence


def test_a_flow_in_local_storage_of_another_machine_points_there():
    local = replace(FLOW, storage={"type": "Local"}, labels=("laptop",))

    said = why(run(labels=frozenset({"laptop"})), agent(), registration=local)

    assert "machine 'laptop'" in said.hint


def test_a_launcher_that_nobody_offers_is_named():
    said = why(run(launcher="docker"), agent())

    assert "waits for launcher 'docker', which no live agent offers" in said.sentence
    assert "--launcher docker" in said.hint


def test_a_run_without_labels_among_agents_that_want_labels_says_so():
    said = why(run(), agent(only_labelled=True))

    assert said.sentence == "run 01jq has no labels, and runs with labels are all that is taken by agent 'one'"
    assert "without --only-labelled" in said.hint


def test_agents_that_drain_take_nothing_more():
    assert "only ends what it runs (draining)" in why(run(), agent(draining=True)).sentence
    both = why(run(), agent("a", draining=True), agent("b", draining=True)).sentence
    assert "agents 'a' and 'b' could take it, but only end what they run" in both


def test_full_agents_are_listed_with_their_slots():
    said = why(run(), agent(running=2), agent("two", running=3, limit=3), agent("d", draining=True), waiting_ahead=4)

    assert said.sentence == (
        "run 01jq waits for a free slot ('one' runs 2 of 2, 'two' runs 3 of 3), and 4 come before it"
    )
    assert "--limit" in said.hint


def test_a_free_agent_is_named_as_the_one_that_can_take_it():
    said = why(run(), agent("full", running=2), agent("free", running=1))

    assert said.sentence == "run 01jq waits, and agent 'free' can take it now"


def test_a_claimed_run_says_by_whom_and_since_when():
    said = why(run(State.CLAIMED, agent="one", claimed_at=NOW - 3), agent())

    assert said.sentence == (
        "agent 'one' has been preparing it (fetching, verifying) for 3.0 s; its last sign of life was 1.0 s ago"
    )
    assert said.hint == "`flow-agent logs 01jq` says what it waits for"


def test_a_running_run_says_by_whom_since_when_and_how_to_follow_it():
    said = why(run(State.RUNNING, agent="one", started_at=NOW - 90, cancel_requested=True), agent())

    assert said.sentence.startswith("agent 'one' has run it for 90 s, and was asked to cancel it")
    assert said.hint == "`flow-agent logs -f 01jq` follows it"


def test_a_running_run_whose_agent_is_silent_says_what_comes():
    said = why(run(State.RUNNING, agent="one", started_at=NOW - 90), agent(silent=65))

    assert "its last sign of life was 65 s ago" in said.sentence
    assert said.hint.startswith("start an agent: `flow-agent start`")
    assert "goes on with the run" in said.hint
    assert "not listed any more" in why(run(State.CLAIMED, agent="gone", claimed_at=NOW)).sentence


@pytest.mark.parametrize(
    ("state", "seen", "said"),
    [
        (State.RUNNING, 65, "its lease ends at about 2030-03-17 17:47:35 UTC"),
        (State.RUNNING, 600, "its lease has ended"),
        (State.CLAIMED, 40, "its lease has ended"),
    ],
)
def test_a_silent_agent_s_lease_is_told_where_it_is_known(state, seen, said):
    held = run(state, agent="one", started_at=NOW - 90, claimed_at=NOW - 90)

    assert said in why(held, agent(silent=seen), leases=Leases(claimed=30, running=120)).sentence


def test_a_run_that_goes_on_without_an_agent_says_that_it_will_be_taken_over():
    said = why(run(State.RUNNING, agent=None, launcher="kubernetes"))

    assert "no agent watches it" in said.sentence
    assert "'kubernetes'" in said.hint


def test_an_ended_run_says_how_and_where():
    ended = {"agent": "one", "started_at": NOW - 10, "finished_at": NOW - 5, "attempt": 2}

    done = why(run(State.SUCCEEDED, reason=Reason.COMPLETED, **ended))
    assert done.sentence == "run 01jq succeeded on agent 'one' after 5.0 s in attempt 2"
    assert "flow-agent result 01jq" in done.hint

    failed = why(run(State.FAILED, reason=Reason.RAISED, detail="KeyError: 'x'", **ended))
    assert failed.sentence.endswith("in attempt 2, raised: KeyError: 'x'")
    assert "flow-agent logs 01jq" in failed.hint
    assert "flow-agent retry 01jq" in failed.hint

    cancelled = why(run(State.CANCELLED, reason=Reason.CANCELLED, finished_at=NOW - 50))
    assert cancelled.sentence == "run 01jq was cancelled after 10 s"


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_sentence(state):
    assert why(run(state), agent()).sentence


def test_durations_read_well():
    assert [span(s) for s in (-1, 0.25, 45, 119, 600, 7260, 200_000)] == [
        "0.0 s",
        "0.2 s",
        "45 s",
        "119 s",
        "10 min",
        "2 h 1 min",
        "2 days",
    ]


def test_a_run_that_waits_for_a_slot_of_a_limit_says_which_and_how_to_change_it():
    limit = Limit(kind="flow", name="nightly etl", slots=2, taken=2)
    waiting = run(flow="nightly etl")

    said = why(waiting, agent(), limits=[limit])

    assert "flow 'nightly etl' is limited to 2 at a time, and 2 are taken" in said.sentence
    assert "`flow-agent limits set 'nightly etl' N --flow`" in said.hint
    assert "limited" not in why(waiting, agent(), limits=[replace(limit, taken=1)]).sentence
