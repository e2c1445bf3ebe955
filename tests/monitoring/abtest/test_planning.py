"""The planned size against the textbook's formula, and its power by simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from vision.errors import UserError
from vision.monitoring.abtest import comparisons, planning
from vision.monitoring.abtest.moments import cumulative, of_counts

TESTS = 4000


def fleiss(baseline, effect, share_new, alpha, power):
    """Fleiss, Levin and Paik 2003, equation 4.19, without a correction for continuity."""
    ratio = share_new / (1 - share_new)
    new = baseline + effect
    pooled = (baseline + ratio * new) / (1 + ratio)
    first = scipy.stats.norm.isf(alpha / 2) * math.sqrt((1 + ratio) * pooled * (1 - pooled) / ratio)
    second = scipy.stats.norm.ppf(power) * math.sqrt(
        baseline * (1 - baseline) + new * (1 - new) / ratio
    )
    return (first + second) ** 2 / effect**2


@pytest.mark.parametrize(
    "baseline, effect, share_new, alpha, power",
    [
        (0.9, 0.01, 0.5, 0.05, 0.8),
        (0.9, 0.01, 0.1, 0.05, 0.8),
        (0.9, -0.02, 0.3, 0.01, 0.9),
        (0.02, 0.01, 0.5, 0.05, 0.9),
    ],
)
def test_proportions_are_the_textbooks(baseline, effect, share_new, alpha, power):
    old, new = planning.proportion_rows(baseline, effect, share_new, alpha, power)
    expected = fleiss(baseline, effect, share_new, alpha, power)
    assert old == pytest.approx(expected, rel=1e-4, abs=1.5)
    assert new == pytest.approx(old * share_new / (1 - share_new), abs=1.5)


def test_means_are_the_textbooks():
    quantiles = scipy.stats.norm.isf(0.025) + scipy.stats.norm.ppf(0.8)
    old, new = planning.mean_rows(40, -5, 0.5, 0.05, 0.8)
    # the t-test's share is a quarter of the squared quantile, for each version
    expected = 2 * (quantiles * 40 / 5) ** 2 + scipy.stats.norm.isf(0.025) ** 2 / 4
    assert old == new == pytest.approx(expected, abs=1.5)
    old, new = planning.mean_rows(40, 5, 0.2, 0.05, 0.8)
    assert old == pytest.approx(4 * new, abs=4)
    assert old == pytest.approx((quantiles * 40 / 5) ** 2 * 5, rel=0.01)


@pytest.mark.parametrize("baseline, effect", [(0.9, 0.01), (0.8, -0.05)])
def test_the_power_of_proportions_at_the_planned_size(baseline, effect):
    random = np.random.default_rng(0)
    old, new = planning.proportion_rows(baseline, effect, 0.3, 0.05, 0.8)
    result = comparisons.two_proportions(
        of_counts(random.binomial(old, baseline, TESTS), old),
        of_counts(random.binomial(new, baseline + effect, TESTS), new),
    )
    assert abs((result.p < 0.05).mean() - 0.8) <= 0.03


def test_the_power_of_means_over_requests_at_the_planned_size():
    """Requests of three images, with a correlation of 0.4."""
    random = np.random.default_rng(1)
    plan = planning.plan(planning.mean_rows(1, 0.2, 0.5, 0.05, 0.8), 0.05, 0.8, 3, 0.4)
    assert plan.design_effect == pytest.approx(1.8)
    sides = []
    for mean, units in ((0, plan.old), (0.2, plan.new)):
        shared = random.normal(0, math.sqrt(0.4), (TESTS, units))
        own = random.normal(0, math.sqrt(0.6 * 3), (TESTS, units))  # the sum of three
        totals = 3 * (mean + shared) + own
        sides.append(cumulative(np.full((TESTS, units), 3), totals, np.array([units])))
    assert abs((comparisons.two_means(*sides).p < 0.05).mean() - 0.8) <= 0.03


def test_days():
    plan = planning.plan((900, 100), 0.05, 0.8)
    assert (plan.old, plan.new) == (900, 100)
    assert plan.days(500) == (2, math.ceil(1000 * plan.inflation / 500))


def test_what_cannot_be_planned():
    with pytest.raises(UserError, match=r"baseline \+ effect must be in \(0, 1\)"):
        planning.proportion_rows(0.995, 0.01, 0.5, 0.05, 0.8)
    with pytest.raises(UserError, match="more than a trillion"):
        planning.proportion_rows(0.9, 1e-9, 0.5, 0.05, 0.8)
