"""Does a confidence of 80 % mean right in 80 of 100? Reliability, and its error.

Guo et al. 2017 (arXiv:1706.04599). Evaluations, bundles and monitoring measure it by these
functions.
"""

import numpy as np


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> dict[str, list]:
    """Returns the accuracy at each confidence, in bins of equal width, (i / bins, (i + 1) / bins].

    Args:
        confidence: float (N,), the highest probability of each image.
        correct: bool (N,).
        bins: number of bins.

    Returns:
        {"count", "confidence", "accuracy"}: lists of one number per bin; the means of an empty bin
        are None.
    """
    place = bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)

    def means(values):
        totals = np.bincount(place, values, bins)
        return [
            float(mean) if n else None
            for mean, n in zip(totals / np.maximum(count, 1), count, strict=True)
        ]

    return {"count": count.tolist(), "confidence": means(confidence), "accuracy": means(correct)}


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Returns the bin of each confidence, int64 (N,); 0 falls into the first bin."""
    index = np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1
    return np.clip(index, 0, bins - 1)


def calibration_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    bins: int = 15,
    weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """Returns (expected, maximum) calibration error: the gap between confidence and accuracy.

    The expected error (ECE) is the mean over images, Guo et al. 2017, eq. 3; the maximum error
    (MCE) is that of the worst bin, eq. 5.

    Args:
        confidence: see `reliability`.
        correct: see `reliability`.
        bins: see `reliability`.
        weights: float (N,), how often each image counts; None for once.
    """
    place = bin_of(confidence, bins)
    weights = np.ones(len(place)) if weights is None else weights
    mass = np.bincount(place, weights, bins)
    gap = np.abs(np.bincount(place, weights * (correct - np.asarray(confidence, np.float64)), bins))
    return float(gap.sum() / mass.sum()), float((gap[mass > 0] / mass[mass > 0]).max())


def interval(
    confidence: np.ndarray,
    correct: np.ndarray,
    bins: int,
    draws: int,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Returns the percentile-bootstrap interval (low, high) of the expected calibration error.

    It is a sum of distances, not a share of images, so it has no interval in closed form.

    Args:
        confidence: see `reliability`.
        correct: see `reliability`.
        bins: see `reliability`.
        draws: number of bootstrap draws; 0 returns None.
        seed: seed of the draws.
        level: share of the draws inside the interval.
    """
    if not draws:
        return None
    random = np.random.default_rng(seed)
    size = len(confidence)
    errors = []
    for _ in range(draws):
        weights = np.bincount(random.integers(0, size, size), minlength=size)
        errors.append(calibration_error(confidence, correct, bins, weights)[0])
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
