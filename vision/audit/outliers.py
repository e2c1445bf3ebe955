"""Images that do not belong: their embeddings are far from all others with their label."""

import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images
from vision.audit.issues import Issue

DIMENSIONS = 128  # most principal components in which distances are measured
CENTRAL = 0.95  # fraction of the images that the means and the covariance are computed from
ROUNDS = 3  # how often these images are chosen anew
ENOUGH = 20  # images of a class from which its own median distance is used


def find_outliers(embeddings: np.ndarray, images: Images, c: ConfigDict) -> list[Issue]:
    """Finds outliers by their Mahalanobis distance to the mean of their class.

    All classes share one covariance: Lee et al. 2018 (arXiv:1807.03888), section 2.1; it is shrunk
    (Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4). Means and covariance are computed
    from the central 95 % of the images, chosen anew three times (the concentration steps of
    Rousseeuw and Van Driessen 1999, doi:10.1080/00401706.1999.10485670): similar outliers would
    otherwise hide one another. The score is the logarithm of the distance, in robust deviations
    (median, MAD) above the median of its class, or above that of all images if the class has fewer
    than 20.

    Args:
        embeddings: float (N, D), NaN for unreadable images.
        images: the images.
        c: config.audit.

    Returns:
        Issues of kind "outlier", without an action, the worst first.
    """
    rows = np.flatnonzero(np.isfinite(embeddings).all(1))
    if len(rows) < ENOUGH:
        return []
    scores = deviations(_reduce(embeddings[rows]), images.labels[rows])
    far = np.flatnonzero(scores > c.outlier)
    issues = []
    for i in far[np.argsort(-scores[far], kind="stable")]:
        suggestion = (
            f"unlike the rest of its class: {scores[i]:.1f} robust deviations farther than its "
            "median"
        )
        issues.append(Issue(int(rows[i]), "outlier", float(scores[i]), suggestion))
    return issues


def deviations(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns float64 (N,), the score that `find_outliers` gives each embedding.

    Args:
        x: float64 (N, D).
        labels: int (N,).
    """
    central = np.ones(len(x), bool)
    for _ in range(ROUNDS):
        scores = _robust_deviations(_log_distance(x, labels, central), labels)
        central = scores <= np.quantile(scores, CENTRAL)
    return _robust_deviations(_log_distance(x, labels, central), labels)


def _reduce(embeddings):
    """Returns float64 (N, d), the principal components of embeddings (N, D)."""
    from sklearn.decomposition import PCA

    x = embeddings.astype(np.float64)
    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"
    return PCA(min(DIMENSIONS, *x.shape), svd_solver=solver).fit_transform(x)


def _log_distance(x, labels, central):
    """Returns float64 (N,): the logarithm of each x's distance to the mean of its class.

    Means and covariance are those of the central images. An image is left out of the mean that it
    is compared with: in a class with few images it would dominate it.
    """
    from sklearn.covariance import LedoitWolf

    size = labels.max() + 1
    counts = np.bincount(labels[central], minlength=size)
    sums = np.zeros((size, x.shape[1]))
    np.add.at(sums, labels[central], x[central])
    # A class without central images is compared with the mean of all.
    means = np.where(counts[:, None] > 0, sums / np.maximum(1, counts)[:, None], x[central].mean(0))
    covariance = LedoitWolf(assume_centered=True).fit(x[central] - means[labels[central]])
    root = np.linalg.cholesky(covariance.get_precision())
    other_counts = counts[labels] - central  # central images of the class besides this one
    centers = np.where(other_counts[:, None] > 0, means[labels], x[central].mean(0))
    leave_one_out = np.where(
        central & (other_counts > 0), counts[labels] / np.maximum(1, other_counts), 1.0
    )
    distance = np.linalg.norm((x - centers) @ root, axis=1) * leave_one_out
    return np.log(np.maximum(distance, 1e-9))


def _robust_deviations(values, labels):
    """Returns float64 (N,): deviations from the median of the class over 1.4826 times its MAD."""
    result = _deviations_from_median(values)
    for label, count in enumerate(np.bincount(labels)):
        if count >= ENOUGH:
            in_class = labels == label
            result[in_class] = _deviations_from_median(values[in_class])
    return result


def _deviations_from_median(values):
    median = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - median))
    return (values - median) / max(spread, 1e-6)
