"""How far a share of some images may be from that of all, and whether two shares differ."""

from statistics import NormalDist
from typing import Any

import numpy as np


def wilson(
    hits: np.ndarray | float, totals: np.ndarray | float, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends (low, high) of the score intervals of shares, each float64 (...).

    Wilson 1927. Unlike the bootstrap's, it has a width if all images are right, or none: three of
    three are 43.9 to 100 %. An interval of a share of nothing is NaN.

    Args:
        hits: numbers of hits, (...); these and the totals need not be whole.
        totals: of how many, (...).
        level: how often the interval holds the truth.
    """
    totals = np.asarray(totals, np.float64)
    hits = np.asarray(hits, np.float64)
    square = NormalDist().inv_cdf((1 + level) / 2) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        center = (hits + square / 2) / (totals + square)
        spread = np.sqrt(square * (hits * (totals - hits) / totals + square / 4))
        half = spread / (totals + square)
    low = np.where(hits == 0, 0.0, center - half)
    high = np.where(hits == totals, 1.0, center + half)
    empty = totals == 0
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def cut_difference(low: Any, high: Any) -> tuple[Any, Any]:
    """Returns the ends of the interval of a difference of two shares, each cut at -1 and 1.

    Normal approximations and Student's t reach further, but no difference does. An infinite
    interval, of which nothing is known yet, stays.

    Args:
        low: float, or float64 (...).
        high: float, or float64 (...).
    """
    low = np.where(np.isinf(low), low, np.clip(low, -1.0, 1.0))[()]
    high = np.where(np.isinf(high), high, np.clip(high, -1.0, 1.0))[()]
    return low, high


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the two-sided p-value of the hypothesis that two classifiers are equally often right.

    The exact conditional test of McNemar 1947: images that both get right, or both wrong, tell
    nothing; of the others each classifier has half if the two are equally good, a binomial
    distribution. The images must be independent of one another.

    Args:
        only_a: number of images that only the first gets right.
        only_b: number of images that only the second gets right.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
