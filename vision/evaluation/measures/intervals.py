"""How far a measured number may be from the one that many more images would give.

Shares of images, such as accuracy, recall and precision, have an interval in closed form (Wilson
1927), which makes sense of three images, too, and so has a mean of recalls. The other numbers have
none, so they are bootstrapped if there are `LEAST_IMAGES`. Efron 1979: draw as many
images as there are, with replacement, and measure again, many times; the interval holds the middle
95 % of the results. A draw is represented by a weight for each image, how often it was drawn, so
that no image is read again: numbers that depend on the confusion matrix follow from the sums of the
weights over each class, losses are weighted sums, and ROC-AUC and average precision follow from the
weights between consecutive positives, of one sorting per class. All numbers of a draw come from the
same weights.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vision.evaluation.measures import scores, statistics
from vision.evaluation.measures.blocks import columns
from vision.evaluation.measures.margins import from_margins, grouped, margins, ratio

CHUNK = 4_000_000  # weights in memory at a time
# Draws of fewer images are so much alike that their spread says nothing of new ones.
LEAST_IMAGES = 10
LEAST = 100  # draws of ROC-AUC and average precision, at least
# images x classes x draws that ROC-AUC and average precision may take: some 20 s
RANKED = 20_000_000_000
RANKED_CLASSES = 1000  # with more classes ROC-AUC and average precision have no interval
RANKS = ("roc_auc", "average_precision")

Draws = dict[str, np.ndarray]


def with_intervals(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns every number of `vision.evaluation.measures.scores`, with its 95 % interval.

    Args:
        logits: float (N, C), N >= 1.
        labels: int (N,), in [0, C).
        classes: C names.
        draws: number of bootstrap draws; 0 for no intervals.
        seed: seed of the draws.

    Returns:
        A dict of
            metrics: {name: number}.
            per_class: [{"class", "support", "predicted", name: number}].
            bootstrap: {"draws", "ranking_draws" (of ROC-AUC and average precision), "level",
                "seed"}; None without draws.
        A number is {"value", "low", "high"}. Its value is None if it is not defined; low and high
        are missing if it has no interval: because there are fewer than `LEAST_IMAGES` and it is
        bootstrapped, or because all draws are alike.
    """
    ranks = scores.ranked(logits, labels)
    metrics = scores.score(logits, labels, ranks)
    per_class = scores.per_class(logits, labels, classes, ranks)
    metric_intervals: dict = {}
    class_intervals: list[dict] = [{}] * len(classes)
    settings = None
    if draws:
        results = bootstrap(logits, labels, draws, seed)
        metric_intervals = results["metrics"] | closed_form(metrics, per_class)
        by_wilson = _class_intervals(per_class)
        class_intervals = [a | b for a, b in zip(results["per_class"], by_wilson, strict=True)]
        settings = {
            "draws": draws,
            "ranking_draws": results["ranking_draws"],
            "level": 0.95,
            "seed": seed,
        }
    return {
        "metrics": {
            name: _number(value, metric_intervals.get(name)) for name, value in metrics.items()
        },
        "per_class": [
            _class_numbers(row, row_intervals)
            for row, row_intervals in zip(per_class, class_intervals, strict=True)
        ],
        "bootstrap": settings,
    }


def _class_numbers(row, row_intervals):
    counts = ("class", "support", "predicted")
    return {
        name: value if name in counts else _number(value, row_intervals.get(name))
        for name, value in row.items()
        if name != "true_positives"
    }


def closed_form(
    metrics: dict[str, Any], per_class: Sequence[dict[str, Any]]
) -> dict[str, tuple[float, float]]:
    """Returns {name: (low, high)} of the numbers whose interval needs no draws.

    Args:
        metrics: from `scores.score`.
        per_class: from `scores.per_class`.
    """
    present = [row for row in per_class if row["support"]]
    hits = np.array([row["true_positives"] for row in present])
    support = np.array([row["support"] for row in present])
    images = int(support.sum())
    right = _ends(*statistics.wilson(hits.sum(), images))
    recall = statistics.mean_of_shares(hits, support)
    results = {"accuracy": right, "weighted_recall": right}
    results |= {"balanced_accuracy": recall, "macro_recall": recall}
    if "top5_accuracy" in metrics:
        in_top5 = round(metrics["top5_accuracy"] * images)
        results["top5_accuracy"] = _ends(*statistics.wilson(in_top5, images))
    return results


