"""Metrics of outputs and labels: sums add up over batches on the device, ratios come at the end.

Training and evaluation share this file, so a number means the same wherever it appears.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# the results of `summarize` that are single numbers
SCALARS = ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1")

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
            confusion: images by true class (rows) and predicted class (columns), int32 (C, C).
        A tie between logits goes to the class with the lower index, as in `argmax`.
    """
    classes = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits)
    true_log_p = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    true_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    ties_before = (logits == true_logit) & (jnp.arange(classes) < labels[:, None])
    ranked_before = (logits > true_logit) | ties_before
    confusion = jnp.zeros((classes, classes), jnp.int32)
    return {
        "count": mask.sum(dtype=jnp.int32),
        "loss": -jnp.where(mask, true_log_p, 0).sum(),
        "top5": (mask & (ranked_before.sum(-1) < 5)).sum(dtype=jnp.int32),
        "confusion": confusion.at[labels, logits.argmax(-1)].add(mask.astype(jnp.int32)),
    }


def add(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Adds two results of `batch_sums`."""
    return jax.tree.map(jnp.add, a, b)


def summarize(sums: dict[str, jax.Array]) -> dict[str, Any]:
    """Turns totals into the metrics that people read.

    Returns:
        A dict of
            floats: loss (nats), accuracy, top5_accuracy, balanced_accuracy (mean recall of the
                classes that occur), macro_f1 (mean over the classes that occur or were predicted).
            lists, one entry per class: precision, recall, f1 (0 where undefined, as scikit-learn's
                `zero_division=0`), support.
            confusion: nested list.
    """
    confusion = np.asarray(sums["confusion"], np.int64)
    count = max(int(sums["count"]), 1)
    true = confusion.sum(1)
    predicted = confusion.sum(0)
    hits = np.diag(confusion)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    return {
        "loss": float(sums["loss"]) / count,
        "accuracy": float(hits.sum()) / count,
        "top5_accuracy": float(sums["top5"]) / count,
        "balanced_accuracy": _mean(recall[true > 0]),
        "macro_f1": _mean(f1[true + predicted > 0]),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": true.tolist(),
        "confusion": confusion.tolist(),
    }


def _mean(values):
    return float(values.mean()) if len(values) else 0.0


def scalars(summary: dict[str, Any]) -> dict[str, float]:
    """Returns the single numbers of a summary, without its lists."""
    return {name: summary[name] for name in SCALARS}


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
    votes = jax.nn.one_hot(train_labels, classes)

    @jax.jit
    def predict(queries):
        cosine, nearest = jax.lax.top_k(_unit(queries) @ keys.T, k)
        return (jnp.exp((cosine - 1) / temperature)[..., None] * votes[nearest]).sum(1).argmax(-1)

    predicted = [np.asarray(predict(test[i : i + chunk])) for i in range(0, len(test), chunk)]
    return float((np.concatenate(predicted) == test_labels).mean())


def _unit(embeddings):
    """Scales each embedding to length 1; zeros stay zeros."""
    embeddings = jnp.asarray(embeddings)
    lengths = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.maximum(lengths, 1e-12)
