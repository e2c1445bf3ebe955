"""Does a confidence of 80 % mean right in 80 of 100? Reliability, its error, and one fix for it.

Guo et al. 2017 (arXiv:1706.04599).
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.evaluation.measures import scores
from vision.evaluation.measures.blocks import confidences, row_blocks
from vision.reference.calibration import calibration_error, interval, reliability

RANGE = (0.05, 20.0)  # of the temperature
FITTED = 20_000_000  # images x classes that a temperature is fitted to, at most
FOLDS = 5  # of the check that a temperature helps on images that it was not fitted to


def helpful_temperature(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Returns the temperature of `fit_temperature`, or 1 if it does not help on other images.

    The images are divided into `FOLDS` parts. If the temperatures that are fitted without a part do
    not lower the cross-entropy of that part, in the mean over all of them, a fitted temperature
    says more about these few images than about the model. Of very many numbers a part is drawn.

    Args:
        logits: float (N, C).
        labels: int (N,).
        seed: seed of the draw.
    """
    images, classes = np.shape(logits)
    drawn = np.random.default_rng(seed).permutation(images)
    drawn = np.sort(drawn[: max(FOLDS, FITTED // classes)])
    labels = np.asarray(labels)[drawn]
    logits = np.asarray(logits)[drawn]
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    if len(np.unique(fold)) < FOLDS:
        return 1.0
    gain = 0.0
    for part in range(FOLDS):
        inside = fold == part
        temperature = fit_temperature(logits[~inside], labels[~inside])
        plain = mean_loss(logits[inside], labels[inside])
        gain += inside.sum() * (plain - mean_loss(logits[inside], labels[inside], temperature))
    if gain <= 0:
        return 1.0
    temperature = fit_temperature(logits, labels)
    return (
        temperature if mean_loss(logits, labels, temperature) < mean_loss(logits, labels) else 1.0
    )


def mean_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Returns the mean cross-entropy of softmax(logits / temperature) in nats.

    Args:
        logits: float (N, C).
        labels: int (N,).
        temperature: divides the logits.
    """
    total = 0.0
    for rows in row_blocks(logits):
        block = np.asarray(logits[rows], np.float64)
        scaled = (block - block.max(1, keepdims=True)) / temperature
        own = scaled[np.arange(len(block)), labels[rows]]
        total += float((np.log(np.exp(scaled).sum(1)) - own).sum())
    return total / len(labels)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature T > 0 at which softmax(logits / T) has the lowest mean cross-entropy.

    Args:
        logits: float (N, C).
        labels: int (N,).
    """
    from scipy.optimize import minimize_scalar

    logits = np.asarray(logits)
    labels = np.asarray(labels)

    def loss(log_t):
        return mean_loss(logits, labels, float(np.exp(log_t)))

    # In log T the loss falls, then rises: it is convex in 1 / T.
    minimum = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def calibrate(
    logits: np.ndarray, labels: np.ndarray, temperature: float, c: ConfigDict
) -> dict[str, Any]:
    """Returns the calibration of softmax(logits / temperature).

    Args:
        logits: float (N, C).
        labels: int (N,).
        temperature: divides the logits.
        c: config.evaluation.

    Returns:
        {"ece", "mce", "nll", "brier", "mean_confidence", "reliability"}. "ece" is {"value", "low",
        "high"}; without bootstrap draws, only the value.
    """
    confidence, _ = confidences(logits, labels, temperature)
    correct = np.argmax(logits, axis=1) == labels
    ece, mce = calibration_error(confidence, correct, c.bins)
    ends = interval(confidence, correct, c.bins, c.bootstrap)
    nll, brier = scores.losses(logits, labels, temperature)
    return {
        "ece": {"value": ece} | ({"low": ends[0], "high": ends[1]} if ends else {}),
        "mce": mce,
        "nll": float(nll.mean()),
        "brier": float(brier.mean()),
        "mean_confidence": float(confidence.mean()),
        "reliability": reliability(confidence, correct, c.bins),
    }
