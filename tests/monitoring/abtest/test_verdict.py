"""When a version is shipped, kept out, or waited for."""

import re

import numpy as np
import pytest
import scipy.stats

from vision.monitoring.abtest.comparisons import Difference
from vision.monitoring.abtest.verdict import Evidence, Guardrail, decide, judge_guardrails


def difference(value, error, units=5000):
    return Difference(0.0, value, value, error, np.inf, units, 1.0, 0.0, 0.0)


def guardrail(state):
    return Guardrail("latency", 5.0, difference(0, 1), 0.5, 0.5, state)


BETTER = {"low": 0.005, "high": 0.02}
UNCLEAR = {"low": -0.005, "high": 0.02}
SEQUENTIAL = {"is_sequential": True}


@pytest.mark.parametrize(
    "changes, decision, reason",
    [
        (BETTER, "ship", r"is better, a gain of \+0.005 to \+0.02\."),
        (BETTER | {"guardrails": [guardrail("holds")]}, "ship", "every guardrail holds"),
        (BETTER | {"guardrails": [guardrail("broken")]}, "keep", "breaks the guardrail on latency"),
        (BETTER | {"guardrails": [guardrail("open")]}, "keep", "not shown to hold at the planned"),
        (
            BETTER | SEQUENTIAL | {"guardrails": [guardrail("open")]},
            "continue",
            "not shown to hold",
        ),
        (BETTER | {"effect": -0.01}, "keep", r"is worse: a reduction of -0.02 to -0.005"),
        ({"low": -0.02, "high": -0.005}, "keep", "is worse"),
        ({"low": -0.02, "high": -0.005, "effect": -0.01}, "ship", "is better, a reduction of"),
        ({"low": -0.003, "high": 0.009}, "keep", "below the 0.01 that would matter"),
        (UNCLEAR, "keep", "No gain is shown at the planned size"),
        (UNCLEAR | SEQUENTIAL, "continue", "No gain is shown: it may be"),
        (BETTER | {"progress": 0.4}, "continue", "40% of the planned size"),
        (BETTER | SEQUENTIAL | {"progress": 0.4}, "ship", "is better"),
        (BETTER | {"progress": 0.4, "guardrails": [guardrail("broken")]}, "keep", "breaks"),
        (BETTER | {"units": 29}, "continue", "29 measured units, fewer than 30"),
        (BETTER | SEQUENTIAL | {"units": 99}, "continue", "fewer than 100"),
        (BETTER | {"doubts": ["90 and 10 units"]}, "continue", "decided: 90 and 10 units"),
    ],
)
def test_verdicts(changes, decision, reason):
    plain = {"effect": 0.01, "units": 5000, "progress": 1.2}
    result = decide(Evidence(**(plain | changes)))
    assert result.decision == decision
    assert len(result.reason.split(". ")) == 1  # a sentence
    assert re.search(reason, result.reason), result.reason


@pytest.mark.parametrize("is_sequential", [False, True])
def test_guardrails(is_sequential):
    judged = judge_guardrails(
        [
            ("latency", 5.0, difference(0.0, 0.5)),
            ("latency", 5.0, difference(9.0, 0.5)),
            ("accuracy", -0.01, difference(0.001, 0.001)),
            ("accuracy", -0.01, difference(-0.03, 0.001)),
            ("accuracy", -0.01, difference(-0.01, 0.001)),
            ("accuracy", -0.01, difference(0.001, 0.001, units=20)),
        ],
        0.05,
        is_sequential,
    )
    states = [guardrail.state for guardrail in judged]
    assert states == ["holds", "broken", "holds", "broken", "open", "open"]
    assert judge_guardrails([], 0.05, is_sequential) == []


def test_holm_corrects_for_the_number_of_guardrails():
    borderline = ("accuracy", -0.01, difference(0.009, 0.01))  # p 0.029 alone
    assert judge_guardrails([borderline], 0.05, False)[0].state == "holds"
    others = [("latency", 5.0, difference(5.0, 1.0))] * 2
    assert judge_guardrails([borderline, *others], 0.05, False)[0].state == "open"


@pytest.mark.parametrize("is_sequential", [False, True])
def test_a_guardrail_at_its_margin_is_rarely_broken_at_any_of_20_looks(is_sequential):
    """A broken one ends a test at every look, whether the test is sequential or not."""
    random = np.random.default_rng(1)
    steps = random.normal(size=(300, 20)).cumsum(1)
    looks = np.arange(1, 21)
    naive = (scipy.stats.norm.sf(steps / np.sqrt(looks)) < 0.05).any(1).mean()
    broken = 0
    for path in steps:
        judged = (
            judge_guardrails([("a", 0.5, difference(0.5 + d, e))], 0.05, is_sequential)[0]
            for d, e in zip(path / looks, 1 / np.sqrt(looks), strict=True)
        )
        broken += any(guardrail.state == "broken" for guardrail in judged)
    assert naive > 0.15 and broken / 300 <= 0.05, (naive, broken)


def test_false_positives_of_guardrails():
    """Two measures exactly as bad as their margins: either is called held in 5 % of tests."""
    random = np.random.default_rng(0)
    held = 0
    for first, second in random.normal(size=(2000, 2)):
        judged = judge_guardrails(
            [("a", -1.0, difference(first - 1, 1.0)), ("b", 1.0, difference(second + 1, 1.0))],
            0.05,
            False,
        )
        held += any(guardrail.state == "holds" for guardrail in judged)
    assert 0.03 <= held / 2000 <= 0.07
