"""The bootstrap counts as scikit-learn does on images that are really drawn, and covers what it
should."""

import json
import warnings

import numpy as np
import pytest

from vision.evaluation.measures import intervals, scores, statistics
from vision.evaluation.measures.margins import from_margins, margins
from vision.reference.shares import mcnemar


def made(images, classes, seed=0, skill=1.5, ties=False):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    logits = random.normal(size=(images, classes)) + skill * np.eye(classes)[labels]
    return (np.round(logits) if ties else logits).astype(np.float32), labels


@pytest.mark.parametrize(
    ("images", "classes", "ties"), [(300, 4, False), (200, 2, True), (12, 6, False), (60, 5, True)]
)
def test_weights_count_as_repeated_images_do(images, classes, ties):
    """Twelve images of six classes leave classes out of most draws."""
    logits, labels = made(images, classes, ties=ties)
    weights = np.concatenate([w for _, w in intervals._draws(images, images, 6, 3)], axis=1)
    predicted = logits.argmax(1)
    metrics, each = from_margins(*margins(labels, predicted, classes, weights))
    auc, average = intervals.weighted_ranks(logits, labels, weights)
    each |= {"roc_auc": auc, "average_precision": average}
    for d in range(6):
        rows = np.repeat(np.arange(images), weights[:, d].astype(int))
        assert len(rows) == images
        expected = scores.score(logits[rows], labels[rows])
        for name, values in metrics.items():
            assert values[d] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name
        for i, row in enumerate(scores.per_class(logits[rows], labels[rows], range(classes))):
            for name, values in each.items():
                if np.isnan(values[i, d]):
                    assert row[name] is None or not row["support"], (name, row)
                else:
                    assert values[i, d] == pytest.approx(row[name], abs=1e-9), name


