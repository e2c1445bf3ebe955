"""How much a model's channels matter: of each `vision.compression.groups.Group` an array, one
number a channel.

What numbers of different layers may be compared with: Li et al. prune the same share of every
layer, as sizes of weights say little across layers; the other two compare all channels of a
network.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import parallel
from vision.compression.groups import find_groups
from vision.data.augment import normalize
from vision.data.pipeline import open_data
from vision.models import surgery
from vision.objectives.supervised import cross_entropy

IMPORTANCES = ("l1", "bn", "taylor")
# training images that Taylor importance is measured on
BATCH = 32
BATCHES = 16


def measure(classifier, name):
    """Returns (groups, scores) of a `vision.inference.Classifier`'s model, by one of `IMPORTANCES`.

    Raises:
        UserError: the training images, which taylor needs, cannot be opened.
    """
    groups = find_groups(classifier.model, classifier.image_size, classifier.channels)
    if name == "taylor":
        c = classifier.config.copy_and_resolve_references()
        c.data.image_size = classifier.image_size
        c.data.channels = classifier.channels
        return groups, taylor(
            groups, classifier, open_data(c, parallel.make_mesh(1)).loaders["train"]
        )
    return groups, {"l1": l1, "bn": bn}[name](groups, surgery.arrays(classifier.model))


def l1(groups, arrays):
    """Rank of the filters' L1 norm within the group, in (0, 1]. Li et al. 2016 (arXiv:1608.08710),
    section 3.1.

    Args:
        groups: from `vision.compression.groups.find_groups`.
        arrays: {name: array} of the model's variables.
    """
    norms = [
        sum(_gathered(np.abs(arrays[name]), axis, g.parts[name, axis]) for name, axis in g.filters)
        for g in groups
    ]
    return [(norm.argsort(kind="stable").argsort() + 1) / len(norm) for norm in norms]


def bn(groups, arrays):
    """Mean size of the scales in batch norms. Liu et al. 2017 (arXiv:1708.06519), section 3.

    Infinite where a channel passes no batch norm. Arguments: see `l1`.
    """

    def one(group):
        found = [_gathered(np.abs(arrays[name]), 0, group.parts[name, 0]) for name in group.scales]
        return np.mean(found, 0) if found else np.full(len(group), np.inf)

    return [one(group) for group in groups]


def taylor(groups, classifier, loader):
    """What removing a channel changes the loss by, squared, to first order. Molchanov et al. 2019
    (arXiv:1906.10771).

    Equation 8 there, of the weights by which later layers take the channel in: without them it is
    gone. The mean over batches of training images.

    Args:
        groups: see `l1`.
        classifier: a `vision.inference.Classifier`.
        loader: the training split of `vision.data.pipeline.Data`.
    """
    graph, params, rest = nnx.split(classifier.model, nnx.Param, ...)
    d = classifier.config.data
    dtype = jnp.promote_types(classifier.config.model.dtype, "float32")

    @jax.jit
    def changes(params, images, labels):
        def loss(params):
            logits = nnx.merge(graph, params, rest, copy=True)(
                normalize(images, d.normalize, d.mean, d.std, dtype)
            )
            return cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()

        return jax.tree.map(jnp.multiply, jax.grad(loss)(params), params)

    scores = [np.zeros(len(group)) for group in groups]
    for batch in loader.train_batches(((step, 1) for step in range(BATCHES)), BATCH):
        source = {key: values[batch["index"]] for key, values in loader.data.items()} or batch
        found = nnx.to_flat_state(changes(params, source["image"], source["label"]))
        arrays = {
            ".".join(map(str, path)): np.asarray(v.get_value(), np.float64) for path, v in found
        }
        for score, group in zip(scores, groups, strict=True):
            score += (
                sum(
                    _gathered(arrays[name], axis, group.parts[name, axis])
                    for name, axis in group.readers
                )
                ** 2
            )
    return [score / BATCHES for score in scores]


def _gathered(array, axis, indices):
    """Returns the sums of an array over what belongs to each channel along one axis: float64
    (N,)."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    return array.sum(others, dtype=np.float64)[indices].sum(1)
