"""How far a measured number may be from the one that many more images would give: bootstrap
intervals.

Efron 1979: draw as many images as there are, with replacement, and measure again, many times; the
interval holds the middle 95 % of what comes out. A draw is a weight for each image, how often it
was drawn, and no image is touched twice for it: what is made of the confusion matrix follows from
the sums of the weights over each class, losses are weighted sums, and ROC-AUC and average precision
follow from the weights between consecutive positives of one sorting a class. All numbers of a draw
come from the same weights.
"""

import warnings

import numpy as np

from vision.evaluation.measures import scores
from vision.inference import softmax

CHUNK = 4_000_000  # weights in memory at a time
LEAST = 100  # draws
# images x classes x draws that ROC-AUC and average precision may take: some 20 s
RANKED = 20_000_000_000


def with_intervals(logits, labels, classes, draws=1000, seed=0):
    """Returns every number of `vision.evaluation.measures.scores`, with its 95 % interval.

    Args:
        logits: float (N, C), N >= 1.
        labels: int (N,), in [0, C).
        classes: C names.
        draws: of the bootstrap; 0 = no intervals.
        seed: of the draws.

    Returns:
        {"metrics": {name: number}, "per_class": [{"class", "support", "predicted", name: number}],
        "bootstrap": {"draws", "ranking_draws" of ROC-AUC and average precision, "level", "seed"}},
        the last None without draws. A number is {"value", "low", "high"}; its value is None where
        it is not defined, and without an interval there are no low and high.
    """
    ranks = scores.ranked(softmax(logits), labels)
    metrics = scores.score(logits, labels, ranks)
    each = scores.per_class(logits, labels, classes, ranks)
    found = {"metrics": {}, "per_class": [{}] * len(classes)}
    how = None
    if draws:
        found = bootstrap(logits, labels, draws, seed)
        how = {"draws": draws, "ranking_draws": found["ranking_draws"], "level": 0.95, "seed": seed}
    apart = ("class", "support", "predicted")
    return {
        "metrics": {
            name: _number(value, found["metrics"].get(name)) for name, value in metrics.items()
        },
        "per_class": [
            {
                name: value if name in apart else _number(value, held.get(name))
                for name, value in one.items()
            }
            for one, held in zip(each, found["per_class"], strict=True)
        ],
        "bootstrap": how,
    }


