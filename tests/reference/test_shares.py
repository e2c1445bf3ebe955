"""McNemar's test and Wilson's interval are statsmodels'."""

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from vision.reference.shares import mcnemar, wilson


@pytest.mark.parametrize("only_a, only_b", [(0, 7), (12, 12), (30, 11), (4, 15)])
def test_mcnemar_is_that_of_statsmodels(only_a, only_b):
    expected = reference_mcnemar([[50, only_a], [only_b, 9]], exact=True).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(min(1, expected))


def test_two_classifiers_that_never_differ():
    assert mcnemar(0, 0) == 1


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_wilson_is_that_of_statsmodels(level):
    hits = np.array([0, 3, 7.5, 20, 1000])  # a number of effective rows need not be whole
    totals = np.array([3, 3, 20.25, 21, 5000])
    expected = proportion_confint(hits, totals, 1 - level, "wilson")
    np.testing.assert_allclose(wilson(hits, totals, level), expected, atol=1e-12)
    assert np.isnan(wilson(0, 0, level)).all()
