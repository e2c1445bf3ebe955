"""Does a confidence of 80 % mean right in 80 of 100? Reliability, its error, and one number that
mends it.

Guo et al. 2017 (arXiv:1706.04599).
"""

import numpy as np

from vision.evaluation.measures import scores
from vision.inference import softmax

RANGE = (0.05, 20.0)  # of the temperature


def reliability(confidence, correct, bins=15):
    """Returns how often images are right at each confidence, in bins of equal width, (i / bins, (i
    + 1) / bins].

    Args:
        confidence: float (N,), the highest probability of each image.
        correct: bool (N,).
        bins: how many.

    Returns:
        {"count", "confidence", "accuracy"}: lists of one number a bin; the means of an empty bin
        are None.
    """
    place = bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    means = [
        np.bincount(place, values, bins) / np.maximum(count, 1) for values in (confidence, correct)
    ]
    held = [[float(m) if n else None for m, n in zip(mean, count, strict=True)] for mean in means]
    return {"count": count.tolist(), "confidence": held[0], "accuracy": held[1]}


def bin_of(confidence, bins):
    """Returns int64 (N,), the bin of each confidence; 0 falls into the first."""
    return np.clip(
        np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1
    )


def calibration_error(confidence, correct, bins=15, weights=None):
    """Returns (expected, maximum) calibration error: the gap between confidence and accuracy over
    the bins.

    The expected one (ECE) is the mean over images, Guo et al. 2017, eq. 3; the maximum (MCE) that
    of the worst bin, eq. 5.

    Args:
        confidence, correct, bins: see `reliability`.
        weights: float (N,), how often each image counts; None = once.
    """
    place = bin_of(confidence, bins)
    weights = np.ones(len(place)) if weights is None else weights
    mass = np.bincount(place, weights, bins)
    gap = np.abs(np.bincount(place, weights * (correct - np.asarray(confidence, np.float64)), bins))
    return float(gap.sum() / mass.sum()), float((gap[mass > 0] / mass[mass > 0]).max())


def interval(confidence, correct, bins, draws, seed=0, level=0.95):
    """Returns the percentile-bootstrap interval (low, high) of the expected calibration error; None
    without draws."""
    if not draws:
        return None
    random = np.random.default_rng(seed)
    size = len(confidence)
    drawn = [
        calibration_error(
            confidence, correct, bins, np.bincount(random.integers(0, size, size), minlength=size)
        )[0]
        for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def fit_temperature(logits, labels):
    """Returns the temperature T above 0 at which softmax(logits / T) has the lowest mean
    cross-entropy.

    Args:
        logits: float (N, C).
        labels: int (N,).
    """
    from scipy.optimize import minimize_scalar

    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))
    logits = logits - logits.max(1, keepdims=True)

    def loss(log_t):
        scaled = logits / np.exp(log_t)
        return float((np.log(np.exp(scaled).sum(1)) - scaled[rows, labels]).mean())

    # In log T the loss falls, then rises: it is convex in 1 / T.
    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def calibrate(logits, labels, temperature, c):
    """Returns {"ece", "mce", "nll", "brier", "mean_confidence", "reliability"} of softmax(logits /
    temperature).

    Args:
        logits, labels: float (N, C), int (N,).
        temperature: T.
        c: config.evaluation. The interval of "ece" is {"value", "low", "high"}; without draws, only
            the value.
    """
    p = softmax(np.asarray(logits, np.float64) / temperature)
    confidence = p.max(1)
    correct = p.argmax(1) == labels
    ece, mce = calibration_error(confidence, correct, c.bins)
    held = interval(confidence, correct, c.bins, c.bootstrap)
    nll, brier = scores.losses(np.asarray(logits, np.float64) / temperature, labels)
    return {
        "ece": {"value": ece} | ({"low": held[0], "high": held[1]} if held else {}),
        "mce": mce,
        "nll": float(nll.mean()),
        "brier": float(brier.mean()),
        "mean_confidence": float(confidence.mean()),
        "reliability": reliability(confidence, correct, c.bins),
    }
