"""When a window alarms: the level of the tests, their power, the correction, the floor of size."""

import json

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from tests.support.drifting import CLASSES, draw, reference_of, window_of
from vision.errors import UserError
from vision.reference import statistics, verdict
from vision.reference.features import outputs
from vision.reference.sketch import sketch
from vision.reference.verdict import Limits, assess
from vision.reference.window import SAMPLE, Window

FEW = Limits(alpha=0.05)  # 999 divisions


@pytest.fixture(scope="module")
def reference():
    return reference_of(600, np.random.default_rng(0))


def test_a_shift_is_seen_and_named(reference):
    random = np.random.default_rng(2)
    drawn = list(draw(300, random))
    drawn[0][:, 0] += 1  # brightness alone
    result = assess(reference, window_of(reference, drawn))
    alarming = [name for name, m in result["features"].items() if m.get("alarm")]
    assert result["alarm"] and alarming == ["brightness"]
    measures = result["features"]["brightness"]
    assert measures["kl"] > 0.2 and measures["kl_alarm"] and measures["p"]["kl"] < 0.001
    assert result["classes"] == []
    assert "p" not in result["features"]["aspect_ratio"]  # one value only


def test_the_order_of_images_does_not_matter():
    """As when the reference's images, or a window's, come class by class."""
    random = np.random.default_rng(20)
    looks, probabilities, embeddings = draw(1000, random)
    order = np.argsort(embeddings[:, -1])
    contents = {"drift": statistics.describe(looks, probabilities[order], embeddings[order])}
    by_class = statistics.parse(contents, CLASSES, "bundle.json")
    drawn = draw(1000, random)
    order = np.argsort(drawn[2][:, 0])
    for window in (drawn, tuple(array[order] for array in drawn)):
        features = assess(by_class, window_of(by_class, window))["features"]
        assert features["embedding_mmd"]["adjusted"] > 0.05
        assert features["embedding_shift"]["adjusted"] > 0.05


def test_other_embeddings_and_other_classes_are_seen(reference):
    random = np.random.default_rng(3)
    drawn = list(draw(300, random, classes=(0.1, 0.2, 0.3, 0.4)))
    drawn[2] = drawn[2] * 1.5
    features = assess(reference, window_of(reference, drawn))["features"]
    alarming = [name for name, m in features.items() if m.get("alarm")]
    assert "class" in alarming and "embedding_mmd" in alarming
    moved = list(draw(300, random))
    moved[2] = moved[2] + 1.5
    result = assess(reference, window_of(reference, moved))
    assert result["features"]["embedding_shift"]["alarm"]


def test_the_classes_that_changed_are_named(reference):
    random = np.random.default_rng(4)
    drawn = draw(400, random, classes=(0.05, 0.3, 0.2, 0.45))
    result = assess(reference, window_of(reference, drawn))
    assert sorted(result["classes"][:2]) == [0, 3]


def test_a_huge_window_does_not_alarm_for_nothing(reference):
    """A twentieth of a standard deviation is certain with 50,000 images, and still nothing."""
    random = np.random.default_rng(5)
    large = reference_of(50_000, random)
    result = assess(large, window_of(large, draw(50_000, random, shift=0.05)))
    adjusted = [m["adjusted"] for m in result["features"].values() if "adjusted" in m]
    assert min(adjusted) < 0.01 and not result["alarm"]
    strict = Limits(effect=0.0)
    assert assess(large, window_of(large, draw(50_000, random, shift=0.05)), strict)["alarm"]


def test_a_small_window_does_not_alarm_by_its_divergence_alone(reference):
    """KL of 30 images is large whatever they are; its p-value says so."""
    random = np.random.default_rng(6)
    by_kl = 0
    for number in range(5):
        result = assess(reference, window_of(reference, draw(30, random)), FEW, number)
        by_kl += any(m.get("kl_alarm", False) for m in result["features"].values())
        assert not result["alarm"]
    assert by_kl >= 3


@pytest.mark.parametrize("rows", [0, 1, 29])
def test_too_few_images_are_not_tested(reference, rows):
    result = assess(reference, window_of(reference, draw(rows, np.random.default_rng(7), 3.0)))
    assert not result["alarm"] and result["rows"] == rows
    assert all("p" not in m for m in result["features"].values())


def test_a_feature_that_is_unknown_is_left_out(reference):
    drawn = draw(100, np.random.default_rng(8))
    drawn[0][:, 6] = np.nan
    measures = assess(reference, window_of(reference, drawn))["features"]["size"]
    assert measures == {"rows": 0}


def test_permutation_p_values_agree_with_asymptotic_ones(reference):
    drawn = draw(400, np.random.default_rng(9), classes=(0.36, 0.32, 0.21, 0.11))
    measures = assess(reference, window_of(reference, drawn))["features"]["class"]
    theirs = scipy.stats.chi2.sf(measures["statistic"], CLASSES - 1)
    assert measures["p"]["chi_squared"] == pytest.approx(theirs, abs=0.05)


