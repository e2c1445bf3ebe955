"""Everything computed from outputs and labels. Sums stream over batches on the device; ratios are
taken at the end.

Training and evaluation both stand on this file, so a number means the same wherever it appears.
"""

import jax
import jax.numpy as jnp
import numpy as np

# what `summarize` gives as one number
SCALARS = ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1")


def batch_sums(logits, labels, mask):
    """Returns what one batch adds to the totals.

    Args:
        logits: float (B, C).
        labels: int (B,), in [0, C).
        mask: bool (B,); False for padding, which then counts nowhere.

    Returns:
        {"count": int32, "loss": float, sum of cross-entropies in nats, "top5": int32, of the true
        class among the five highest logits, "confusion": int32 (C, C), true class by predicted
        class}. A tie between logits goes to the class with the lower index, as in `argmax`.
    """
    classes = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    own_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    before = (logits > own_logit) | (
        (logits == own_logit) & (jnp.arange(classes) < labels[:, None])
    )
    confusion = jnp.zeros((classes, classes), jnp.int32)
    return {
        "count": mask.sum(dtype=jnp.int32),
        "loss": -jnp.where(mask, own, 0).sum(),
        "top5": (mask & (before.sum(-1) < 5)).sum(dtype=jnp.int32),
        "confusion": confusion.at[labels, logits.argmax(-1)].add(mask.astype(jnp.int32)),
    }


def add(a, b):
    """Adds two results of `batch_sums`."""
    return jax.tree.map(jnp.add, a, b)


def summarize(sums):
    """Turns totals into the numbers people read.

    Returns:
        A dict of floats: loss (nats), accuracy, top5_accuracy, balanced_accuracy (mean recall of
            the classes that
        occur), macro_f1 (mean over the classes that occur or were predicted); and lists per class:
        precision, recall, f1 (0 where undefined, as scikit-learn's `zero_division=0`), support; and
        confusion, a nested list.
    """
    confusion = np.asarray(sums["confusion"], np.int64)
    count = max(int(sums["count"]), 1)
    true = confusion.sum(1)
    predicted = confusion.sum(0)
    hit = np.diag(confusion)
    precision = hit / np.maximum(predicted, 1)
    recall = hit / np.maximum(true, 1)
    f1 = 2 * hit / np.maximum(true + predicted, 1)
    return {
        "loss": float(sums["loss"]) / count,
        "accuracy": float(hit.sum()) / count,
        "top5_accuracy": float(sums["top5"]) / count,
        "balanced_accuracy": float(recall[true > 0].mean()) if (true > 0).any() else 0.0,
        "macro_f1": float(f1[true + predicted > 0].mean()) if (true + predicted > 0).any() else 0.0,
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": true.tolist(),
        "confusion": confusion.tolist(),
    }


def scalars(summary):
    """The single numbers of a summary, without the lists."""
    return {name: summary[name] for name in SCALARS}
