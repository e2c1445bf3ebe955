"""The numbers of an image and its answer whose distributions are compared, and their bins."""

import numpy as np

from vision.reference import appearance

OUTPUTS = ("confidence", "entropy")
NAMES = (*appearance.NAMES, *OUTPUTS)
BINS = 16  # with equally many images each, as far as values differ


def outputs(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a model says of each image.

    Args:
        probabilities: float32 (N, C).

    Returns:
        Integers (N,), the most probable class, and float32 (N, 2), `OUTPUTS`: its probability, and
        the entropy of all probabilities, nats.
    """
    best = probabilities.argmax(1)
    exact = probabilities.astype(np.float64)
    # 0 log 0 is 0
    entropy = -(exact * np.log(np.maximum(exact, np.finfo(np.float64).tiny))).sum(1)
    confidence = exact[np.arange(len(exact)), best]
    return best, np.stack([confidence, entropy], 1).astype(np.float32)


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Returns the edges between the bins of a reference, float32 (K,), strictly increasing.

    The bins between the smallest and the largest value have about equally many of the values; two
    more, the first and the last, have what lies outside of that range. A value that most images
    share, such as the size of a camera's pictures, has a bin of its own.

    Args:
        values: float32 (N,), N at least 1, none NaN.
    """
    shares = np.linspace(0, 1, BINS + 1)
    inner = np.quantile(values, shares, method="inverted_cdf").astype(np.float32)
    below = np.nextafter(inner[0], np.float32(-np.inf))
    return np.unique(np.append(inner, below))


def count(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns how many values lie in each bin, int64 (K + 1,); NaN counts nowhere.

    Bin i has the values v with edges[i - 1] < v <= edges[i].
    """
    values = values[~np.isnan(values)]
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
