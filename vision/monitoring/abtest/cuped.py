"""CUPED: what was already different before the answer is taken out of a measure.

Deng, Xu, Kohavi and Walker 2013, "Improving the sensitivity of online controlled experiments by
utilizing pre-experiment data", equations 2 and 3; for means over units of several rows the
covariance is that of the residuals, as in their appendix and in Deng et al. 2018.
"""

from typing import NamedTuple

import numpy as np


class Adjusted(NamedTuple):
    """Sums of units without what a covariate explains.

    Attributes:
        totals: float64 (K,), the adjusted sum of each unit.
        slope: by how much the measure rises with the covariate.
        removed: share of the variance that is gone, in [0, 1].
    """

    totals: np.ndarray
    slope: float
    removed: float


def adjust(
    rows: np.ndarray, totals: np.ndarray, covariates: np.ndarray, is_new: np.ndarray
) -> Adjusted:
    """Takes a covariate out of the sums of both versions' units.

    The covariate must not depend on the version, for example what an image looks like or what a
    user did before. The expected difference is then as before, and its variance smaller by the
    squared correlation.

    Args:
        rows: (K,), values in each unit.
        totals: (K,), sum of each unit's values.
        covariates: (K,), sum of each unit's covariates.
        is_new: bool (K,), whether the new version answered the unit.
    """
    residuals = [np.zeros(len(rows)), np.zeros(len(rows))]
    for chosen in (is_new, ~is_new):  # within versions: the effect itself is not explained away
        for place, sums in enumerate((totals, covariates)):
            mean = sums[chosen].sum() / max(rows[chosen].sum(), 1)
            residuals[place][chosen] = sums[chosen] - mean * rows[chosen]
    measure, covariate = residuals
    spread = covariate @ covariate
    slope = float(measure @ covariate / spread) if spread > 0 else 0.0
    before = measure @ measure
    removed = float(slope**2 * spread / before) if before > 0 else 0.0
    center = covariates.sum() / max(rows.sum(), 1)
    return Adjusted(totals - slope * (covariates - center * rows), slope, min(removed, 1.0))
