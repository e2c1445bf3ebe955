"""The confidence sequence against the paper's formula, and looked at a hundred times."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from vision.monitoring.abtest import comparisons, planning, sequential
from vision.monitoring.abtest.comparisons import Difference
from vision.monitoring.abtest.moments import cumulative, of_counts

TESTS = 2000
LOOKS = 100


def difference(value, error, units=1000):
    return Difference(0.0, value, value, error, np.inf, units, 1.0, 0.0, 0.0)


def peeks(result, scale, alpha=0.05):
    """Returns the shares of tests that ever say there is a difference: (naive, sequential)."""
    low, high = sequential.sequence(result, scale, alpha)
    p = sequential.always_valid_p(result, scale)
    outside = (low > 0) | (high < 0)
    np.testing.assert_array_equal(outside, p < alpha)  # both say the same
    return float((result.p < alpha).any(-1).mean()), float(outside.any(-1).mean())


def proportions(random, shares, units, split=0.5):
    """Returns the `Difference` at every look of many tests."""
    sides = []
    for share, part in zip(shares, (1 - split, split), strict=True):
        step = max(1, round(units * part / LOOKS))
        yes = random.binomial(step, share, (TESTS, LOOKS)).cumsum(-1)
        sides.append(of_counts(yes, np.broadcast_to(step * np.arange(1, LOOKS + 1), yes.shape)))
    return comparisons.two_proportions(*sides)


def test_the_papers_formula():
    deviation = 2.0
    rho = 0.03
    t = np.array([100.0, 1000.0, 50_000.0])
    alpha = 0.05
    margin = deviation * np.sqrt(
        2 * (t * rho**2 + 1) / (t**2 * rho**2) * np.log(np.sqrt(t * rho**2 + 1) / alpha)
    )
    result = difference(np.zeros(3), deviation / np.sqrt(t), t)
    low, high = sequential.sequence(result, scale=rho * deviation, alpha=alpha)
    np.testing.assert_allclose(high, margin)
    np.testing.assert_allclose(low, -margin)


def test_the_scale_is_nearly_the_best_at_the_planned_size():
    error = 1 / (scipy.stats.norm.isf(0.025) + scipy.stats.norm.ppf(0.8))  # of an effect of 1
    best = scipy.optimize.minimize_scalar(
        lambda ratio: sequential.boundary(ratio, 0.05), bounds=(0.1, 100), method="bounded"
    )
    assert sequential.boundary(1 / error**2, 0.05) < 1.0001 * best.fun


def test_what_is_not_known_yet():
    few = difference(0.5, 0.01, sequential.LEAST_UNITS - 1)
    assert sequential.sequence(few, 0.1) == (-np.inf, np.inf)
    assert sequential.always_valid_p(few, 0.1) == 1
    assert sequential.sequence(comparisons.of_shares(few), 0.1) == (-np.inf, np.inf)
    shares = comparisons.of_shares(difference(0.5, 0.5))
    assert sequential.sequence(shares, 0.1) == (-1, 1)
    assert sequential.sequence(difference(0.5, 0.5), 0.1)[1] > 1
    unknown = difference(0.5, np.inf)
    assert sequential.sequence(unknown, 0.1) == (-np.inf, np.inf)
    assert sequential.always_valid_p(unknown, 0.1) == 1
    # all values are the same
    assert sequential.always_valid_p(difference(0.0, 0.0), 0.1) == 1
    assert sequential.always_valid_p(difference(0.5, 0.0), 0.1) == 0


def test_no_worse_at_any_look():
    better = difference(0.0, 0.001)
    assert sequential.always_not_worse(better, -0.01) < 1e-6
    assert sequential.always_not_worse(better, 0.01) < 1e-6
    assert sequential.always_not_worse(difference(-0.02, 0.001), -0.01) == 1
    assert sequential.always_not_worse(difference(0.02, 0.001), 0.01) == 1


@pytest.mark.parametrize("share, split", [(0.5, 0.5), (0.9, 0.5), (0.98, 0.5), (0.9, 0.1)])
def test_false_positives_of_proportions_looked_at_100_times(share, split):
    random = np.random.default_rng(0)
    result = proportions(random, (share, share), 40_000, split)
    naive, always = peeks(result, scale=0.01)
    assert naive > 0.25 and always <= 0.05, (naive, always)


def test_false_positives_of_units_looked_at_100_times():
    random = np.random.default_rng(1)
    counts = np.arange(1, LOOKS + 1) * 30
    sides = []
    for _ in range(2):
        rows = random.integers(1, 4, (TESTS, counts[-1]), dtype=np.int8)
        totals = random.standard_exponential((TESTS, counts[-1]), dtype=np.float32) * rows
        sides.append(cumulative(rows, totals, counts))
    naive, always = peeks(comparisons.two_means(*sides), scale=0.08)
    assert naive > 0.25 and always <= 0.05, (naive, always)


def test_the_sequence_holds_a_difference_at_all_looks():
    random = np.random.default_rng(2)
    result = proportions(random, (0.9, 0.92), 40_000)
    low, high = sequential.sequence(result, scale=0.01)
    assert ((low > 0.02) | (high < 0.02)).any(-1).mean() <= 0.05


def test_the_power_of_a_sequential_test_at_its_planned_size():
    random = np.random.default_rng(3)
    plan = planning.plan(planning.proportion_rows(0.9, 0.01, 0.5, 0.05, 0.8), 0.05, 0.8)
    assert 1.8 < plan.inflation < 2.1
    result = proportions(random, (0.9, 0.91), plan.sequential_old + plan.sequential_new)
    is_shown = sequential.sequence(result, scale=0.01)[0] > 0
    assert abs(is_shown[:, -1].mean() - 0.8) <= 0.03
    assert is_shown.any(-1).mean() >= 0.8  # the looks before help
    ends = np.where(is_shown.any(-1), (is_shown.argmax(-1) + 1) / LOOKS, 1.0) * plan.inflation
    assert ends.mean() < 1.3  # times the size of the fixed test, on average


def test_the_sample_ratio_looked_at_20_times():
    random = np.random.default_rng(4)
    new = random.binomial(30, 0.1, (TESTS, LOOKS)).cumsum(1)
    counts = 30 * np.arange(1, LOOKS + 1)
    always = np.array(
        [
            min(
                sequential.always_valid_ratio((all_ - part, part), (90, 10))
                for part, all_ in zip(row[::5], counts[::5], strict=True)
            )
            for row in new[:500]
        ]
    )
    assert (always < 0.05).mean() <= 0.05
    assert sequential.always_valid_ratio((5300, 4700), (1, 1)) < 1e-4
    assert sequential.always_valid_ratio((0, 0), (1, 1)) == 1
    # an integral of the likelihood over the prior
    prior = scipy.stats.beta(50, 50)
    factor = scipy.integrate.quad(
        lambda share: prior.pdf(share) * (2 * share) ** 70 * (2 * (1 - share)) ** 30, 0, 1
    )[0]
    assert sequential.always_valid_ratio((70, 30), (1, 1)) == pytest.approx(1 / factor)
    assert factor > 1  # or the p-value would be 1