def _class_intervals(per_class):
    """Returns [{"precision", "recall", "f1": (low, high)}] of the classes.

    F1 is 2 J / (1 + J) of the share J of the images of a class, or called so, that are both.
    """
    hits = np.array([row["true_positives"] for row in per_class])
    support = np.array([row["support"] for row in per_class])
    predicted = np.array([row["predicted"] for row in per_class])
    overlap = statistics.wilson(hits, support + predicted - hits)
    ends = {
        "precision": statistics.wilson(hits, predicted),
        "recall": statistics.wilson(hits, support),
        "f1": tuple(2 * end / (1 + end) for end in overlap),
    }
    return [
        {name: _ends(low[i], high[i]) for name, (low, high) in ends.items()}
        for i in range(len(per_class))
    ]


def _ends(low, high):
    return None if np.isnan(low) else (float(low), float(high))


def bootstrap(
    logits: np.ndarray,
    labels: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Returns percentile intervals of the numbers of `vision.evaluation.measures.scores`.

    Of each class, only of ROC-AUC and average precision. A draw in which a number is not defined,
    such as the ROC-AUC of a class that was not drawn, is not counted for that number.

    Args:
        logits: see `with_intervals`.
        labels: see `with_intervals`.
        draws: see `with_intervals`.
        seed: see `with_intervals`.
        level: share of the draws inside an interval.

    Returns:
        A dict of
            metrics: {name: (low, high)}; None in place of an interval that no draw defines, or that
                does not tell anything (`tells`).
            per_class: [{name: (low, high)}], the same.
            ranking_draws: draws of ROC-AUC and average precision, int: fewer than `draws` for many
                images of many classes.
    """
    images, classes = np.shape(logits)
    measure = _Measure(logits, np.asarray(labels))
    ranking_draws = min(draws, max(LEAST, RANKED // (images * classes)))
    if classes > RANKED_CLASSES or images * classes > scores.RANKABLE:
        ranking_draws = 0
    chunks = [
        measure(weights, max(0, ranking_draws - start))
        for start, weights in _draws(max(images, 4 * classes), images, draws, seed)
    ]
    metrics = _intervals([metrics for metrics, _ in chunks], level)
    per_class = _intervals([numbers for _, numbers in chunks], level)
    return {
        "metrics": {name: _pair(low, high, images) for name, (low, high) in metrics.items()},
        "per_class": [
            {name: _pair(low[i], high[i], images) for name, (low, high) in per_class.items()}
            for i in range(classes)
        ],
        "ranking_draws": ranking_draws,
    }


def tells(low: float, high: float, images: int) -> bool:
    """Returns whether a bootstrapped interval tells anything of new images.

    Not if there are fewer than `LEAST_IMAGES`, nor if all draws are alike, as are those of a
    hundred right answers of a hundred.

    Args:
        low: its lower end; NaN if no draw defines the number.
        high: its upper end, the same.
        images: number of images that were drawn from.
    """
    return bool(images >= LEAST_IMAGES and low < high)


class _Measure:
    """Measures bootstrap draws of one set of outputs.

    Args:
        logits: float (N, C).
        labels: int (N,).
    """

    def __init__(self, logits, labels):
        self._labels = labels
        self._logits = logits
        self._predicted = np.argmax(logits, axis=-1)
        self._losses = np.stack(scores.losses(logits, labels))

    def __call__(self, weights, ranking_draws):
        """Returns ({name: float (D,)}, {name: float (C, D)}): metrics, and numbers of each class.

        Args:
            weights: float (N, D), how often each image counts in each of D draws.
            ranking_draws: how many of the D draws, from the first, measure ROC-AUC and average
                precision.
        """
        classes = np.shape(self._logits)[1]
        metrics, _ = from_margins(*margins(self._labels, self._predicted, classes, weights))
        means = self._losses @ weights / len(self._labels)
        metrics |= dict(zip(("nll", "brier"), means, strict=True))
        per_class = {}
        weights = weights[:, :ranking_draws]
        if weights.shape[1]:
            ranks = weighted_ranks(self._logits, self._labels, weights)
            per_class = dict(zip(RANKS, ranks, strict=True))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # draws of a single class
                metrics |= {name: np.nanmean(per_class[name], 0) for name in RANKS}
        return metrics, per_class


def margin_draws(
    labels: np.ndarray, predicted: np.ndarray, classes: int, draws: int = 1000, seed: int = 0
) -> Draws:
    """Returns {name: float64 (draws,)}: the numbers of the confusion matrix of each bootstrap draw.

    Two classifiers on the same images get the same draws from the same seed, so that their
    differences are paired.

    Args:
        labels: int (N,), in [0, classes).
        predicted: int (N,), in [0, classes).
        classes: number of classes.
        draws: number of bootstrap draws.
        seed: seed of the draws.
    """
    chunks = [
        from_margins(*margins(labels, predicted, classes, weights))[0]
        for _, weights in _draws(max(len(labels), 4 * classes), len(labels), draws, seed)
    ]
    return {name: _concatenate(chunks, name) for name in chunks[0]}


def weighted_ranks(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ROC-AUC, average precision) of each class against the rest.

    Args:
        logits: float (N, C); the classes are ranked by their probabilities.
        labels: int (N,).
        weights: float (N, D), how often each image counts in each of D draws.

    Returns:
        Two arrays float64 (C, D), NaN where not defined.
    """
    shape = (np.shape(logits)[1], weights.shape[1])
    auc = np.full(shape, np.nan)
    precision = np.full(shape, np.nan)
    for i, column in columns(logits, np.unique(labels)):
        auc[i], precision[i] = _class_ranks(column, labels == i, weights)
    return auc, precision


def _class_ranks(scores_of_class, is_positive, weights):
    """Returns (ROC-AUC, average precision) of one class, float64 (D,) each.

    Only the weight between consecutive distinct scores of the positives matters: the order of the
    negatives in between does not.
    """
    levels, level = np.unique(scores_of_class[is_positive], return_inverse=True)
    count = len(levels)
    # Negatives below level j are in groups up to 2 j, those equal to it in 2 j + 1; the groups of
    # the positives follow.
    group = np.searchsorted(levels, scores_of_class, "left")
    group += np.searchsorted(levels, scores_of_class, "right")
    group[is_positive] = 2 * count + 1 + level
    totals = grouped(group, 3 * count + 1, weights)
    negatives = totals[: 2 * count + 1]
    positives = totals[2 * count + 1 :]
    up_to = np.cumsum(negatives, axis=0)
    below = up_to[0:-1:2]
    equal = negatives[1::2]
    total = positives.sum(0)
    auc = ratio((positives * (below + equal / 2)).sum(0), total * up_to[-1], np.nan)
    hits = np.cumsum(positives[::-1], axis=0)[::-1]  # from each level upward
    precision = ratio(hits, hits + up_to[-1] - below)
    return auc, ratio((positives * precision).sum(0), total, np.nan)


def _draws(rows: int, images: int, draws: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of the first, weights float32 (N, D)) of bootstrap draws, chunk by chunk.

    The draws do not depend on the size of the chunks, of which no array has more than `rows` rows.
    """
    random = np.random.default_rng(seed)
    size = max(1, CHUNK // rows)
    for start in range(0, draws, size):
        weights = []
        for _ in range(min(size, draws - start)):
            drawn = random.integers(0, images, images)
            weights.append(np.bincount(drawn, minlength=images).astype(np.float32))
        yield start, np.ascontiguousarray(np.stack(weights, 1))


def _concatenate(chunks, name):
    return np.concatenate([chunk[name] for chunk in chunks if name in chunk], axis=-1)


def _intervals(chunks, level):
    """Returns {name: (low, high)} over the draws of all chunks, the last axis; NaN if undefined."""
    ends = ((1 - level) / 2, (1 + level) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: np.nanquantile(_concatenate(chunks, name), ends, axis=-1) for name in chunks[0]
        }


def _pair(low, high, images):
    return (float(low), float(high)) if tells(low, high, images) else None


def _number(value, interval):
    if value is None or interval is None:
        return {"value": value}
    # With few images of many classes, nearly all draws have a higher average precision than the
    # measured one: they have fewer ties.
    return {"value": value, "low": min(interval[0], value), "high": max(interval[1], value)}
