"""How far two distributions are apart, from counts in bins or from samples.

Counts are arrays (..., K) of the last axis' bins, so that one call measures thousands of
permutations. `p` is the window, `q` the reference.
"""

import numpy as np

SMOOTHING = 0.5  # added to each count: Jeffreys' prior, so that an empty bin is not infinitely far
BANDWIDTH_ROWS = 500


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Returns probabilities (..., K) of counts, none 0."""
    counts = counts + SMOOTHING
    return counts / counts.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the Kullback-Leibler divergence of probabilities p from q, nats."""
    return (p * np.log(p / q)).sum(-1)


def psi(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the population stability index of probabilities: the divergence in both directions,
    added."""
    return ((p - q) * np.log(p / q)).sum(-1)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the Jensen-Shannon divergence of probabilities, bits: 0 if equal, at most 1."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / (2 * np.log(2))


def kolmogorov_smirnov(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns the largest difference of the cumulative shares of counts, in [0, 1].

    Between the edges of bins it may be larger: what is measured is the statistic of the values
    rounded to their bins.
    """
    return np.abs(np.cumsum(_shares(p) - _shares(q), -1)).max(-1)


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns half the sum of the differences of the shares of counts, in [0, 1]: the share of
    images that would have to change class."""
    return np.abs(_shares(p) - _shares(q)).sum(-1) / 2


def chi_squared(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns Pearson's statistic of the table of two rows of counts; empty columns count
    nothing."""
    size_p = p.sum(-1, keepdims=True)
    size_q = q.sum(-1, keepdims=True)
    both = p + q
    difference = p * np.sqrt(size_q / size_p) - q * np.sqrt(size_p / size_q)
    return (difference**2 / np.maximum(both, 1)).sum(-1)


def _shares(counts):
    return counts / counts.sum(-1, keepdims=True)


def bandwidth(sample: np.ndarray) -> float:
    """Returns the median squared distance of a sample's rows (N, D), the kernel's width; at least
    the smallest normal float32."""
    rows = sample[:BANDWIDTH_ROWS].astype(np.float64)
    distances = _squared_distances(rows)[np.triu_indices(len(rows), 1)]
    median = float(np.median(distances)) if len(distances) else 0.0
    return max(median, float(np.finfo(np.float32).tiny))


def gaussian_kernel(rows: np.ndarray, width: float) -> np.ndarray:
    """Returns exp(-|x - y|^2 / width), float32 (N, N), of all pairs of rows (N, D).

    Their mean should be near 0: distances are computed in float32.
    """
    scaled = rows.astype(np.float64) / np.sqrt(width)
    kernel = np.exp(-_squared_distances(scaled.astype(np.float32)))
    np.fill_diagonal(kernel, 1)
    return kernel


def _squared_distances(rows):
    squares = (rows**2).sum(1)
    return np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)


def mmd(kernel: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the squared maximum mean discrepancy of two parts of a sample, without bias, (B,).

    Gretton et al. 2012 (JMLR 13), equation 3. May be negative.

    Args:
        kernel: float32 (N, N) of the joined sample, ones on its diagonal.
        chosen: float32 (B, N), 1 for the rows of one part, 0 for those of the other.
    """
    size = chosen.sum(1, dtype=np.float64)
    rest = chosen.shape[1] - size
    within = np.einsum("bn,bn->b", chosen @ kernel, chosen, dtype=np.float64)
    toward_all = (chosen @ kernel.sum(1, dtype=np.float64)).astype(np.float64)
    across = toward_all - within
    within_rest = kernel.sum(dtype=np.float64) - within - 2 * across
    return (
        (within - size) / (size * (size - 1))
        + (within_rest - rest) / (rest * (rest - 1))
        - 2 * across / (size * rest)
    )


def whitening(covariance: np.ndarray) -> np.ndarray:
    """Returns (D, R) that turns rows into ones whose covariance is the identity.

    Directions in which the reference hardly varies are left out: an embedding of fewer dimensions
    than a sketch has spans only some of it.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    kept = values > max(values[-1], np.finfo(np.float32).tiny) * 1e-6
    return vectors[:, kept] / np.sqrt(values[kept])


def mean_shift(total: np.ndarray, chosen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the squared Mahalanobis distance of the means of two parts of a sample, (B,).

    Args:
        total: (R,), the sum of all rows.
        chosen: float32 (B, N), 1 for the rows of one part, 0 for those of the other.
        rows: (N, R), whitened.
    """
    size = chosen.sum(1, keepdims=True)
    part = chosen @ rows
    difference = part / size - (total - part) / (chosen.shape[1] - size)
    return (difference**2).sum(1)
