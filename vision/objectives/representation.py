"""What objectives that learn without labels have in common.

Labels are used for two measures only, neither of which the network learns from: a linear probe that
learns during the training, and the vote of the nearest neighbors at each validation.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_range
from vision.metrics import knn_accuracy
from vision.models.layers.linear import Linear
from vision.models.layers.norms import BatchNorm
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
        embeddings: float (K B, D), the model's, of K views of the images, one after the other.
        labels: soft labels of the images, float (B, C).

    Returns:
        (mean cross-entropy in nats, {"accuracy"}).
    """
    logits = model.head(jax.lax.stop_gradient(embeddings))
    labels = jnp.tile(labels, (len(embeddings) // len(labels), 1))
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


def rising(momentum: float, progress: float | jax.Array) -> jax.Array:
    """Returns a momentum that rises to 1 by a cosine: 1 - (1 - m) (cos(pi t) + 1) / 2.

    Grill et al. 2020 (arXiv:2006.07733), section 3.3.

    Args:
        momentum: m, where it starts, in [0, 1].
        progress: t, the share of the training that is done.
    """
    return 1 - (1 - momentum) * (jnp.cos(jnp.pi * progress) + 1) / 2


def unit(vectors: jax.Array) -> jax.Array:
    """Returns vectors (..., D) divided by their length; zero stays zero, and so has a gradient."""
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def distances(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the squared distances of vectors divided by their lengths: 2 - 2 cos, in [0, 4].

    Args:
        first: float (B, D).
        second: float (B, D).

    Returns:
        float (B,).
    """
    return 2 - 2 * (unit(first) * unit(second)).sum(-1)


def spread(units: jax.Array) -> jax.Array:
    """Returns how far vectors are spread over the sphere: about 1 if evenly, 0 if they collapsed.

    Each component's standard deviation over the batch, averaged over the components, times sqrt(D).
    Chen and He 2020 (arXiv:2011.10566), section 4.1, watch it without the factor.

    Args:
        units: float (B, D), each of length 1.
    """
    return units.std(0).mean() * units.shape[-1] ** 0.5


def matched(similarities: jax.Array) -> jax.Array:
    """Returns the share of rows of (B, B) whose largest value is on the diagonal."""
    return (similarities.argmax(-1) == jnp.arange(len(similarities))).mean()


class Head(nnx.Module):
    """A multilayer perceptron on embeddings: a projection, or a prediction of one.

    Each layer but the last is followed by BatchNorm, if there is any, and ReLU. Layers have a bias
    only if there is no BatchNorm. It computes in the parameters' dtype.

    Args:
        inputs: length of the embeddings.
        hidden: units of each layer but the last.
        width: length of the outputs, D.
        layers: number of dense layers, at least 1.
        norm: whether the hidden layers have BatchNorm.
        output_norm: whether the outputs have one too, without a bias, as in SimCLR's code.
        output_scale: whether that one learns a scale.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        width: int,
        *,
        layers: int = 2,
        norm: bool = True,
        output_norm: bool = False,
        output_scale: bool = False,
        rngs: nnx.Rngs,
    ):
        sizes = [inputs, *[hidden] * (layers - 1), width]
        self.layers = nnx.List(
            [
                Linear(before, after, use_bias=not norm, rngs=rngs)
                for before, after in itertools.pairwise(sizes)
            ]
        )
        self.norms = nnx.List([BatchNorm(hidden, rngs=rngs) for _ in sizes[1:-1] if norm])
        # Its epsilon and decay are those of `BatchNorm`, which always has a bias.
        last = functools.partial(nnx.BatchNorm, momentum=0.9, use_bias=False, rngs=rngs)
        self.output_norm = last(width, use_scale=output_scale) if output_norm else None

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        """Returns outputs (B, D), not normalized, of embeddings (B, inputs)."""
        x = embeddings
        for number, layer in enumerate(self.layers):
            if number:
                x = jax.nn.relu(x)
            x = layer(x)
            if number < len(self.norms):
                x = self.norms[number](x)
        return x if self.output_norm is None else self.output_norm(x)


class Clocked(nnx.Module):
    """An objective whose `after_update` depends on the share of the training that is done."""

    def __init__(self) -> None:
        self.progress = nnx.Variable(jnp.zeros((), jnp.float32))

    def note_progress(self, batch: Mapping[str, Any]) -> None:
        """Remembers the batch's progress for `after_update`."""
        self.progress[...] = jnp.asarray(batch["progress"], jnp.float32)


class MomentumPair(Clocked):
    """A network with its projection, and a slow copy of both that follows them.

    The copy is in evaluation mode, so it computes with the BatchNorm statistics that `follow` gives
    it; MoCo's and BYOL's own use the statistics of the batch.

    Args:
        model: the network.
        projection: on its embeddings.
        momentum: of the slow copy, in [0, 1].
        momentum_rises: whether it rises to 1; see `rising`.
    """

    frozen = ("slow", "slow_projection")

    def __init__(self, model: Any, projection: Head, momentum: float, momentum_rises: bool):
        super().__init__()
        self.model = model
        self.slow = nnx.clone(model)
        self.projection = projection
        self.slow_projection = nnx.clone(projection)
        self.momentum = momentum
        self.momentum_rises = momentum_rises

    def targets(self, images: jax.Array) -> jax.Array:
        """Returns the slow copy's projections, (B, D) of length 1, without gradient."""
        return jax.lax.stop_gradient(unit(self.slow_projection(self.slow.embed(images))))

    def after_update(self) -> None:
        """Lets the slow copy follow."""
        momentum: float | jax.Array = self.momentum
        if self.momentum_rises:
            momentum = rising(self.momentum, self.progress[...])
        follow(self.slow, self.model, momentum)
        follow(self.slow_projection, self.projection, momentum)


def starts(c: ConfigDict) -> dict[str, str]:
    """The slow network starts as a copy of the model: the `starts` of an objective."""
    del c
    return {"slow": "model"}


def check_options(options: ConfigDict) -> None:
    """Raises `UserError` if a temperature, a momentum or a width is out of range.

    Args:
        options: config.objective.options; of an objective that has some of those keys.
    """
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "temperature": (lambda value: 0 < value < float("inf"), "above 0"),
        "momentum": (lambda value: 0 <= value <= 1, "in [0, 1]"),
        "hidden": (lambda value: value >= 1, "at least 1"),
        "width": (lambda value: value >= 1, "at least 1"),
        "layers": (lambda value: value >= 1, "at least 1"),
    }
    for name, (holds, rule) in rules.items():
        if name in options:
            value = options[name]
            check_range(f"objective.options.{name}", value, holds(value), rule)


def check_batch(images: jax.Array, objective: str) -> None:
    """Raises `UserError` if a batch has no two images to compare.

    Args:
        images: a view, (B, ...).
        objective: its name, for the message.
    """
    if len(images) < 2:
        raise UserError(
            f"the objective '{objective}' compares the images of a batch, which must have at least "
            f"2, got {len(images)}: raise train.batch_size"
        )
