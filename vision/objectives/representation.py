"""What objectives that learn without labels have in common.

Labels are used for two measures only, neither of which the network learns from: a linear probe that
is trained on the way, and the vote of the nearest neighbors at each validation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from vision.metrics import knn_accuracy
from vision.objectives.supervised import cross_entropy

MEASURES = ("knn",)  # what `neighbors` returns
REFERENCES = 10_000  # training images among which neighbors are sought

Embed = Callable[[Any], tuple[np.ndarray, np.ndarray]]


def online_probe(
    model: Any, embeddings: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Lets the model's own head learn from labels, without any gradient to the network before it.

    Added to a loss, it makes `val/accuracy` the accuracy of a linear probe, and the run's model a
    classifier that can be exported.

    Args:
        model: a model with a `head`.
        embeddings: float (B, D), the model's.
        labels: soft labels, float (B, C).

    Returns:
        (mean cross-entropy in nats, {"accuracy"}).
    """
    logits = model.head(jax.lax.stop_gradient(embeddings))
    accuracy = (logits.argmax(-1) == labels.argmax(-1)).mean()
    return cross_entropy(logits, labels).mean(), {"accuracy": accuracy}


def neighbors(embed: Embed, loaders: Mapping[str, Any]) -> dict[str, float]:
    """Returns {"knn": accuracy of the nearest neighbors on the validation split}.

    The `validate` of an objective. The neighbors are among at most `REFERENCES` training images,
    evenly spread over the split; see `vision.metrics.knn_accuracy`.

    Args:
        embed: returns (embeddings float32 (N, D), labels int (N,)) of a loader.
        loaders: {split: loader}.
    """
    train = loaders["train"]
    if len(train) > REFERENCES:
        train = train.part(np.linspace(0, len(train) - 1, REFERENCES).astype(np.int64))
    return {"knn": knn_accuracy(*embed(train), *embed(loaders["val"]))}


def follow(slow: nnx.Module, fast: nnx.Module, momentum: float | jax.Array) -> None:
    """Moves a network toward another one: slow = momentum slow + (1 - momentum) fast.

    BatchNorm's statistics follow too, and the slow network computes with its own: EMAN, Cai et al.
    2021 (arXiv:2101.08482), eq. 3. So its outputs do not depend on the rest of the batch, which
    MoCo has to shuffle over devices for.

    Args:
        slow: is changed in place.
        fast: has the same structure.
        momentum: in [0, 1].
    """
    kinds = (nnx.Param, nnx.BatchStat)
    for kind in kinds:
        old = nnx.state(slow, kind)
        new = nnx.state(fast, kind)
        mixed = jax.tree.map(lambda s, f: momentum * s + (1 - momentum) * f, old, new)
        nnx.update(slow, mixed)
