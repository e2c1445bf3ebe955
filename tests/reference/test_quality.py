"""A bundle's quality, and estimates of accuracy without labels, against independent formulas."""

import json

import numpy as np
import pytest

from tests.support.answering import answer
from vision.errors import UserError
from vision.reference import quality
from vision.reference.quality import Estimate

CLASSES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def drawn():
    return answer(1500, np.random.default_rng(0))


@pytest.fixture(scope="module")
def contents(drawn):
    return {"quality": json.loads(json.dumps(quality.describe(*drawn)))}


@pytest.fixture(scope="module")
def own(contents):
    return quality.parse(contents, CLASSES, "bundle.json")


def estimates(own, confidence, parts=1):
    estimate = Estimate(own)
    for part in np.array_split(confidence, parts):
        estimate.add(part)
    assert estimate.rows == len(confidence)
    return estimate.accuracies()


def test_counts_and_calibration_are_those_of_the_images(drawn, own):
    probabilities, truth = drawn
    predicted = probabilities.argmax(1)
    for place in range(4):
        assert own.images[place] == (truth == place).sum()
        assert own.right[place] == ((truth == place) & (predicted == place)).sum()
    assert own.accuracy == pytest.approx((predicted == truth).mean())
    confidence = probabilities.max(1)
    assert own.mean_confidence == pytest.approx(confidence.mean())
    gaps = 0.0
    for i in range(quality.BINS):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        assert own.bins.images[i] == inside.sum()
        if inside.any():
            gap = (predicted == truth)[inside].mean() - confidence[inside].mean()
            gaps += abs(gap) * inside.mean()
            assert own.bins.confidence[i] == pytest.approx(confidence[inside].mean())
    assert own.error["value"] == pytest.approx(gaps, abs=1e-6)
    assert own.error["low"] <= own.error["high"] <= 1


def test_cbpe_is_the_mean_of_isotonic_regression(drawn, own):
    """Against scikit-learn's, which NannyML calibrates with."""
    isotonic = pytest.importorskip("sklearn.isotonic")
    probabilities, truth = drawn
    confidence = probabilities.max(1).astype(np.float64)
    fitted = isotonic.IsotonicRegression(out_of_bounds="clip").fit(
        confidence, probabilities.argmax(1) == truth
    )
    other = answer(700, np.random.default_rng(3), hardness=2.0)[0].max(1)
    expected = fitted.predict(other.astype(np.float64)).mean()
    for parts in (1, 7):
        assert estimates(own, other, parts)["cbpe"] == pytest.approx(expected, abs=1e-6)


def test_atc_is_the_share_above_the_threshold_of_the_papers_equation(drawn, own):
    probabilities, truth = drawn
    confidence = np.sort(probabilities.max(1))
    wrong = (probabilities.argmax(1) != truth).sum()
    assert own.threshold == confidence[wrong]  # below it lie as many as are wrong
    other = answer(700, np.random.default_rng(3), hardness=2.0)[0].max(1)
    assert estimates(own, other)["atc"] == (other >= confidence[wrong]).mean()


def test_doc_is_the_difference_of_the_confidences(drawn, own):
    probabilities, truth = drawn
    other = answer(700, np.random.default_rng(3), hardness=2.0)[0].max(1)
    drop = probabilities.max(1).mean(dtype=float) - other.mean(dtype=float)
    expected = (probabilities.argmax(1) == truth).mean() - drop
    assert estimates(own, other)["doc"] == pytest.approx(expected)
    assert estimates(own, np.zeros(5))["doc"] == 0


def test_of_the_reference_itself_all_estimate_its_accuracy(drawn, own):
    for name, value in estimates(own, drawn[0].max(1)).items():
        assert value == pytest.approx(own.accuracy, abs=1e-6), name


@pytest.mark.parametrize("hardness", [0.7, 1.0, 2.0])
def test_they_follow_the_truth_where_confidence_keeps_its_meaning(own, hardness):
    probabilities, truth = answer(20_000, np.random.default_rng(4), hardness)
    accuracy = (probabilities.argmax(1) == truth).mean()
    estimated = estimates(own, probabilities.max(1))
    assert estimated["cbpe"] == pytest.approx(accuracy, abs=0.03)
    assert estimated["atc"] == pytest.approx(accuracy, abs=0.1)
    assert estimated["doc"] == pytest.approx(accuracy, abs=0.08)


@pytest.mark.parametrize("right", [0, 3, 10])
def test_models_that_are_always_or_never_right(right):
    probabilities = np.tile(np.float32([0.7, 0.3]), (10, 1))
    truth = np.ones(10, int)
    truth[:right] = 0
    own = quality.parse(
        {"quality": json.loads(json.dumps(quality.describe(probabilities, truth)))},
        CLASSES[:2],
        "bundle.json",
    )
    assert own.accuracy == right / 10
    estimated = estimates(own, np.full(5, 0.7, np.float32))
    assert estimated["cbpe"] == pytest.approx(right / 10)
    # equal confidences cannot be divided: all or none are above
    assert estimated["atc"] == (1 if right == 10 else 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        (None, "does not say how good its model was: export it again"),
        ({"format": 2}, "of format 2, this version reads 1"),
        ({"images": [1, 2]}, "must have 4 counts"),
        ({"images": [0] * 4, "right": [0] * 4}, "must have 4 counts"),
        ({"right": [10**6] * 4}, "must have 4 counts"),
        ({"mean_confidence": 1.5}, "a number from 0 to 1"),
        ({"cbpe": {"confidence": [0.5, 0.4], "accuracy": [0, 1]}}, "increasing confidences"),
        ({"cbpe": {"confidence": [0.5], "accuracy": [0, 1]}}, "increasing confidences"),
        ({"atc": {}}, "threshold"),
    ],
)
def test_a_reference_that_is_missing_or_damaged(contents, changes, message):
    changed = {} if changes is None else {"quality": contents["quality"] | changes}
    with pytest.raises(UserError, match=message) as error:
        quality.parse(changed, CLASSES, "bundle.json")
    assert len(str(error.value).splitlines()) == 1
