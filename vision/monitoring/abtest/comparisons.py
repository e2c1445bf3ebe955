"""Two versions compared: proportions, means, pairs of answers to the same image, traffic shares.

Every comparison is a `Difference`, new minus old; fields are numbers or arrays of one shape.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vision.monitoring.abtest.moments import Moments, Number
from vision.reference.shares import cut_difference, mcnemar, wilson

MISMATCH = 0.001  # p-value of the traffic's shares below which the split is broken


class Difference(NamedTuple):
    """How much larger a mean is for the new version than for the old one.

    Attributes:
        old: mean of the old version.
        new: mean of the new one.
        difference: new - old.
        error: standard error of the difference; above 0 unless all values are equal.
        freedom: degrees of freedom of Student's t that judges it; infinite for proportions.
        units: of the version that has fewer.
        p: two-sided p-value of no difference, right for one look.
        low, high: interval of the difference at level 1 - alpha, right for one look.
        is_of_shares: whether the means are shares, so that no interval goes beyond -1 or 1.
    """

    old: Number
    new: Number
    difference: Number
    error: Number
    freedom: Number
    units: Number
    p: Number
    low: Number
    high: Number
    is_of_shares: bool = False


def two_proportions(old: Moments, new: Moments, alpha: float = 0.05) -> Difference:
    """Compares shares of yes among independent units.

    p is of the z-test with pooled variance, the interval is Newcombe's (1998, Statistics in
    Medicine 17:873, method 10), which joins the two Wilson intervals and stays within [-1, 1]. Both
    take the effective numbers of rows (Rao and Scott 1992) if units hold several. The standard
    error is that of Agresti and Caffo (2000), with one yes and one no added to each version, so
    that it is not 0 if all are right.

    Args:
        old: moments of the old version, of values 0 and 1.
        new: of the new one.
        alpha: 1 - the level of the interval.
    """
    from scipy.stats import norm

    count_old = old.effective_rows
    count_new = new.effective_rows
    share_old = old.mean
    share_new = new.mean
    difference = share_new - share_old
    pooled = (count_old * share_old + count_new * share_new) / (count_old + count_new)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / count_old + 1 / count_new))
    z = np.divide(difference, spread, out=np.zeros(np.shape(spread)), where=spread > 0)
    low_old, high_old = wilson(count_old * share_old, count_old, 1 - alpha)
    low_new, high_new = wilson(count_new * share_new, count_new, 1 - alpha)
    below = np.sqrt((share_new - low_new) ** 2 + (high_old - share_old) ** 2)
    above = np.sqrt((high_new - share_new) ** 2 + (share_old - low_old) ** 2)
    result = Difference(
        share_old,
        share_new,
        difference,
        np.sqrt(_adjusted(share_old, count_old) + _adjusted(share_new, count_new)),
        np.full(np.shape(difference), np.inf)[()],
        np.minimum(old.units, new.units),
        2 * norm.sf(np.abs(z)),
        difference - below,
        difference + above,
    )
    return of_shares(result)


def of_shares(difference: Difference) -> Difference:
    """Returns a difference whose means are shares: its interval is cut at -1 and 1."""
    low, high = cut_difference(difference.low, difference.high)
    return difference._replace(low=low, high=high, is_of_shares=True)


def two_means(old: Moments, new: Moments, alpha: float = 0.05) -> Difference:
    """Compares means by Welch's t-test (1947): the versions may differ in variance.

    The variances are those of the delta method if units hold several rows; the degrees of freedom,
    by Welch and Satterthwaite, count units.

    Args:
        old: moments of the old version.
        new: of the new one.
        alpha: 1 - the level of the interval.
    """
    first = np.asarray(old.variance)
    second = np.asarray(new.variance)
    total = first + second
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / (first**2 / (old.units - 1) + second**2 / (new.units - 1))
    freedom = np.where(np.isfinite(freedom), freedom, np.minimum(old.units, new.units) - 1)
    units = np.minimum(old.units, new.units)
    return _by_t(old.mean, new.mean, np.sqrt(total), np.maximum(freedom, 1), units, alpha)


def paired(old: np.ndarray, new: np.ndarray, unit: np.ndarray, alpha: float = 0.05) -> Difference:
    """Compares two versions' values of the same images.

    p is of a t-test on the mean difference, whose variance is that of the delta method over units.
    For values 0 and 1 the standard error is at least that of Bonett and Price (2012), with one
    image added to those that only one version gets right; p is then McNemar's exact one if every
    unit holds one image.

    Args:
        old: float (N,), the old version's values.
        new: float (N,), the new one's.
        unit: integers (N,), the unit of each image.
        alpha: 1 - the level of the interval.
    """
    from vision.monitoring.abtest.moments import of_units

    _, places = np.unique(unit, return_inverse=True)
    rows = np.bincount(places)
    moments = of_units(rows, np.bincount(places, new - old))
    error = float(np.sqrt(moments.variance))
    is_binary = np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all()
    if is_binary:
        only_new = int((new > old).sum())
        only_old = int((old > new).sum())
        error = max(error, _bonett_price(only_old, only_new, len(old)))
    units = len(rows)
    result = _by_t(old.mean(), new.mean(), error, max(units - 1, 1), units, alpha)
    if is_binary:
        result = of_shares(result)
    if is_binary and units == len(old):
        result = result._replace(p=mcnemar(only_old, only_new))
    return result


def sample_ratio(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Returns the p-value of Pearson's chi-squared test of the traffic against its split.

    A p-value below `MISMATCH` means that the versions were not given comparable requests, so that
    no difference between them can be trusted (Fabijan et al. 2019).

    Args:
        counts: units of each version.
        shares: the share of each, relative to their sum, all above 0.
    """
    from scipy.stats import chisquare

    total = sum(counts)
    if not total:
        return 1.0
    expected = [share * total / sum(shares) for share in shares]
    return float(chisquare(counts, expected).pvalue)


