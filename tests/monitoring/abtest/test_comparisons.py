"""Proportions, means and pairs against statsmodels and SciPy; false positives in A/A tests."""

import numpy as np
import pytest
import scipy.stats
import statsmodels.api
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from vision.monitoring.abtest import comparisons
from vision.monitoring.abtest.moments import Moments, cumulative, of_counts, of_units

TESTS = 2000  # simulated


def clusters(random, units, most=6):
    """Returns (rows, totals) of units whose yes-or-no values are correlated."""
    rows = random.integers(1, most + 1, units)
    return rows, random.binomial(rows, random.beta(4, 1, units))


@pytest.mark.parametrize("yes", [(90, 1000, 120, 1100), (3, 40, 9, 35), (0, 50, 4, 60)])
def test_two_proportions_are_statsmodels(yes):
    yes_old, old, yes_new, new = yes
    result = comparisons.two_proportions(of_counts(yes_old, old), of_counts(yes_new, new))
    p = proportions_ztest([yes_new, yes_old], [new, old])[1]
    ends = confint_proportions_2indep(yes_new, new, yes_old, old, method="newcomb")
    np.testing.assert_allclose(result.p, p)
    np.testing.assert_allclose((result.low, result.high), ends, atol=1e-12)
    low, high = confint_proportions_2indep(yes_new, new, yes_old, old, method="agresti-caffo")
    np.testing.assert_allclose(result.error, (high - low) / 2 / scipy.stats.norm.isf(0.025))


def test_all_right_is_not_certain():
    result = comparisons.two_proportions(of_counts(50, 50), of_counts(60, 60))
    assert result.p == 1 and result.error > 0 and -0.1 < result.low < 0 < result.high < 0.1


def test_two_means_are_welchs():
    random = np.random.default_rng(0)
    old = random.normal(10, 1, 80)
    new = random.normal(10.5, 4, 60)
    first, second = (of_units(np.ones(len(values)), values) for values in (old, new))
    result = comparisons.two_means(first, second, alpha=0.1)
    reference = scipy.stats.ttest_ind(new, old, equal_var=False)
    interval = reference.confidence_interval(0.9)
    np.testing.assert_allclose(result.p, reference.pvalue)
    np.testing.assert_allclose(result.freedom, reference.df)
    np.testing.assert_allclose((result.low, result.high), (interval.low, interval.high))
    shifted = scipy.stats.ttest_ind(new + 0.7, old, equal_var=False, alternative="greater")
    np.testing.assert_allclose(comparisons.not_worse(result, -0.7), shifted.pvalue)
    shifted = scipy.stats.ttest_ind(new - 0.7, old, equal_var=False, alternative="less")
    np.testing.assert_allclose(comparisons.not_worse(result, 0.7), shifted.pvalue)


def test_the_variance_over_units_is_that_of_clustered_least_squares():
    random = np.random.default_rng(1)
    values = []
    is_new = []
    group = []
    for unit in range(60):
        count = random.integers(1, 5)
        values += list(random.normal(size=count) + random.normal())
        is_new += [unit % 2] * count
        group += [unit] * count
    values, is_new, group = map(np.array, (values, is_new, group))
    fit = statsmodels.api.OLS(values, np.stack([np.ones(len(values)), is_new], 1)).fit(
        cov_type="cluster", cov_kwds={"groups": group, "use_correction": False}
    )
    sides = []
    for side in (0, 1):
        units = np.unique(group[is_new == side])
        rows = np.array([(group == unit).sum() for unit in units])
        totals = np.array([values[group == unit].sum() for unit in units])
        sides.append(of_units(rows, totals))
    result = comparisons.two_means(*sides)
    np.testing.assert_allclose(result.difference, fit.params[1])
    # the sample variance of 30 units has 29 in its denominator
    np.testing.assert_allclose(result.error**2 * 29 / 30, fit.cov_params()[1, 1])


def test_the_effective_rows_undo_what_copies_pretend():
    random = np.random.default_rng(2)
    right = random.random(400) < 0.8
    copied = of_units(np.full(400, 5), 5 * right)  # each image five times
    np.testing.assert_allclose(copied.effective_rows, 400, rtol=1e-9)
    assert of_units(np.full(400, 5), np.full(400, 5)).effective_rows == 400  # nothing to go by
    alone = of_units(np.ones(400), right)
    assert alone.effective_rows == 400


def test_moments_of_the_first_units():
    random = np.random.default_rng(3)
    rows, totals = clusters(random, 50)
    totals = totals + 1e6 * rows  # far from 0
    several = cumulative(rows, totals, np.array([0, 7, 50]))
    for place, count in enumerate((0, 7, 50)):
        expected = of_units(rows[:count], totals[:count])
        for name in ("units", "rows", "total", "squares", "rows_squared"):
            got = getattr(several, name)[place]
            np.testing.assert_allclose(got, getattr(expected, name), rtol=1e-7, atol=1e-7)


