"""Measures the importance of a model's channels: a number for each channel of a group.

They differ in what may be compared: Li et al. prune the same share of every layer, since magnitudes
of weights are not comparable across layers; the other two compare all channels of a network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import parallel
from vision.compression.groups import Group, find_groups
from vision.data.augment import normalize
from vision.data.pipeline import open_data
from vision.inference import Classifier
from vision.models import surgery
from vision.objectives.supervised import cross_entropy
from vision.support.progress import Progress

IMPORTANCES = ("l1", "bn", "taylor")
# of training images that Taylor importance is measured on
BATCH = 32
BATCHES = 16


def measure(classifier: Classifier, name: str) -> tuple[list[Group], list[np.ndarray]]:
    """Returns (groups, scores) of a classifier's model.

    Args:
        classifier: the classifier.
        name: one of `IMPORTANCES`.

    Raises:
        UserError: the training images, which taylor needs, cannot be opened.
    """
    groups = find_groups(classifier.model, classifier.image_size, classifier.channels)
    if name == "taylor":
        c = classifier.config.copy_and_resolve_references()
        c.data.image_size = classifier.image_size
        c.data.channels = classifier.channels
        loader = open_data(c, parallel.make_mesh(1), past=classifier.past).loaders["train"]
        return groups, taylor(groups, classifier, loader)
    return groups, {"l1": l1, "bn": bn}[name](groups, surgery.arrays(classifier.model))


def l1(groups: Sequence[Group], arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the rank of the filters' L1 norm within the group, in (0, 1].

    Li et al. 2016 (arXiv:1608.08710), section 3.1.

    Args:
        groups: the model's groups.
        arrays: {name: array} of the model's variables.
    """
    norms = [
        sum(_channel_sums(np.abs(arrays[n]), axis, g.parts[n, axis]) for n, axis in g.filters)
        for g in groups
    ]
    return [(norm.argsort(kind="stable").argsort() + 1) / len(norm) for norm in norms]


def bn(groups: Sequence[Group], arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the mean magnitude of the scales in batch norms; infinite if a channel has none.

    Liu et al. 2017 (arXiv:1708.06519), section 3.

    Args:
        groups, arrays: see `l1`.
    """

    def mean_scale(group):
        scales = [
            _channel_sums(np.abs(arrays[name]), 0, group.parts[name, 0]) for name in group.scales
        ]
        return np.mean(scales, 0) if scales else np.full(len(group), np.inf)

    return [mean_scale(group) for group in groups]


def taylor(groups: Sequence[Group], classifier: Classifier, loader: Any) -> list[np.ndarray]:
    """Returns the squared change of the loss when a channel is removed, to first order.

    Molchanov et al. 2019 (arXiv:1906.10771), equation 8, for the weights by which later layers read
    the channel: without them it is gone. The mean over batches of training images.

    Args:
        groups: see `l1`.
        classifier: the classifier.
        loader: the training split of `vision.data.pipeline.Data`.
    """
    graph, params, *rest = nnx.split(classifier.model, nnx.Param, ...)
    d = classifier.config.data
    dtype = jnp.promote_types(classifier.config.model.dtype, "float32")

    @jax.jit
    def changes(params, images, labels):
        def loss(params):
            model = nnx.merge(graph, params, *rest, copy=True)
            logits = model(normalize(images, d.normalize, d.mean, d.std, dtype))
            return cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()

        return jax.tree.map(jnp.multiply, jax.grad(loss)(params), params)

    scores = [np.zeros(len(group)) for group in groups]
    batches = loader.train_batches(((step, 1) for step in range(BATCHES)), BATCH)
    with Progress("gradients", BATCHES, "batches") as work:
        for batch in work.over(batches):
            source = {key: values[batch["index"]] for key, values in loader.data.items()} or batch
            arrays = {
                ".".join(map(str, path)): np.asarray(v.get_value(), np.float64)
                for path, v in nnx.to_flat_state(changes(params, source["image"], source["label"]))
            }
            for score, group in zip(scores, groups, strict=True):
                change = sum(
                    _channel_sums(arrays[name], axis, group.parts[name, axis])
                    for name, axis in group.readers
                )
                score += change**2
    return [score / BATCHES for score in scores]


def _channel_sums(array, axis, indices):
    """Returns the sum of an array over the part of each channel, float64 (N,).

    Args:
        array: the array.
        axis: the axis that the channels lie on.
        indices: (N, k), the indices along the axis that belong to each channel.
    """
    other_axes = tuple(i for i in range(array.ndim) if i != axis)
    return array.sum(other_axes, dtype=np.float64)[indices].sum(1)
