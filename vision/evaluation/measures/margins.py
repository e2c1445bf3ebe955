"""The numbers that follow from a confusion matrix's diagonal and its sums, without the matrix."""

import numpy as np

Numbers = dict[str, np.ndarray]


def margins(
    labels: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the diagonals, row sums and column sums of weighted confusion matrices.

    Args:
        labels: int (N,), in [0, classes).
        predicted: int (N,), in [0, classes).
        classes: number of classes, C.
        weights: float (N, D), how often each image counts in each of D draws.

    Returns:
        Three arrays, each float64 (C, D).
    """
    # one group more, for the images that are not on the diagonal
    right = np.where(labels == predicted, labels, classes)
    diagonal = grouped(right, classes + 1, weights)[:classes]
    support = grouped(labels, classes + 1, weights)[:classes]
    columns = grouped(predicted, classes + 1, weights)[:classes]
    return diagonal, support, columns


def from_margins(
    true_positives: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[Numbers, Numbers]:
    """Returns the numbers of `vision.evaluation.measures.scores` that confusion matrices determine.

    Args:
        true_positives: diagonals of D matrices, float (C, D).
        support: their row sums, float (C, D).
        predicted: their column sums, float (C, D).

    Returns:
        ({name: float64 (D,)}, {"precision", "recall", "f1": float64 (C, D)}). The latter are NaN
        for a class without images, which does not count in the means over classes.
    """
    total = support.sum(0)
    occurs = support > 0
    per_class = {
        "precision": ratio(true_positives, predicted),
        "recall": ratio(true_positives, support),
        "f1": ratio(2 * true_positives, support + predicted),
    }
    right = true_positives.sum(0)
    metrics = {
        "accuracy": right / total,
        "balanced_accuracy": per_class["recall"].sum(0) / occurs.sum(0),
    }
    for name, values in per_class.items():
        metrics[f"macro_{name}"] = (values * occurs).sum(0) / occurs.sum(0)
        metrics[f"weighted_{name}"] = (values * support).sum(0) / total
    chance = (support * predicted).sum(0)
    wrong_by_chance = total * total - chance
    metrics["cohen_kappa"] = 1 - ratio((total - right) * total, wrong_by_chance, np.nan)
    spread = np.sqrt((total**2 - (predicted**2).sum(0)) * (total**2 - (support**2).sum(0)))
    metrics["matthews_corrcoef"] = ratio(right * total - chance, spread)
    return metrics, {name: np.where(occurs, values, np.nan) for name, values in per_class.items()}


def grouped(group: np.ndarray, count: int, weights: np.ndarray) -> np.ndarray:
    """Returns the sums of weights (N, D) over `count` groups of images, float64 (count, D).

    Args:
        group: each image's group, int (N,).
        count: number of groups.
        weights: float (N, D).
    """
    from scipy import sparse

    images = len(group)
    members = sparse.csr_array(
        (np.ones(images, weights.dtype), (group, np.arange(images))), shape=(count, images)
    )
    # The sums are integers, exact in float32 up to 16 million images.
    return (members @ weights).astype(np.float64)


def ratio(above: np.ndarray, below: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """Returns above / below, and `otherwise` if `below` is not positive."""
    return np.divide(above, below, out=np.full(np.shape(below), otherwise), where=below > 0)
