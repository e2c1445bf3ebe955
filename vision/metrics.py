"""Metrics of outputs and labels: sums add up over batches on the device, ratios come at the end.

Training and evaluation share this file, so a number means the same wherever it appears.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# the results of `summarize` that are single numbers
SCALARS = ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1")
TOP = 5  # of top5_accuracy, which means nothing for as few classes
DENSE = 1000  # classes up to which a confusion matrix is written as a table

RECALLS = (1, 5, 10)  # numbers of results of `retrieval`
NEIGHBORS = 20  # the default k of `knn_accuracy`


def batch_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Returns one batch's contribution to the totals.

    Args:
        logits: float (B, C).
        labels: int (B,), in [0, C).
        mask: bool (B,); False for padding, which is then not counted.

    Returns:
        A dict of arrays:
            count: number of images, int32.
            loss: sum of the cross-entropies in nats, float.
            top5: images whose true class is among the five highest logits, int32.
            true_positives, true, predicted: images that are rightly of each class, that are of it,
                and that were said to be, int32 (C,): the diagonal of the confusion matrix and its
                sums, which do not grow with the square of the classes.
        A tie between logits goes to the class with the lower index, as in `argmax`.
    """
    classes = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits)
    true_log_p = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    true_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    ties_before = (logits == true_logit) & (jnp.arange(classes) < labels[:, None])
    ranked_before = (logits > true_logit) | ties_before
    guesses = logits.argmax(-1)
    zeros = jnp.zeros(classes, jnp.int32)
    counted = mask.astype(jnp.int32)
    return {
        "count": mask.sum(dtype=jnp.int32),
        "loss": -jnp.where(mask, true_log_p, 0).sum(),
        "top5": (mask & (ranked_before.sum(-1) < TOP)).sum(dtype=jnp.int32),
        "true_positives": zeros.at[labels].add(counted * (guesses == labels)),
        "true": zeros.at[labels].add(counted),
        "predicted": zeros.at[guesses].add(counted),
    }


