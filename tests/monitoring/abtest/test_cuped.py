"""CUPED against the paper's equations."""

import numpy as np

from vision.monitoring.abtest import comparisons, cuped
from vision.monitoring.abtest.moments import of_units


def test_single_rows_are_the_papers_equations():
    random = np.random.default_rng(0)
    before = random.normal(100, 20, 3000)
    is_new = random.random(3000) < 0.5
    values = 0.8 * before + random.normal(0, 10, 3000) + 2 * is_new
    adjusted = cuped.adjust(np.ones(3000), values, before, is_new)
    correlation = np.corrcoef(values - 2 * is_new, before)[0, 1]
    np.testing.assert_allclose(adjusted.removed, correlation**2, rtol=0.01)
    np.testing.assert_allclose(adjusted.slope, 0.8, rtol=0.03)
    expected = values - adjusted.slope * (before - before.mean())
    np.testing.assert_allclose(adjusted.totals, expected)
    plain, less = (
        comparisons.two_means(
            *(of_units(np.ones(side.sum()), totals[side]) for side in (~is_new, is_new))
        )
        for totals in (values, adjusted.totals)
    )
    np.testing.assert_allclose(less.error**2 / plain.error**2, 1 - correlation**2, rtol=0.01)
    assert abs(less.difference - 2) < 3 * less.error


def test_false_positives_and_no_covariance():
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        rows = random.integers(1, 4, 200)
        covariates = random.normal(5, 1, 200) * rows
        totals = covariates + random.normal(0, 1, 200)
        is_new = random.random(200) < 0.3
        result = cuped.adjust(rows, totals, covariates, is_new).totals
        sides = [of_units(rows[side], result[side]) for side in (~is_new, is_new)]
        wrong += comparisons.two_means(*sides).p < 0.05
    assert 30 <= wrong <= 70
    constant = cuped.adjust(np.ones(4), np.arange(4.0), np.ones(4), np.arange(4) > 1)
    assert constant.slope == 0 and constant.removed == 0
