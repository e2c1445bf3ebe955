"""The score interval of a paired difference: against the likelihood itself, and its coverage."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, multinomial, norm

from vision.evaluation.measures.statistics import (
    mean_of_differences,
    paired_difference,
    paired_shares,
)
from vision.reference.shares import wilson


def score_test(only_a, only_b, total, difference):
    """Returns the score statistic of a difference; nuisance found by maximizing the likelihood."""
    neither = total - only_a - only_b
    low = max(0.0, -difference)

    def loss(share):  # of only_b
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = np.array([only_a, only_b, neither])
            logs = np.log([share + difference, share, 1 - 2 * share - difference])
            return -np.where(counts > 0, counts * logs, 0).sum()

    bounds = (low, (1 - difference) / 2)
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = total * (2 * best + difference - difference**2)
    return (only_a - only_b - total * difference) / np.sqrt(variance)


@pytest.mark.parametrize("counts", [(12, 2, 50), (1, 1, 3), (5, 9, 300), (4, 0, 40), (0, 0, 30)])
def test_the_ends_are_where_the_score_test_is_significant(counts):
    interval = paired_difference(*counts)
    limit = norm.ppf(0.975)
    assert interval["difference"] == pytest.approx((counts[0] - counts[1]) / counts[2])
    assert score_test(*counts, interval["low"]) == pytest.approx(limit, abs=1e-3)
    assert score_test(*counts, interval["high"]) == pytest.approx(-limit, abs=1e-3)


def test_three_images_on_which_both_are_right_prove_nothing():
    interval = paired_difference(0, 0, 3)
    square = norm.ppf(0.975) ** 2
    assert interval["high"] == pytest.approx(square / (3 + square)) == -interval["low"]


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 0), (2, 1), (0, 3), (1, 0)])
def test_without_ties_it_is_wilsons(only_a, only_b):
    total = only_a + only_b
    interval = paired_difference(only_a, only_b, total)
    ends = [2 * end - 1 for end in wilson(only_a, total)]
    np.testing.assert_allclose([interval["low"], interval["high"]], ends, atol=1e-9)
    mirrored = paired_difference(only_b, only_a, total)
    assert mirrored["low"] == pytest.approx(-interval["high"], abs=1e-9)


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.1, 0.03), (0.3, 0.2)])
def test_it_covers_the_truth(shares):
    total = 24
    truth = shares[0] - shares[1]
    covered = 0.0
    for a, b in itertools.product(range(total + 1), repeat=2):
        if a + b <= total:
            interval = paired_difference(a, b, total)
            chance = multinomial.pmf([a, b, total - a - b], total, [*shares, 1 - sum(shares)])
            covered += chance * (interval["low"] <= truth <= interval["high"])
    assert 0.93 < covered <= 1


def test_two_classifiers_on_the_same_images():
    a = np.array([1, 1, 1, 1, 0, 1, 1, 0, 1, 1], bool)
    b = np.array([1, 0, 0, 0, 1, 0, 1, 0, 0, 1], bool)
    change = paired_shares(a, b)
    assert change["p"] == pytest.approx(binomtest(5, 6).pvalue)
    assert {name: change[name] for name in ("difference", "low", "high")} == paired_difference(
        5, 1, 10
    )


def test_a_mean_over_classes_covers_the_truth():
    """In 300 pairs of classifiers, of three classes of 20 images each."""
    random = np.random.default_rng(0)
    shares = np.array([[0.9, 0.7, 0.5], [0.8, 0.7, 0.6]])  # by classifier and class
    truth = (shares[0] - shares[1]).mean()
    covered = 0
    for _ in range(300):
        right = random.random((2, 3, 20)) < shares[..., None]
        change = mean_of_differences(
            [paired_shares(*of_class) for of_class in right.swapaxes(0, 1)]
        )
        assert change["difference"] == pytest.approx((right[0].mean(1) - right[1].mean(1)).mean())
        covered += change["low"] <= truth <= change["high"]
    assert 273 <= covered < 300
    (one,) = [paired_shares(*right[:, 0])]
    assert mean_of_differences([one])["low"] == pytest.approx(one["low"])
