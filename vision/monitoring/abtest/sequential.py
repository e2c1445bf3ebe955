"""A test that may be looked at as often as one likes: an asymptotic confidence sequence.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021 (arXiv:2103.06476), theorem 2.2: for the mean
of t values with standard deviation s, at all t together with probability 1 - alpha,

    mean ± s * sqrt(2 (t r² + 1) / (t² r²) * log(sqrt(t r² + 1) / alpha)).

With the standard error e = s / sqrt(t) and the scale c = s r this is

    difference ± e * sqrt((1 + 1/x) * log((1 + x) / alpha²)),    x = t r² = (c / e)²,

which asks for no more than a difference and its standard error, so it holds for the difference of
two versions, for clustered and for paired data too. It is Robbins' normal mixture, and the p-value
that belongs to it is mSPRT's (Johari, Pekelis and Walsh 2017, arXiv:1512.04922, section 4), with
the variance estimated and a prior N(0, c²) of the difference.

The scale must not depend on the data. c = the smallest difference of interest makes the interval
nearly as narrow as possible at the size that a fixed test with a power of 0.8 would plan (the best
is x = 7.9 there, and (z_0.975 + z_0.8)² = 7.8).
"""

from collections.abc import Sequence

import numpy as np

from vision.monitoring.abtest.comparisons import Difference, standardized
from vision.monitoring.abtest.moments import Number
from vision.reference.shares import cut_difference

CONCENTRATION = 100.0  # of shares around the split: a prior deviation of 5 points for 50:50
LEAST_UNITS = 100  # of each version: with fewer, the estimate of the variance may be far off


def boundary(ratio: Number, alpha: float) -> Number:
    """Returns how many standard errors from 0 a difference may ever be by chance.

    Args:
        ratio: x above: (scale / standard error)², above 0.
        alpha: chance that it is ever further away, at most.
    """
    ratio = np.asarray(ratio, np.float64)
    return np.sqrt((1 + 1 / ratio) * (np.log1p(ratio) - 2 * np.log(alpha)))[()]


def sequence(difference: Difference, scale: float, alpha: float = 0.05) -> tuple[Number, Number]:
    """Returns the ends of the interval that holds the difference at every look together.

    With fewer than `LEAST_UNITS` units of a version they are infinite. Otherwise those of shares
    are cut at -1 and 1.

    Args:
        difference: of two versions; its `p`, `low` and `high` are not used.
        scale: difference that matters, chosen beforehand, above 0; in the measure's unit.
        alpha: chance that the difference is ever outside, at most.
    """
    error = np.asarray(difference.error, np.float64)
    has_error = (error > 0) & np.isfinite(error)
    with np.errstate(over="ignore"):
        ratio = (scale / np.where(has_error, error, 1.0)) ** 2
    half = np.where(has_error, error * boundary(ratio, alpha), np.where(error == 0, 0.0, np.inf))
    half = np.where(np.asarray(difference.units) < LEAST_UNITS, np.inf, half)
    low = (difference.difference - half)[()]
    high = (difference.difference + half)[()]
    return cut_difference(low, high) if difference.is_of_shares else (low, high)


def always_valid_p(difference: Difference, scale: float, center: float = 0.0) -> Number:
    """Returns the two-sided p-value of a difference of `center`, right at every look together.

    It is below alpha exactly if `sequence` at that alpha does not hold `center`.

    Args:
        difference: of two versions.
        scale: as in `sequence`.
        center: the difference under the hypothesis.
    """
    error = np.asarray(difference.error, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = (scale / error) ** 2
        weight = np.where(np.isinf(ratio), 1.0, ratio / (1 + ratio))
        squared = standardized(difference, center) ** 2
        log_p = np.log1p(ratio) / 2 - squared * weight / 2
    log_p = np.where(np.isnan(log_p), 0.0, log_p)
    log_p = np.where(np.isinf(squared), -np.inf, log_p)
    p = np.exp(np.minimum(log_p, 0.0))
    return np.where(np.asarray(difference.units) < LEAST_UNITS, 1.0, p)[()]


def always_not_worse(difference: Difference, margin: float) -> Number:
    """Returns the p-value of a change as bad as a margin, or worse, right at every look together.

    The scale is the margin. It is two-sided, so on the safe side.

    Args:
        difference: of two versions.
        margin: as in `vision.monitoring.abtest.comparisons.not_worse`.
    """
    is_better = (difference.difference - margin) * (-1 if margin > 0 else 1) > 0
    p = always_valid_p(difference, abs(margin), margin)
    return np.where(is_better, p, 1.0)[()]


def always_valid_ratio(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Returns the p-value of the traffic against its split, right at every look together.

    Lindon and Malek 2020 (arXiv:2011.03567), the Bayes factor of a Dirichlet prior around the split
    with a concentration of `CONCENTRATION`, whose inverse is the p-value.

    Args:
        counts: units of each version.
        shares: the share of each, relative to their sum, all above 0.
    """
    from scipy.special import gammaln

    units = np.asarray(counts, np.float64)
    expected = np.asarray(shares, np.float64) / np.sum(shares)
    prior = CONCENTRATION * expected
    log_factor = gammaln(prior.sum()) - gammaln((prior + units).sum())
    log_factor += (gammaln(prior + units) - gammaln(prior)).sum()
    log_factor -= (units * np.log(expected)).sum()
    return float(np.exp(min(-log_factor, 0.0)))


def inflation(alpha: float = 0.05, power: float = 0.8) -> float:
    """Returns how many times as many units a sequential test needs as a fixed one, at most.

    With so many it has the power at the last look alone, if the true difference is the scale; the
    looks before add to it, and end most tests earlier.

    Args:
        alpha: chance of a false positive.
        power: chance to see the difference.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    beta = norm.ppf(power)
    fixed = norm.isf(alpha / 2) + beta
    needed = brentq(lambda signal: signal - boundary(signal**2, alpha) - beta, 1e-3, 1e3)
    return float((needed / fixed) ** 2)