def test_pairs():
    random = np.random.default_rng(4)
    old = random.normal(size=50)
    new = old + random.normal(0.2, 1, 50)
    result = comparisons.paired(old, new, np.arange(50))
    reference = scipy.stats.ttest_rel(new, old)
    interval = reference.confidence_interval(0.95)
    np.testing.assert_allclose(result.p, reference.pvalue)
    np.testing.assert_allclose((result.low, result.high), (interval.low, interval.high))


def test_pairs_of_right_and_wrong_are_mcnemars():
    table = np.array([[70, 4], [15, 11]])  # rows: the old version is right or wrong
    old = np.repeat([1, 1, 0, 0], table.ravel()).astype(float)
    new = np.repeat([1, 0, 1, 0], table.ravel()).astype(float)
    reference = reference_mcnemar(table, exact=True).pvalue
    result = comparisons.paired(old, new, np.arange(100))
    np.testing.assert_allclose(result.p, reference)
    assert result.low < result.difference < result.high
    np.testing.assert_allclose(result.difference, 0.11)
    # one request: nothing independent, so nothing is certain
    assert comparisons.paired(old, new, np.zeros(100, int)).p == 1


def test_no_difference_of_shares_is_beyond_1():
    """Of a few images, most of which only the new version gets right; other values may be so."""
    old = np.array([0.0, 0, 0, 1])
    new = np.array([1.0, 1, 1, 1])
    result = comparisons.paired(old, new, np.arange(4))
    assert result.high == 1 and -1 < result.low < result.difference
    assert comparisons.paired(new, old, np.arange(4)).low == -1
    assert comparisons.paired(2 * old, 2 * new, np.arange(4)).high > 1


def test_pairs_of_one_request_are_not_independent():
    random = np.random.default_rng(5)
    old = random.integers(0, 2, 200).astype(float)
    new = random.integers(0, 2, 200).astype(float)
    result = comparisons.paired(np.repeat(old, 4), np.repeat(new, 4), np.repeat(np.arange(200), 4))
    reference = comparisons.two_means  # the same numbers as one value for each unit
    alone = of_units(np.ones(200), new - old)
    still = Moments(1e12, 1e12, 0.0, 0.0, 1e12)
    np.testing.assert_allclose(result.error, reference(still, alone).error, rtol=1e-6)


def test_the_sample_ratio():
    expected = scipy.stats.binomtest(5300, 10_000, 0.5).pvalue
    assert comparisons.sample_ratio((5300, 4700), (1, 1)) == pytest.approx(expected, rel=0.1)
    assert comparisons.sample_ratio((9010, 990), (90, 10)) > 0.5
    assert comparisons.sample_ratio((5300, 4700), (1, 1)) < comparisons.MISMATCH
    assert comparisons.sample_ratio((0, 0), (1, 1)) == 1


def a_a(alpha, units, random):
    """Returns the shares of A/A tests that say there is a difference, for several kinds."""
    rates = {}
    for share in (0.5, 0.9, 0.98):
        old, new = (of_counts(random.binomial(units, share, TESTS), units) for _ in range(2))
        rates[f"proportion {share}"] = comparisons.two_proportions(old, new).p
    old, new = (
        cumulative(np.ones((TESTS, units)), random.gamma(1, 1, (TESTS, units)), np.array([units]))
        for _ in range(2)
    )
    rates["mean"] = comparisons.two_means(old, new).p
    drawn = [clusters(random, (TESTS, units)) for _ in range(2)]
    old, new = (cumulative(*one, np.array([units])) for one in drawn)
    rates["proportion over units"] = comparisons.two_proportions(old, new).p
    rates["mean over units"] = comparisons.two_means(old, new).p
    naive = [of_counts(total.sum(1), rows.sum(1)) for rows, total in drawn]
    rates["naive"] = comparisons.two_proportions(*naive).p
    return {name: float((p < alpha).mean()) for name, p in rates.items()}


def test_false_positives_of_a_a_tests():
    rates = a_a(0.05, 400, np.random.default_rng(6))
    naive = rates.pop("naive")
    assert all(0.03 <= rate <= 0.07 for rate in rates.values()), rates
    assert naive > 0.08  # images of a request are not independent


def test_the_interval_holds_the_difference():
    random = np.random.default_rng(7)
    old = of_counts(random.binomial(300, 0.95, TESTS), 300)
    new = of_counts(random.binomial(100, 0.9, TESTS), 100)
    result = comparisons.two_proportions(old, new)
    assert 0.93 <= ((result.low <= -0.05) & (result.high >= -0.05)).mean() <= 0.97
