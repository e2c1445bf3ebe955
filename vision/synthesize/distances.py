"""How far generated images are from real ones, in an embedding: NumPy, float64.

All numbers depend on the embedding, so only those of the same one compare. The Fréchet distance on
features of ImageNet's Inception v3 is called FID, the kernel distance KID; neither name fits here.
"""

from collections.abc import Iterator

import numpy as np

NEIGHBORS = 3  # Kynkaanniemi et al. 2019, section 3
ROWS = 1024  # of a matrix of distances at a time
# Cells of such a matrix, at most: 128 MiB. An operation needs two or three of them at a time, and
# both sets of embeddings as float64.
CELLS = 2**24


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the squared Fréchet distance of two normal distributions fitted to embeddings.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)): Dowson and Landau 1982; Heusel et al. 2017
    (arXiv:1706.08500), eq. 6. Few images make it too large.

    Args:
        first: float (N, D), N >= 2.
        second: float (M, D), M >= 2.
    """
    means = [np.asarray(x, np.float64).mean(0) for x in (first, second)]
    covariances = [np.atleast_2d(np.cov(x.T.astype(np.float64))) for x in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # (S1 S2)^(1/2) has the trace of the root of a symmetric matrix with the same eigenvalues.
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = sum(np.trace(covariance) for covariance in covariances)
    distance = np.square(means[0] - means[1]).sum() + trace
    return float(max(distance - 2 * np.sqrt(np.maximum(product, 0)).sum(), 0.0))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3.

    Binkowski et al. 2018 (arXiv:1801.01401), section 4; Gretton et al. 2012, eq. 3. Its expectation
    does not depend on the number of images; it may be slightly below 0.

    Args:
        first: float (N, D), N >= 2.
        second: float (M, D), M >= 2.
    """
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    return float(_within(first) + _within(second) - 2 * _kernels(first, second).mean())


def _kernels(first, second):
    """Returns each row's mean kernel with all of `second`, float (N,)."""
    width = first.shape[1]
    parts = [((rows @ second.T / width + 1) ** 3).mean(1) for rows in _blocks(first, second)]
    return np.concatenate(parts)


def _within(x):
    """Returns the mean kernel of the pairs of different rows."""
    own = (_squared_norms(x) / x.shape[1] + 1) ** 3
    count = len(x)
    return (_kernels(x, x).sum() * count - own.sum()) / (count * (count - 1))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, neighbors: int = NEIGHBORS
) -> tuple[float, float]:
    """Returns improved precision and recall, each in [0, 1].

    Kynkaanniemi et al. 2019 (arXiv:1904.06991), eq. 1 and 2. Precision: the share of generated
    images that are as near to a real one as its k-th nearest real neighbor, so quality. Recall: the
    same with the roles exchanged, so variety.

    Args:
        real: float (N, D), N > neighbors.
        generated: float (M, D), M > neighbors.
        neighbors: k.
    """
    real, generated = (np.asarray(x, np.float64) for x in (real, generated))
    precision = _covered(generated, real, radii(real, neighbors))
    return precision, _covered(real, generated, radii(generated, neighbors))


def radii(x: np.ndarray, neighbors: int) -> np.ndarray:
    """Returns each row's squared distance to its k-th nearest other row, float (N,)."""
    parts = []
    start = 0
    norms = _squared_norms(x)
    for rows in _blocks(x, x):
        squares = _squared_distances(rows, x, norms)
        squares[np.arange(len(rows)), start + np.arange(len(rows))] = -1  # itself comes first
        squares.partition(neighbors, axis=1)
        parts.append(squares[:, neighbors].copy())  # a view would keep the whole matrix
        start += len(rows)
    return np.concatenate(parts)


def _covered(queries, references, squared_radii):
    """Returns the share of the queries that lie within the radius of any reference."""
    norms = _squared_norms(references)
    hits = [
        (_squared_distances(rows, references, norms) <= squared_radii).any(1)
        for rows in _blocks(queries, references)
    ]
    return float(np.concatenate(hits).mean())


def nearest(
    queries: np.ndarray, references: np.ndarray, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (int64 (N,) nearest references, float64 (N,) Euclidean distances to them).

    Args:
        queries: float (N, D).
        references: float (M, D).
        own: int (N,), the reference that is the query itself and does not count; if there is no
            other, the distance is infinite. None: all count.
    """
    queries, references = (np.asarray(x, np.float64) for x in (queries, references))
    indices = []
    distances = []
    start = 0
    norms = _squared_norms(references)
    for rows in _blocks(queries, references):
        squares = _squared_distances(rows, references, norms)
        if own is not None:
            squares[np.arange(len(rows)), own[start : start + len(rows)]] = np.inf
        best = squares.argmin(1)
        is_none = np.isinf(squares[np.arange(len(rows)), best])
        between = np.linalg.norm(rows - references[best], axis=1)
        indices.append(best)
        distances.append(np.where(is_none, np.inf, between))
        start += len(rows)
    return np.concatenate(indices), np.concatenate(distances)


def _squared_norms(x):
    """Returns float (M,), without a temporary array as large as x."""
    return np.einsum("nd,nd->n", x, x)


def _squared_distances(rows, x, norms):
    """Returns float (n, M) of n rows and the M rows of x, whose squared norms are given."""
    squares = _squared_norms(rows)[:, None] + norms
    squares -= 2 * rows @ x.T
    return np.maximum(squares, 0, out=squares)


def _blocks(x: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Yields rows of `x`, so many that their distances to all `others` fit into memory."""
    size = max(1, min(ROWS, CELLS // len(others)))
    for start in range(0, len(x), size):
        yield x[start : start + size]