def batch_pairs(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns each image's true and predicted class, int32 (2, B); -1 for padding.

    See `batch_sums` for the arguments.
    """
    pairs = jnp.stack([labels, logits.argmax(-1)]).astype(jnp.int32)
    return jnp.where(mask, pairs, -1)


def add(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Adds two results of `batch_sums`."""
    return jax.tree.map(jnp.add, a, b)


def summarize(sums: dict[str, jax.Array]) -> dict[str, Any]:
    """Turns totals into the metrics that people read.

    Returns:
        A dict of
            floats: loss (nats), accuracy, top5_accuracy (of more than five classes),
                balanced_accuracy and macro_f1 (means of recall and F1 over the classes that occur).
            lists, one entry per class: precision, recall, f1 (0 where undefined, as scikit-learn's
                `zero_division=0`), support.
    """
    count = max(int(sums["count"]), 1)
    true = np.asarray(sums["true"], np.int64)
    predicted = np.asarray(sums["predicted"], np.int64)
    hits = np.asarray(sums["true_positives"], np.int64)
    top5 = {"top5_accuracy": float(sums["top5"]) / count} if len(true) > TOP else {}
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    return {
        "loss": float(sums["loss"]) / count,
        "accuracy": float(hits.sum()) / count,
        **top5,
        "balanced_accuracy": _mean(recall[true > 0]),
        "macro_f1": _mean(f1[true > 0]),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": true.tolist(),
    }


def scalar_names(classes: int) -> tuple[str, ...]:
    """Returns the names in `SCALARS` that are measured with this number of classes."""
    return tuple(name for name in SCALARS if name != "top5_accuracy" or classes > TOP)


def confusion(pairs: np.ndarray, classes: int) -> dict[str, list]:
    """Returns the confusion matrix as it is written to JSON.

    Args:
        pairs: each image's true and predicted class, int (2, N); -1 for padding.
        classes: number of classes, C.

    Returns:
        {"confusion": images by true class (rows) and predicted class (columns)}, and for more than
        `DENSE` classes {"confusion_cells": [[true, predicted, images], ...]}, the cells that are
        not 0, by row and column: the table would have C x C numbers, nearly all of them 0.
    """
    pairs = np.asarray(pairs, np.int64)
    true, predicted = pairs[:, pairs[0] >= 0]
    cells, images = np.unique(true * classes + predicted, return_counts=True)
    if classes > DENSE:
        rows = np.stack([cells // classes, cells % classes, images], 1)
        return {"confusion_cells": rows.tolist()}
    table = np.zeros(classes * classes, np.int64)
    table[cells] = images
    return {"confusion": table.reshape(classes, classes).tolist()}


def _mean(values):
    return float(values.mean()) if len(values) else 0.0


def scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    """Returns the single numbers of a summary, without its lists."""
    return {name: summary[name] for name in SCALARS if name in summary}


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = NEIGHBORS,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> float:
    """Returns the accuracy of a vote among the k nearest training embeddings.

    Neighbors are ranked by cosine similarity, and their votes are weighted by exp(cosine / T), as
    in Wu et al. 2018 (arXiv:1805.01978), section 3.4, and in DINO's evaluation (Caron et al. 2021,
    arXiv:2104.14294).

    Args:
        train: training embeddings, float (N, D).
        train_labels: their classes, int (N,).
        test: test embeddings, float (M, D).
        test_labels: their classes, int (M,).
        k: number of neighbors; all of them if there are fewer.
        temperature: T.
        chunk: number of test embeddings compared at a time.
    """
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    k = min(k, len(train))
    keys = _unit(train)
    neighbor_labels = jnp.asarray(train_labels)

    @jax.jit
    def predict(queries):
        cosine, nearest = jax.lax.top_k(_unit(queries) @ keys.T, k)
        weights = jnp.exp((cosine - 1) / temperature)
        votes = jnp.zeros((len(queries), classes), weights.dtype)
        rows = jnp.arange(len(queries))[:, None]
        return votes.at[rows, neighbor_labels[nearest]].add(weights).argmax(-1)

    predicted = [np.asarray(predict(test[i : i + chunk])) for i in range(0, len(test), chunk)]
    return float((np.concatenate(predicted) == test_labels).mean())


def retrieval(
    images: np.ndarray, captions: np.ndarray, numbers: np.ndarray, chunk: int = 1024
) -> dict[str, float]:
    """Returns how often an image finds its caption among the first k, and the other way around.

    The captions that are searched are the different ones; a caption's images are all that have it.
    If all captions differ, this is the recall that papers report. Of equal similarities, the wrong
    ones count as first, and so does whatever is compared with NaN.

    Args:
        images: vectors of length 1 of images, float (N, D).
        captions: those of their captions, float (N, D).
        numbers: int (N,), 0 to M - 1, the same for the same caption.
        chunk: number of images compared at a time; only their similarities are in memory at a
            time.

    Returns:
        {"image_to_text_at_K", "text_to_image_at_K": recall, and the same with "chance_at_K": that
        of a random order} for each K of `RECALLS`.
    """
    count = len(images)
    _, first, images_of = np.unique(numbers, return_index=True, return_counts=True)
    text_ranks, image_ranks = _ranks(images, jnp.asarray(captions[first]), numbers, chunk)
    measured = {}
    for k in RECALLS:
        measured[f"image_to_text_at_{k}"] = float((text_ranks < k).mean())
        measured[f"text_to_image_at_{k}"] = float((image_ranks < k).mean())
        measured[f"image_to_text_chance_at_{k}"] = min(1.0, k / len(first))
        missed = [_chance_to_miss(count, own_count, k) for own_count in images_of.tolist()]
        measured[f"text_to_image_chance_at_{k}"] = float(1 - np.mean(missed))
    return measured


def _ranks(
    images: np.ndarray, texts: jax.Array, numbers: np.ndarray, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many come before an image's own text, and before the best of a text's images.

    All similarities at once would be N x M numbers. A text's images are compared with the best of
    its own only once that is known, so each part of the similarities is computed twice.

    Args:
        images: vectors of length 1, float (N, D).
        texts: those of the different texts, float (M, D).
        numbers: the text of each image, int (N,).
        chunk: number of images compared at a time.

    Returns:
        (the other texts before, int (N,); the other texts' images before, int (M,)).
    """

    def parts() -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
        """Yields similarities (B, M) and the places in them of the images' own texts."""
        for i in range(0, len(images), chunk):
            similarities = np.asarray(jnp.asarray(images[i : i + chunk]) @ texts.T)
            yield similarities, (np.arange(len(similarities)), numbers[i : i + chunk])

    text_ranks = []
    best = np.full(len(texts), -np.inf)
    for similarities, own in parts():
        own_similarities = similarities[own]
        np.maximum.at(best, own[1], own_similarities)
        text_ranks.append((~(similarities < own_similarities[:, None])).sum(1) - 1)
    image_ranks = np.zeros(len(texts), np.int64)
    for similarities, own in parts():
        is_before = ~(similarities < best)
        is_before[own] = False
        image_ranks += is_before.sum(0)
    return np.concatenate(text_ranks), image_ranks


def _chance_to_miss(count, own, k):
    """Returns how likely none of `own` among `count` is one of k that are drawn."""
    return math.comb(count - own, k) / math.comb(count, k) if k <= count else 0.0


def _unit(embeddings):
    """Scales each embedding to length 1; zeros stay zeros."""
    embeddings = jnp.asarray(embeddings)
    lengths = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.maximum(lengths, 1e-12)
