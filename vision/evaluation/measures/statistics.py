"""Is one classifier better than another, or was it luck? Tests on the same images for both.

Shares of images have score intervals, which make sense of three images, too: Wilson's for a share,
Tango's for the difference of two classifiers, and for means over classes what follows from those of
the classes. `paired_bootstrap` is for what is not a share of images, such as a loss.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from vision.reference.shares import cut_difference, mcnemar, wilson

CHUNK = 4_000_000  # numbers drawn at a time


def paired_difference(
    only_a: int, only_b: int, total: int, level: float = 0.95
) -> dict[str, float]:
    """Returns how much larger one classifier's share of right images is than another's.

    The score interval of Tango 1998, "Equivalence test and confidence interval for the difference
    in proportions for the paired-sample design", equations 5 to 8. Unlike the bootstrap's, it has a
    width if both are right on the same images: of three such images, it is -56 to 56 %.

    Args:
        only_a: number of images that only the first gets right.
        only_b: number of images that only the second gets right.
        total: number of all images, at least 1.
        level: how often the interval holds the truth.

    Returns:
        {"difference", "low", "high"}: shares of the images, a - b.
    """
    from scipy.optimize import brentq

    quantile = NormalDist().inv_cdf((1 + level) / 2)

    def score(difference):
        """Returns the standardized distance of the measured difference from another."""
        distance = only_a - only_b - total * difference
        if abs(distance) < 1e-9:
            return 0.0
        linear = (2 * total - only_a + only_b) * difference - only_a - only_b
        root = math.sqrt(linear**2 + 8 * total * only_b * difference * (1 - difference))
        share = (root - linear) / (4 * total)  # of only_b, the likeliest at that difference
        variance = max(total * (2 * share + difference * (1 - difference)), 0.0)
        return distance / math.sqrt(variance) if variance else math.copysign(math.inf, distance)

    measured = (only_a - only_b) / total
    low = -1.0
    high = 1.0
    if only_b < total:
        low = brentq(lambda x: min(score(x), 1e9) - quantile, -1.0, measured)
    if only_a < total:
        high = brentq(lambda x: max(score(x), -1e9) + quantile, measured, 1.0)
    return {"difference": measured, "low": low, "high": high}


def paired_shares(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Returns how much more often one classifier is right than another, on the same images.

    Args:
        a: bool (N,), N >= 1: which images the first gets right.
        b: bool (N,), those that the second gets right.

    Returns:
        {"difference": share of a - share of b, "low", "high": its 95 % interval by
        `paired_difference`, "p": of McNemar's exact test, two-sided}.
    """
    a = np.asarray(a, bool)
    b = np.asarray(b, bool)
    only_a = int((a & ~b).sum())
    only_b = int((b & ~a).sum())
    return paired_difference(only_a, only_b, len(a)) | {"p": mcnemar(only_a, only_b)}


def mean_of_differences(changes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of independent differences with its interval, {"difference", "low", "high"}.

    Joined like the shares of `mean_of_shares`.

    Args:
        changes: [{"difference", "low", "high"}], such as those of the classes' recalls, at least 1.
    """
    values, low, high = (
        np.array([change[name] for change in changes]) for name in ("difference", "low", "high")
    )
    start, end = cut_difference(*_joined(values, low, high))
    return {"difference": float(values.mean()), "low": float(start), "high": float(end)}


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Returns how much higher one classifier's mean score is than another's, on the same images.

    For losses, whose distribution nothing is known of. Whether images are right has a score
    interval, `paired_shares`: draws of a few images say too little.

    Args:
        a: float (N,), each image's score, such as its loss.
        b: float (N,), the other classifier's scores.
        draws: number of bootstrap draws over the images; 0 for no interval.
        seed: seed of the draws.

    Returns:
        {"difference": mean of a - b, "low", "high": its 95 % percentile interval, "p": two-sided}.
        p is twice the smaller share of draws on either side of 0, each draw and the measured
        difference counted (Davison and Hinkley 1997, section 4.4). Without draws, only the
        difference.
    """
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    result = {"difference": float(differences.mean())}
    return result | interval(_means(differences, draws, seed)) if draws else result


def interval(draws: np.ndarray) -> dict[str, float]:
    """Returns {"low", "high", "p"} of a difference from its bootstrap draws, float (D,).

    See `paired_bootstrap`.
    """
    low, high = np.quantile(draws, (0.025, 0.975))
    tail = 1 + min((draws <= 0).sum(), (draws >= 0).sum())
    return {
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, 2 * tail / (len(draws) + 1))),
    }


def _means(values, draws, seed):
    """Returns the means of `draws` samples with replacement, float64 (draws,)."""
    random = np.random.default_rng(seed)
    size = len(values)
    kinds, counts = np.unique(values, return_counts=True)
    # With few distinct values, such as right and wrong, how often each is drawn is multinomial, and
    # no image has to be looked up.
    if len(kinds) <= 10:
        return random.multinomial(size, counts / size, draws) @ kinds / size
    step = max(1, CHUNK // size)
    parts = [
        values[random.integers(0, size, (min(step, draws - i), size))].mean(1)
        for i in range(0, draws, step)
    ]
    return np.concatenate(parts)


def share(hits: int, total: int) -> dict[str, float | None]:
    """Returns {"value", "low", "high"}: a share and its 95 % interval, see `wilson`.

    All are None if the total is 0.
    """
    if not total:
        return {"value": None, "low": None, "high": None}
    low, high = wilson(np.asarray(hits), np.asarray(total))
    return {"value": float(hits / total), "low": float(low), "high": float(high)}


def mean_of_shares(hits: np.ndarray, totals: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval (low, high) of the mean of independent shares.

    The squares of their distances to the ends of their own intervals add up (Zou and Donner 2008,
    "Construction of confidence limits about effect measures", equation 3).

    Args:
        hits: numbers of hits, (K,).
        totals: of how many, (K,), each at least 1.
    """
    low, high = _joined(np.asarray(hits) / np.asarray(totals), *wilson(hits, totals))
    return max(0.0, low), min(1.0, high)


def _joined(values, low, high):
    """Returns the interval (low, high) of the mean of independent values from their own ones."""
    below = np.sqrt(((values - low) ** 2).sum()) / len(values)
    above = np.sqrt(((high - values) ** 2).sum()) / len(values)
    return float(values.mean() - below), float(values.mean() + above)
