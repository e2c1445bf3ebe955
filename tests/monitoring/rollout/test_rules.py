"""The rule of a rollout: properties over any evidence, and what it decides in plain cases."""

import dataclasses
import math

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.monitoring.rollout.plan import GUARDS, Plan, parse_guards, parse_steps
from vision.monitoring.rollout.rules import Action, Evidence, Reading, decide
from vision.monitoring.windows import Span

PLAN = Plan("pets", "1", "2", guards=("errors", "p99"), min_labels=0)
FINE = [Reading("errors", 0.01, 0.01, -0.01, 900, 1.0), Reading("p99", 0.1, 0.1, -0.01, 900, 1.0)]
GOOD = Evidence(1, 1000, 60.0, FINE)

ANY = settings(max_examples=1000, database=None, phases=[Phase.generate])  # the first that fits
numbers = st.floats(0, 1e6)
chances = st.sampled_from([0.0, 1e-4, 0.01, 1.0]) | st.floats(0, 1)  # below levels, too
readings = st.lists(
    st.builds(
        Reading,
        st.sampled_from(GUARDS),
        numbers,
        numbers,
        st.floats(-1, 1),
        numbers,
        chances,
    ),
    max_size=5,
    unique_by=lambda reading: reading.name,
)
evidence = st.builds(
    Evidence,
    st.integers(0, 3),
    st.integers(0, 3000),
    numbers,
    readings,
    chances,
    st.integers(0, 300),
    st.none() | st.integers(0, 3000),
    st.lists(st.just("a server is down"), max_size=1),
)
plans = st.builds(
    lambda answers, rows, seconds, guards: Plan(
        "pets", "1", "2", window=Span(rows, seconds), min_answers=answers, guards=guards
    ),
    st.integers(1, 1000),
    st.integers(0, 2000),
    numbers,
    st.sets(st.sampled_from(GUARDS)).map(tuple),
)


# of a step that may be complete: within the limits or just beyond, measured, with labels and log
complete = st.builds(
    Evidence,
    st.integers(0, 3),
    st.integers(1000, 3000),
    st.floats(1e6, 2e6),
    st.lists(
        st.builds(
            Reading,
            st.sampled_from(GUARDS),
            numbers,
            numbers,
            st.sampled_from([-0.5, -0.5, 0.5]),
            st.floats(90, 1e6),
            st.sampled_from([0.0, 0.01, 1.0, 1.0]),
        ),
        max_size=3,
        unique_by=lambda reading: reading.name,
    ),
    st.sampled_from([0.0, 1.0, 1.0, 1.0]),
    st.integers(100, 300),
    st.none() | st.integers(1000, 3000),
)


@given(plans, evidence)
def test_without_enough_answers_nothing_is_decided(plan, seen):
    seen = dataclasses.replace(seen, answers=min(seen.answers, plan.min_answers - 1))
    assert decide(plan, seen).action in (Action.WAIT, Action.PAUSE)


@given(plans, evidence)
def test_in_doubt_nothing_changes(plan, seen):
    decision = decide(plan, dataclasses.replace(seen, doubts=["a server is down"]))
    assert decision.action is Action.PAUSE and "a server is down" in decision.reason


@given(plans, evidence | complete)
def test_a_rollback_has_a_broken_guardrail_that_its_reason_tells(plan, seen):
    decision = decide(plan, seen)
    if decision.action is Action.ROLL_BACK:
        assert min(reading.p for reading in seen.readings) <= plan.alpha_of_step
        assert "Version 2 is worse" in decision.reason


@given(plans, evidence | complete)
def test_the_weight_rises_only_at_the_end_of_a_window_without_a_suspicion(plan, seen):
    decision = decide(plan, seen)
    if decision.action in (Action.RAISE, Action.FINISH):
        assert seen.answers >= max(plan.min_answers, plan.window.rows)
        assert seen.seconds >= plan.window.seconds and seen.split_p >= plan.mismatch
        assert all(r.excess <= 0 or r.units < 100 for r in seen.readings)
        assert (decision.action is Action.FINISH) == (seen.step == 3)


@given(plans, evidence | complete)
def test_a_broken_split_lets_only_failures_count(plan, seen):
    seen = dataclasses.replace(seen, split_p=0.0, doubts=())
    decision = decide(plan, seen)
    assert decision.action in (Action.WAIT, Action.HOLD, Action.ROLL_BACK)
    if decision.action is Action.ROLL_BACK:
        assert "of the requests failed" in decision.reason


@given(plans, evidence | complete)
def test_labels_of_mostly_one_version_never_count(plan, seen):
    plan = dataclasses.replace(plan, guards=("errors", "accuracy"))
    seen = dataclasses.replace(seen, labeled=(0.4, 0.9), labeled_p=0.0, split_p=1.0, doubts=())
    decision = decide(plan, seen)
    assert decision.action in (Action.WAIT, Action.HOLD, Action.ROLL_BACK)
    if decision.action is Action.HOLD:
        assert "come for 40.0% of version 1's answers and 90.0% of version 2's" in decision.reason
    assert "accuracy is" not in decision.reason