def test_the_shift_of_means_is_hotellings_test_of_a_small_reference():
    """Hotelling 1931: T² of two normal samples is distributed as F."""
    random = np.random.default_rng(21)
    small = reference_of(40, random)
    size, rest = 30, 40
    for shift in (0.0, 0.0, 0.0, 0.1, 0.1, 0.15):
        window = window_of(small, draw(size, random, shift))
        measures = assess(small, window, FEW)["features"]["embedding_shift"]
        parts = [np.asarray(part, np.float64) for part in (window.sketches, small.sample)]
        dimensions = parts[0].shape[1]
        within = sum((len(part) - 1) * np.cov(part.T) for part in parts) / (size + rest - 2)
        shifted = parts[0].mean(0) - parts[1].mean(0)
        squared = size * rest / (size + rest) * shifted @ np.linalg.solve(within, shifted)
        freedom = size + rest - dimensions - 1
        ratio = squared * freedom / (dimensions * (size + rest - 2))
        theirs = scipy.stats.f.sf(ratio, dimensions, freedom)
        assert measures["p"]["mahalanobis"] == pytest.approx(theirs, abs=0.05)


def test_the_same_window_gives_the_same_verdict(reference):
    drawn = draw(200, np.random.default_rng(10), 0.2)
    first = assess(reference, window_of(reference, drawn))
    assert first == assess(reference, window_of(reference, drawn))
    assert json.loads(json.dumps(first)) == first  # plain numbers


def test_holm_is_that_of_statsmodels():
    random = np.random.default_rng(0)
    for count in (0, 1, 2, 12):
        p_values = random.random(count) ** 3
        theirs = multipletests(p_values, method="holm")[1] if count else []
        np.testing.assert_allclose(verdict.holm(p_values), theirs)


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.05])
def test_divisions_suffice_for_the_correction(alpha):
    limits = Limits(alpha=alpha)
    assert 12 / (limits.permutations + 1) <= alpha


def test_a_window_is_the_same_in_parts(reference):
    looks, probabilities, embeddings = draw(2500, np.random.default_rng(11))
    best, numbers = outputs(probabilities)
    values = np.concatenate([looks, numbers], 1)
    columns = values, best, sketch(embeddings), np.arange(2500.0)
    whole = Window(reference)
    whole.add(*columns)
    parts = Window(reference)
    for start in range(0, 2500, 333):
        parts.add(*(column[start : start + 333] for column in columns))
    parts.add(*(column[:0] for column in columns))
    assert parts.rows == whole.rows == 2500 and (parts.start, parts.end) == (0, 2499)
    np.testing.assert_array_equal(parts.classes, np.bincount(best, minlength=CLASSES))
    for name, counts in whole.counts.items():
        np.testing.assert_array_equal(counts, parts.counts[name])
        assert counts.sum() == 2500
    assert len(parts.sketches) == len(whole.sketches) == SAMPLE


def test_the_sample_of_sketches_is_of_all_rows(reference):
    window = Window(reference)
    for start in range(0, 10_000, 500):
        sketches = np.full((500, 16), start, np.float16)
        values = np.zeros((500, 9), np.float32)
        window.add(values, np.zeros(500, int), sketches, np.zeros(500))
    _, counts = np.unique(window.sketches[:, 0], return_counts=True)
    assert len(counts) == 20 and scipy.stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda drift: drift.pop("sketch"), "'reference.drift.sketch' is missing"),
        (lambda drift: drift.update(format=2), "format 2, this version reads 1"),
        (lambda drift: drift.update(classes=[1, 2]), "must have 4 numbers"),
        (lambda drift: drift["features"]["size"]["edges"].reverse(), "increasing edges"),
        (lambda drift: drift["features"]["size"]["counts"].pop(), "increasing edges"),
        (lambda drift: drift["sketch"].update(kind="other/1"), "kind other/1"),
        (lambda drift: drift["sketch"].update(sample="%"), "base64"),
        (lambda drift: drift["sketch"].update(covariance=[[1.0]]), "covariance must be 16 lists"),
        (lambda drift: drift["sketch"].update(mean=[1.0]), "mean must be 16 numbers"),
    ],
    ids=range(9),
)
def test_a_damaged_reference_is_refused(change, message):
    random = np.random.default_rng(0)
    drawn = draw(100, random)
    contents = {"drift": statistics.describe(*drawn)}
    statistics.parse(contents, CLASSES, "bundle.json")
    change(contents["drift"])
    with pytest.raises(UserError, match=message):
        statistics.parse(contents, CLASSES, "bundle.json")


@pytest.mark.parametrize("contents", [None, {}, {"images": 3}])
def test_a_bundle_without_a_reference_says_what_to_do(contents):
    with pytest.raises(UserError, match="no reference to measure drift from: export it again"):
        statistics.parse(contents, CLASSES, "bundle.json")
