"""What a requirement may be, what a rule answers, and that damaged evidence is refused."""

import copy

import numpy as np
import pytest

from vision.errors import UserError
from vision.reference.unsure import Requirement, Rule, parse_evidence, parse_requirement, rule_for

CONTENTS = {
    "format": 1,
    "images": 400,
    "split": "val",
    "source": "digits",
    "step": 3,
    "temperature": 1.0,
    "confidence": 0.95,
    "precision": {
        "threshold": [0.9, 0.6, 0.0],
        "answered": [100, 200, 400],
        "right": [100, 199, 380],
        "at_least": [0.963, 0.972, 0.92],
    },
    "coverage": {"level": [0.5, 0.9, 0.95], "probability": [0.4, 0.2, 0.1]},
    "rule": "precision=0.95",
}
P = np.array([[0.7, 0.25, 0.05], [0.45, 0.35, 0.2], [0.3, 0.3, 0.4], [0.34, 0.33, 0.33]])


def evidence(**changes):
    return parse_evidence(CONTENTS | changes, "unsure.json", "measure again")


def test_requirements():
    assert parse_requirement("precision=0.99", "--unsure") == Requirement("precision", 0.99)
    assert parse_requirement("0.9", "--unsure") == Requirement("precision", 0.9)
    assert str(parse_requirement("coverage=.95", "--unsure")) == "coverage=0.95"
    assert str(parse_requirement("threshold=0.9999999", "--unsure")) == "threshold=0.9999999"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("precision=1", "precision must be above 0 and below 1, got '1'"),
        ("precision=0", "above 0 and below 1"),
        ("99", "precision must be above 0 and below 1"),
        ("coverage=inf", "coverage must be above 0 and below 1"),
        ("precision=nan", "--unsure must be precision=0.99, coverage=0.95 or threshold=0.9"),
        ("recall=0.9", "--unsure must be precision=0.99, coverage=0.95 or threshold=0.9"),
        ("precision", "--unsure must be"),
        ("", "--unsure must be"),
    ],
)
def test_wrong_requirements(text, reason):
    with pytest.raises(UserError) as refused:
        parse_requirement(text, "--unsure")
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_a_precision_takes_the_last_threshold_of_an_unbroken_sequence():
    """With 100 answers at least 0.9638 can be promised, so the sequences start there and at 200."""
    assert evidence().rule_of(Requirement("precision", 0.96)) == Rule(
        Requirement("precision", 0.96), 0.6
    )
    assert evidence().rule_of(Requirement("precision", 0.91)).least == 0.0
    # 0.97 takes 122 answers
    assert evidence().rule_of(Requirement("precision", 0.97)).least == 0.6
    # its confidence would not be that of a precision that was decided on before
    text = "precision=0.97 is possible, with less confidence if you choose it because of"
    with pytest.raises(UserError, match=text):
        evidence().rule_of(Requirement("precision", 0.98))


def test_a_coverage_takes_the_next_level():
    assert evidence().rule_of(Requirement("coverage", 0.9)).least == 0.2
    assert evidence().rule_of(Requirement("coverage", 0.91)).least == 0.1
    assert evidence().rule_of(Requirement("coverage", 0.1)).least == 0.4


def test_a_threshold_answers_or_is_unsure():
    rule = Rule(Requirement("threshold", 0.4), 0.4)
    assert rule.unsure(P).tolist() == [False, False, False, True]
    judged = rule.judge([("cat", 0.34), ("dog", 0.33)])
    assert judged.unsure and judged.members == ()


def test_a_set_has_the_best_class_even_if_it_is_improbable():
    rule = Rule(Requirement("coverage", 0.9), 0.35)
    assert rule.sets(P).tolist() == [
        [True, False, False],
        [True, True, False],
        [False, False, True],
        [True, False, False],
    ]
    assert rule.unsure(P).tolist() == [False, True, False, False]
    for row, members in zip(P, rule.sets(P), strict=True):
        order = np.argsort(-row, kind="stable")
        ranked = [(f"{i}", row[i]) for i in order]
        names = tuple(f"{i}" for i in order if members[i])
        assert rule.judge(ranked).members == names


def test_the_rule_of_a_model():
    assert evidence().own_rule == Rule(Requirement("precision", 0.95), 0.6)
    assert evidence(rule=None).own_rule is None
    assert rule_for("rule", evidence(), "--unsure", "measure") == evidence().own_rule
    with pytest.raises(UserError, match="--unsure=rule: no rule was chosen for this model: ask"):
        rule_for("rule", evidence(rule=None), "--unsure", "measure")
    with pytest.raises(UserError, match="nothing was measured on validation images: measure"):
        rule_for("precision=0.9", None, "--unsure", "measure")
    assert rule_for("threshold=0.9", None, "--unsure", "measure").least == 0.9


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "thresholds of format 2, this version reads 1: measure again, or update"),
        ({"images": -1}, "images must be an integer of at least 0"),
        ({"rule": "precision=0.999"}, "its rule is not possible"),
        ({"rule": "always"}, "its rule is not possible"),
        ({"coverage": {"level": [0.5], "probability": []}}, "coverage must have columns of one"),
        ({"coverage": {"level": [0.9, 0.5], "probability": [0.1, 0.2]}}, "level must increase"),
        ({"precision": CONTENTS["precision"] | {"at_least": [2.0] * 3}}, "a number from 0 to 1"),
        ({"confidence": 1}, "confidence must be a number of at least 0.5 and below 1, got 1"),
        ({"confidence": 0.4}, "confidence must be a number of at least 0.5 and below 1"),
        ({"images": 399}, "precision.answered must be at most images"),
        (
            {"precision": CONTENTS["precision"] | {"right": [100, 201, 380]}},
            "precision.right must be at most precision.answered",
        ),
        (
            {"precision": CONTENTS["precision"] | {"threshold": [0.9, 0.9, 0.0]}},
            "precision.threshold must decrease",
        ),
        (
            {"coverage": CONTENTS["coverage"] | {"probability": [0.4, 0.1, 0.2]}},
            "coverage.probability must not increase",
        ),
    ],
)
def test_damaged_evidence_is_refused(changes, reason):
    with pytest.raises(UserError) as refused:
        evidence(**changes)
    assert reason in str(refused.value) and "Traceback" not in str(refused.value)


def test_evidence_may_be_empty():
    """Of an image or two, nothing can be promised."""
    contents = copy.deepcopy(CONTENTS) | {"rule": None}
    contents["precision"] = dict.fromkeys(contents["precision"], [])
    contents["coverage"] = dict.fromkeys(contents["coverage"], [])
    nothing = parse_evidence(contents, "unsure.json", "measure again")
    for requirement in (Requirement("precision", 0.5), Requirement("coverage", 0.5)):
        with pytest.raises(UserError):
            nothing.rule_of(requirement)