def not_worse(difference: Difference, margin: float) -> Number:
    """Returns the one-sided p-value of a change that is as bad as a margin, or worse.

    If it is small, the new version is not inferior. 1 minus it is the p-value of a change that is
    better than the margin.

    Args:
        difference: of the two versions.
        margin: below 0 for a measure that must not fall by more, such as -0.01 for an accuracy;
            above 0 for one that must not rise by more, such as 5 for milliseconds.
    """
    from scipy.stats import t

    sign = 1 if margin < 0 else -1
    return t.sf(sign * standardized(difference, margin), difference.freedom)


def standardized(difference: Difference, center: float = 0.0) -> Number:
    """Returns (difference - center) / standard error; 0 if all values are equal and so are both,
    infinite if only their error is 0."""
    distance = np.asarray(difference.difference - center, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / difference.error
    return np.where(np.isnan(z), 0.0, z)[()]


def _by_t(old, new, error, freedom, units, alpha):
    """Returns the `Difference` of means whose standard error is known."""
    from scipy.stats import t

    plain = Difference(old, new, new - old, error, freedom, units, 1.0, 0.0, 0.0)
    half = t.isf(alpha / 2, freedom) * error
    return plain._replace(
        p=2 * t.sf(np.abs(standardized(plain)), freedom),
        low=plain.difference - half,
        high=plain.difference + half,
    )


def _adjusted(share, count):
    """Returns the variance of a share to which one yes and one no are added."""
    share = (share * count + 1) / (count + 2)
    return share * (1 - share) / (count + 2)


def _bonett_price(only_old, only_new, count):
    """Returns the standard error of a difference of paired shares."""
    first = (only_old + 1) / (count + 2)
    second = (only_new + 1) / (count + 2)
    return np.sqrt((first + second - (second - first) ** 2) / (count + 2))
