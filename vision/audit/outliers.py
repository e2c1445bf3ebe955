"""Images that do not belong: their embedding lies far from all that have their label."""

import numpy as np

from vision.audit.issues import Issue

DIMENSIONS = 128  # principal components that distances are measured in, at most
# share of the images that say what is usual, and how often they are chosen anew
CENTRAL = 0.95
ROUNDS = 3
ENOUGH = 20  # images of a class, for its own median distance to mean something


def find(embeddings, images, c):
    """Finds outliers by their Mahalanobis distance to the mean of their class, with one covariance
    for all classes.

    Lee et al. 2018 (arXiv:1807.03888), section 2.1; the covariance is shrunk (Ledoit and Wolf 2004,
    doi:10.1016/S0047-259X(03)00096-4). What is usual is said by the central 95 % of the images,
    chosen anew three times (the concentration steps of Rousseeuw and Van Driessen 1999,
    doi:10.1080/00401706.1999.10485670): outliers that are alike would hide one another. The score
    is how many robust deviations (median, MAD) the logarithm of the distance lies above the median
    of its class, or above that of all images where the class has fewer than 20.

    Args:
        embeddings: float (N, D), NaN where an image is unreadable.
        images: `vision.audit.images.Images`.
        c: config.audit.

    Returns:
        List of `Issue` of kind "outlier", without an action, the worst first.
    """
    rows = np.flatnonzero(np.isfinite(embeddings).all(1))
    if len(rows) < ENOUGH:
        return []
    score = deviations(_reduce(embeddings[rows]), images.labels[rows])
    far = np.flatnonzero(score > c.outlier)
    issues = []
    for i in far[np.argsort(-score[far], kind="stable")]:
        says = (
            f"unlike the others of its class: {score[i]:.1f} robust deviations farther than usual"
        )
        issues.append(Issue(int(rows[i]), "outlier", float(score[i]), says))
    return issues


def deviations(x, labels):
    """Returns float64 (N,), the score of `find` of each embedding.

    Args:
        x: float64 (N, D).
        labels: int (N,).
    """
    central = np.ones(len(x), bool)
    for i in range(ROUNDS + 1):
        score = _robust(_log_distance(x, labels, central), labels)
        if i < ROUNDS:
            central = score <= np.quantile(score, CENTRAL)
    return score


def _reduce(embeddings):
    """Returns float64 (N, d), the principal components of embeddings (N, D)."""
    from sklearn.decomposition import PCA

    x = embeddings.astype(np.float64)
    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"
    return PCA(min(DIMENSIONS, *x.shape), svd_solver=solver).fit_transform(x)


def _log_distance(x, labels, central):
    """Returns float64 (N,): the logarithm of the distance of each x to its class's mean, by the
    central images.

    An image counts for no mean that it is measured by, or one with few images would make its own.
    """
    from sklearn.covariance import LedoitWolf

    size = labels.max() + 1
    counts = np.bincount(labels[central], minlength=size)
    sums = np.zeros((size, x.shape[1]))
    np.add.at(sums, labels[central], x[central])
    # A class without central images is measured from the mean of all.
    means = np.where(counts[:, None] > 0, sums / np.maximum(1, counts)[:, None], x[central].mean(0))
    covariance = LedoitWolf(assume_centered=True).fit(x[central] - means[labels[central]])
    root = np.linalg.cholesky(covariance.get_precision())
    others = counts[labels] - central  # images of the mean without the one that is measured
    alone = np.where(others[:, None] > 0, means[labels], x[central].mean(0))
    factor = np.where(central & (others > 0), counts[labels] / np.maximum(1, others), 1.0)
    distance = np.linalg.norm((x - alone) @ root, axis=1) * factor
    return np.log(np.maximum(distance, 1e-9))


def _robust(values, labels):
    """Returns float64 (N,): deviations from the median of its class over 1.4826 times the median
    absolute one."""
    found = _deviation(values)
    for label, count in enumerate(np.bincount(labels)):
        if count >= ENOUGH:
            own = labels == label
            found[own] = _deviation(values[own])
    return found


def _deviation(values):
    median = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - median))
    return (values - median) / max(spread, 1e-6)