@pytest.mark.parametrize("action", [Action.RAISE, Action.FINISH, Action.ROLL_BACK, Action.HOLD])
def test_the_properties_are_of_evidence_that_decides(action):
    find(
        st.tuples(plans, complete),
        lambda pair: decide(*pair).action is action,
        settings=ANY,
    )


@pytest.mark.parametrize("action", [Action.HOLD, Action.ROLL_BACK])
def test_the_properties_are_of_splits_that_decide(action):
    def acts(pair):
        plan, seen = pair
        return decide(plan, dataclasses.replace(seen, split_p=0.0, doubts=())).action is action

    find(st.tuples(plans, complete), acts, settings=ANY)


def test_a_good_version_rises_and_finishes():
    assert decide(PLAN, GOOD).action is Action.RAISE
    assert decide(PLAN, dataclasses.replace(GOOD, step=3)).action is Action.FINISH


def test_nothing_finishes_that_was_not_compared():
    seen = dataclasses.replace(GOOD, step=3, readings=[FINE[0], Reading("p99")])
    decision = decide(PLAN, seen)
    assert decision.action is Action.WAIT and "measured: p99" in decision.reason


def test_no_traffic_waits():
    decision = decide(PLAN, Evidence(0, 0, 1e6, [Reading("errors"), Reading("p99")]))
    assert decision.action is Action.WAIT and "Version 2 got 0 requests" in decision.reason


@pytest.mark.parametrize(
    ("changes", "action", "reason"),
    [
        ({"answers": 600}, Action.WAIT, "600 of 1,000 requests"),
        ({"split_p": 1e-4}, Action.HOLD, "not split as 95:5 "),
        ({"logged": 3}, Action.WAIT, "log has 3 requests"),
        ({"readings": FINE[:1] + [Reading("p99")]}, Action.WAIT, "measured: p99"),
        (
            {"readings": [Reading("errors", 0.0, 0.02, 0.01, 900, 0.2)]},
            Action.WAIT,
            "2.00% instead of 0.00% of the requests failed",
        ),
        (
            {"readings": [Reading("errors", 0.0, 0.2, 0.19, 900, 1e-6), FINE[1]]},
            Action.ROLL_BACK,
            "20.00% instead of 0.00% of the requests failed (limit +0.01)",
        ),
    ],
    ids=["window", "split", "log", "unmeasured", "suspect", "broken"],
)
def test_what_else_may_happen(changes, action, reason):
    decision = decide(PLAN, dataclasses.replace(GOOD, **changes))
    assert decision.action is action and reason in decision.reason


def test_labels_are_awaited_where_they_are_asked_for():
    plan = dataclasses.replace(PLAN, guards=(*PLAN.guards, "accuracy"), min_labels=50)
    assert "10 labels of version 2" in decide(plan, dataclasses.replace(GOOD, labels=10)).reason
    assert decide(plan, dataclasses.replace(GOOD, labels=50)).action is Action.RAISE


def test_labels_count_only_if_accuracy_is_guarded():
    seen = dataclasses.replace(GOOD, labels=900, labeled=(0.4, 0.9), labeled_p=1e-9)
    assert decide(PLAN, seen).action is Action.RAISE
    plan = dataclasses.replace(PLAN, guards=(*PLAN.guards, "accuracy"))
    assert decide(plan, seen).action is Action.HOLD
    assert decide(dataclasses.replace(plan, mismatch=0.0), seen).action is Action.RAISE


def test_the_level_is_shared_by_steps_and_guardrails():
    """0.05 over four steps, and by Holm over two guardrails, is 0.00625."""
    for p, action in ((0.0062, Action.ROLL_BACK), (0.0063, Action.WAIT)):
        seen = [Reading("errors", 0.0, 0.1, 0.09, 900, p), FINE[1]]
        assert decide(PLAN, dataclasses.replace(GOOD, readings=seen)).action is action


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,1,100", "5,1,100", "0,100", "nan,100", "a", "1,200"]
)
def test_steps_must_rise_to_100(text):
    with pytest.raises(UserError, match="must be percentages that rise to 100"):
        parse_steps(text)


def test_a_rollout_compares_before_it_ends():
    with pytest.raises(UserError, match="compares nothing"):
        parse_steps("100")


@given(st.lists(st.floats(0.01, 99.99), min_size=1, max_size=20, unique=True))
def test_weights_are_the_steps(percentages):
    steps = parse_steps(",".join(map(repr, [*sorted(percentages), 100])))
    plan = dataclasses.replace(PLAN, steps=steps)
    for step, percent in enumerate(steps):
        weights = plan.weights(step)
        assert math.isclose(weights["2"], percent, rel_tol=1e-6)
        assert math.isclose(sum(weights.values()), 100)
    assert plan.weights(-1) == {"1": 100, "2": 0}


def test_guards_have_names():
    assert parse_guards("accuracy, errors") == ("errors", "accuracy")
    with pytest.raises(UserError, match="did you mean 'errors'"):
        parse_guards("error")