def bootstrap(logits, labels, draws=1000, seed=0, level=0.95):
    """Returns percentile intervals of every number of `vision.evaluation.measures.scores`.

    A draw in which a number is not defined, such as the recall of a class that was not drawn, does
    not count for it.

    Args:
        logits, labels, draws, seed: see `with_intervals`.
        level: share of the draws inside an interval.

    Returns:
        {"metrics": {name: (low, high)}, "per_class": [{name: (low, high)}], "ranking_draws": int},
        the draws of ROC-AUC
        and average precision: fewer than `draws` for many images of many classes. An interval is
            None where no draw
        defines it.
    """
    labels = np.asarray(labels)
    (images, classes) = np.shape(logits)
    predicted = np.argmax(logits, axis=-1)
    p = softmax(logits)
    sums = np.stack([scores.top5(logits, labels), *scores.losses(logits, labels)])
    ranking_draws = min(draws, max(LEAST, RANKED // (images * classes)))
    whole = []
    each = []
    for start, weights in _draws(images, draws, seed):
        w = weights[:, : max(0, ranking_draws - start)]
        part, of_class = from_margins(*margins(labels, predicted, classes, weights))
        part |= dict(zip(("top5_accuracy", "nll", "brier"), sums @ weights / images, strict=True))
        if w.shape[1]:
            of_class |= dict(
                zip(("roc_auc", "average_precision"), weighted_ranks(p, labels, w), strict=True)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a draw of one class alone
                part |= {
                    name: np.nanmean(of_class[name], 0) for name in ("roc_auc", "average_precision")
                }
        whole.append(part)
        each.append(of_class)
    metrics = {name: _interval(_join(whole, name), level) for name in whole[0]}
    columns = {name: _interval(_join(each, name), level) for name in each[0]}
    return {
        "metrics": {name: _pair(*held) for name, held in metrics.items()},
        "per_class": [
            {name: _pair(low[i], high[i]) for name, (low, high) in columns.items()}
            for i in range(classes)
        ],
        "ranking_draws": ranking_draws,
    }


def margin_draws(labels, predicted, classes, draws=1000, seed=0):
    """Returns {name: float64 (draws,)}, the numbers that a confusion matrix gives, of each
    bootstrap draw.

    Two classifiers on the same images and with the same seed get the same draws, which makes their
    differences paired.

    Args:
        labels, predicted: int (N,), in [0, classes).
        classes: how many.
    """
    parts = [
        from_margins(*margins(labels, predicted, classes, weights))[0]
        for _, weights in _draws(len(labels), draws, seed)
    ]
    return {name: _join(parts, name) for name in parts[0]}


def margins(labels, predicted, classes, weights):
    """Returns the weighted diagonal, row and column sums of confusion matrices, each float64 (C,
    D).

    Args:
        labels, predicted: int (N,), in [0, classes).
        weights: float (N, D), how often each image counts in each of D draws.
    """
    right = np.where(labels == predicted, labels, classes)  # the last row is for those that are not
    return tuple(_grouped(to, classes + 1, weights)[:classes] for to in (right, labels, predicted))


def from_margins(true_positives, support, predicted):
    """Returns what `vision.evaluation.measures.scores` makes of confusion matrices, of which it
    needs these sums alone.

    Args:
        true_positives, support, predicted: float (C, D), diagonal, row and column sums of D
            matrices.

    Returns:
        ({name: float64 (D,)}, {"precision", "recall", "f1": float64 (C, D)}). Of a class that is
        neither drawn nor predicted the latter are NaN; so is the recall of one that is not drawn.
    """
    total = support.sum(0)
    tp = true_positives
    t = support
    q = predicted
    occurs = (t > 0) | (q > 0)
    per = {"precision": _ratio(tp, q), "recall": _ratio(tp, t), "f1": _ratio(2 * tp, t + q)}
    right = tp.sum(0)
    chance = (t * q).sum(0)
    found = {"accuracy": right / total, "balanced_accuracy": per["recall"].sum(0) / (t > 0).sum(0)}
    for name, values in per.items():
        found[f"macro_{name}"] = values.sum(0) / occurs.sum(0)
        found[f"weighted_{name}"] = (values * t).sum(0) / total
    wrong_by_chance = total * total - chance
    found["cohen_kappa"] = 1 - _ratio((total - right) * total, wrong_by_chance, np.nan)
    spread = np.sqrt((total**2 - (q**2).sum(0)) * (total**2 - (t**2).sum(0)))
    found["matthews_corrcoef"] = _ratio(right * total - chance, spread)
    each = {name: np.where(occurs, values, np.nan) for name, values in per.items()}
    return found, each | {"recall": np.where(t > 0, per["recall"], np.nan)}


def weighted_ranks(probabilities, labels, weights):
    """Returns (ROC-AUC, average precision) of each class against the rest, float64 (C, D); NaN
    where not defined.

    Of each class only the weight between consecutive distinct scores of its positives counts: a
    negative's own place there does not.

    Args:
        probabilities: float (N, C).
        labels: int (N,).
        weights: float (N, D), how often each image counts in each of D draws.
    """
    shape = probabilities.shape[1], weights.shape[1]
    auc = np.full(shape, np.nan)
    average = np.full(shape, np.nan)
    for i in np.unique(labels):
        own = labels == i
        column = probabilities[:, i]
        levels, level = np.unique(column[own], return_inverse=True)
        count = len(levels)
        # Negatives below level j are in groups up to 2 j, those equal to it in 2 j + 1; positives
        # follow these groups.
        group = np.searchsorted(levels, column, "left") + np.searchsorted(levels, column, "right")
        group[own] = 2 * count + 1 + level
        grouped = _grouped(group, 3 * count + 1, weights)
        negative = grouped[: 2 * count + 1]
        positive = grouped[2 * count + 1 :]
        up_to = np.cumsum(negative, axis=0)
        below = up_to[0:-1:2]
        equal = negative[1::2]
        found = positive.sum(0)
        others = up_to[-1]
        auc[i] = _ratio((positive * (below + equal / 2)).sum(0), found * others, np.nan)
        hits = np.cumsum(positive[::-1], axis=0)[::-1]  # from each level upwards
        average[i] = _ratio((positive * _ratio(hits, hits + others - below)).sum(0), found, np.nan)
    return auc, average


def _draws(images, draws, seed):
    """Yields (index of the first, weights float32 (N, D)) of bootstrap draws; the chunks do not
    change the draws."""
    random = np.random.default_rng(seed)
    size = max(1, CHUNK // images)
    for start in range(0, draws, size):
        chosen = [random.integers(0, images, images) for _ in range(min(size, draws - start))]
        weights = [np.bincount(one, minlength=images).astype(np.float32) for one in chosen]
        yield start, np.ascontiguousarray(np.stack(weights, 1))


def _grouped(group, count, weights):
    """Returns the sums of the weights (N, D) over each of `count` groups of images, float64 (count,
    D)."""
    from scipy import sparse

    images = len(group)
    members = sparse.csr_array(
        (np.ones(images, weights.dtype), (group, np.arange(images))), shape=(count, images)
    )
    # sums of whole numbers, exact in float32 up to 16 million images
    return (members @ weights).astype(np.float64)


def _ratio(above, below, otherwise=0.0):
    return np.divide(above, below, out=np.full(np.shape(below), otherwise), where=below > 0)


def _join(parts, name):
    return np.concatenate([part[name] for part in parts if name in part], axis=-1)


def _interval(values, level):
    """Returns (low, high) of the last axis of draws, NaN where none is defined."""
    ends = (1 - level) / 2, (1 + level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.nanquantile(values, ends, axis=-1)


def _pair(low, high):
    return None if np.isnan(low) else (float(low), float(high))


def _number(value, interval):
    if value is None or interval is None:
        return {"value": value}
    # With few images of many classes, average precision is higher in nearly all draws than
    # measured: ties are fewer.
    return {"value": value, "low": min(interval[0], value), "high": max(interval[1], value)}