def test_every_number_has_its_interval(monkeypatch):
    logits, labels = made(400, 3)
    names = ["a", "b", "c"]
    summary = intervals.with_intervals(logits, labels, names, draws=200)
    assert summary["metrics"].keys() == scores.score(logits, labels).keys()
    for numbers in (summary["metrics"], *summary["per_class"]):
        for number in numbers.values():
            if isinstance(number, dict):
                assert number["low"] <= number["value"] <= number["high"]
    accuracy = summary["metrics"]["accuracy"]
    error = np.sqrt(accuracy["value"] * (1 - accuracy["value"]) / 400)
    assert (accuracy["high"] - accuracy["low"]) == pytest.approx(2 * 1.96 * error, rel=0.15)
    monkeypatch.setattr(intervals, "CHUNK", 400 * 7)
    # whatever the chunks
    assert intervals.with_intervals(logits, labels, names, draws=200) == summary
    monkeypatch.setattr(intervals, "RANKED", 400 * 3 * 150)
    fewer = intervals.with_intervals(logits, labels, names, draws=200)
    assert fewer["bootstrap"]["ranking_draws"] == 150 and fewer["metrics"]["accuracy"] == accuracy
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(("images", "present"), [(1, [1]), (30, [2]), (30, [0, 2])])
def test_degenerate_data(images, present):
    logits, _ = made(images, 4)
    labels = np.resize(present, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = intervals.with_intervals(logits, labels, list("abcd"), draws=50)
    json.dumps(summary, allow_nan=False)
    assert summary["per_class"][3]["roc_auc"] == {"value": None}
    assert (summary["metrics"]["roc_auc"] == {"value": None}) == (len(present) == 1)
    without = intervals.with_intervals(logits, labels, list("abcd"), draws=0)
    assert without["bootstrap"] is None and without["metrics"]["accuracy"].keys() == {"value"}


def test_three_images_have_the_intervals_that_make_sense_of_them():
    logits = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    summary = intervals.with_intervals(logits, np.array([0, 1, 1]), ["a", "b"], draws=50)
    accuracy = summary["metrics"]["accuracy"]
    # Wilson's, in closed form: n / (n + z^2)
    assert accuracy == {"value": 1.0, "low": pytest.approx(3 / (3 + 1.959964**2)), "high": 1.0}
    bootstrapped = {"cohen_kappa", "macro_f1", "nll", "brier"}
    assert all(summary["metrics"][name].keys() == {"value"} for name in bootstrapped)
    assert summary["per_class"][0]["recall"]["low"] < 0.25


def test_intervals_cover_the_truth():
    """In 200 data sets of a known accuracy and macro recall, about 95 % of the intervals hold
    it."""
    random = np.random.default_rng(0)
    truth = 0.8
    covered = np.zeros(2)
    for seed in range(200):
        labels = random.integers(0, 3, 300)
        predicted = np.where(random.random(300) < truth, labels, (labels + 1) % 3)
        draws = intervals.margin_draws(labels, predicted, 3, 300, seed)
        ends = [np.quantile(draws[name], (0.025, 0.975)) for name in ("accuracy", "macro_recall")]
        covered += [low <= truth <= high for low, high in ends]
    assert (covered >= 180).all() and (covered <= 199).all()


def classifiers(random, images, a, b, both=0.5):
    """Whether two classifiers of accuracies a and b are right; of `both` of the images they share
    their luck."""
    shared = random.random(images)
    own = random.random((2, images))
    luck = np.where(random.random(images) < both, shared, own)
    return luck[0] < a, luck[1] < b


@pytest.mark.parametrize("both", [0.0, 0.9])
def test_equally_good_classifiers_are_rarely_told_apart(both):
    """200 pairs of equally good ones: at 5 % no more finds than a binomial distribution allows."""
    random = np.random.default_rng(1)
    finds = np.zeros(2)
    for seed in range(200):
        a, b = classifiers(random, 2000, 0.9, 0.9, both)
        change = statistics.paired_bootstrap(a, b, 500, seed)
        finds += (
            mcnemar((a & ~b).sum(), (~a & b).sum()) < 0.05,
            change["low"] > 0 or change["high"] < 0,
        )
    assert (finds <= 18).all()


def test_a_real_difference_is_found():
    random = np.random.default_rng(2)
    finds = np.zeros(2)
    for seed in range(200):
        a, b = classifiers(random, 2000, 0.93, 0.90)
        change = statistics.paired_bootstrap(a, b, 500, seed)
        finds += mcnemar((a & ~b).sum(), (~a & b).sum()) < 0.05, change["low"] > 0
        assert change["p"] < 0.05 or change["low"] <= 0.002
    assert (finds >= 180).all()


def test_paired_bootstrap_of_losses_and_of_nothing():
    random = np.random.default_rng(0)
    a, b = random.gamma(1, size=(2, 500))
    change = statistics.paired_bootstrap(a, b, 2000)
    error = np.std(a - b) / np.sqrt(500)
    assert change["difference"] == pytest.approx(np.mean(a - b))
    assert change["high"] - change["low"] == pytest.approx(2 * 1.96 * error, rel=0.08)
    same = statistics.paired_bootstrap(a, a)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    assert statistics.paired_bootstrap(a, b, 0).keys() == {"difference"}


@pytest.mark.parametrize("total", [1, 3, 50, 4000])
def test_intervals_of_shares_are_wilsons(total):
    from statsmodels.stats.proportion import proportion_confint

    for hits in {0, 1, total // 2, total - 1, total}:
        low, high = proportion_confint(hits, total, method="wilson")
        share = statistics.share(hits, total)
        assert (share["low"], share["high"]) == pytest.approx((low, high), abs=1e-12)
    assert statistics.share(0, 0) == {"value": None, "low": None, "high": None}


def test_three_of_three_are_not_certain():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 9
    summary = intervals.with_intervals(logits, np.arange(3), list("abc"), draws=100)
    accuracy = summary["metrics"]["accuracy"]
    assert accuracy == statistics.share(3, 3) and accuracy["low"] == pytest.approx(0.4385, abs=1e-4)
    for numbers in (summary["metrics"], *summary["per_class"]):
        for name, number in numbers.items():
            if isinstance(number, dict) and "low" in number:
                assert number["low"] < number["high"], name
    none_right = intervals.with_intervals(-logits, np.arange(3), list("abc"), draws=100)["metrics"]
    assert none_right["accuracy"]["low"] == 0 and none_right["accuracy"]["high"] > 0.5
    assert none_right["balanced_accuracy"]["high"] > 0.4


def test_the_interval_of_a_mean_of_recalls_covers_the_truth():
    """Balanced accuracy of 20, 60 and 5 images of three classes, in 2,000 data sets."""
    random = np.random.default_rng(0)
    support = np.array([20, 60, 5])
    truth = np.array([0.95, 0.7, 0.9])
    covered = 0
    for hits in random.binomial(support, truth, (2000, 3)):
        low, high = statistics.mean_of_shares(hits, support)
        covered += low <= truth.mean() <= high
    assert 0.93 < covered / 2000 < 0.99


def test_thousands_of_classes_take_little_memory():
    """No confusion matrix, whose 128 MB would be the largest array by far."""
    import tracemalloc

    logits, labels = made(100, 4000)
    tracemalloc.start()
    summary = intervals.with_intervals(logits, labels, [str(i) for i in range(4000)], draws=10)
    assert tracemalloc.get_traced_memory()[1] < 80e6
    tracemalloc.stop()
    assert summary["bootstrap"]["ranking_draws"] == 0
    assert summary["metrics"]["roc_auc"].keys() == {"value"}
