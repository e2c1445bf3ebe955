"""The diagonal of the Fisher information of a model."""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from vision.data.augment import normalize
from vision.data.loading.loader import Batch, Loader
from vision.support.ahead import AHEAD
from vision.support.progress import Progress

LABELS = ("sampled", "expected", "true")
BATCH = 32  # images that are loaded at a time
GRADIENTS = 2**30  # bytes of their gradients that are held at a time


def measure_fisher(
    model: nnx.Module,
    loader: Loader,
    c: ConfigDict,
    labels: str,
    own: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Returns the mean of the squared gradients of log p(label | image), one image at a time.

    Kirkpatrick et al. 2017 (arXiv:1612.00796), section 2.1.

    Args:
        model: the model, in evaluation mode.
        loader: the images; those of other classes than `own` are left out.
        c: config.data, which says how they are normalized.
        labels: of `LABELS`: drawn from the model's probabilities; all, weighted by them; or true.
        own: int, the classes that a label is distinguished from; None = all.
        seed: of the labels that are sampled.

    Returns:
        {name of a parameter: float32 array of its shape}.
    """
    classes = np.arange(len(loader.dataset.source.classes)) if own is None else own
    places = np.full(len(loader.dataset.source.classes), -1)
    places[classes] = np.arange(len(classes))
    split: Any = nnx.split(model, nnx.Param, ...)
    graph, *variables = split
    fixed = (*variables, jnp.array(classes))
    add = adder(graph, c, labels)
    total: Any = jax.tree.map(jnp.zeros_like, variables[0])
    size = images_at_a_time(total, labels)
    count = 0.0
    pending: collections.deque[jax.Array] = collections.deque()
    with Progress("measuring the importance", len(loader), "images") as work:
        for columns in work.over(_batches(loader, places, seed), BATCH):
            for start in range(0, BATCH, size):
                total = add(fixed, total, *(column[start : start + size] for column in columns))
            count += columns[2].sum()
            pending.append(jax.tree.leaves(total)[0])  # of a batch's results all come at once
            if len(pending) > AHEAD:  # else the progress runs ahead of the work
                jax.block_until_ready(pending.popleft())
        jax.block_until_ready(total)
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(total))
    return {
        ".".join(map(str, path)): np.asarray(value, np.float32) / max(count, 1.0)
        for path, value in flat.items()
    }


def images_at_a_time(parameters: Any, labels: str) -> int:
    """Returns how many images have their gradients at a time, a divisor of `BATCH`.

    Args:
        parameters: a tree of arrays.
        labels: of `LABELS`; for "expected", each image has a sum beside its gradient.
    """
    each = sum(array.nbytes for array in jax.tree.leaves(parameters))
    each *= 2 if labels == "expected" else 1
    size = BATCH
    while size > 1 and size * each > GRADIENTS:
        size //= 2
    return size


def adder(graph: Any, c: ConfigDict, labels: str) -> Callable[..., Any]:
    """Returns the program that adds some images' squared gradients to a sum.

    All arrays are arguments, so that models of the same graph and shapes have the same program.

    Args:
        graph: of `nnx.split(model, nnx.Param, ...)`.
        c: config.data.
        labels: of `LABELS`.

    Returns:
        ((parameters, other variables, classes (K,)), total, images uint8 (B, H, W, C), places of
        their labels in classes (B,), weights float32 (B,), random keys (B,)) -> total.
    """

    def log_p(parameters: Any, rest: Any, classes: jax.Array, image: jax.Array) -> jax.Array:
        merged: Any = nnx.merge(graph, parameters, rest, copy=True)
        inputs = normalize(image[None], c.normalize, c.mean, c.std, jnp.float32)
        return jax.nn.log_softmax(merged(inputs)[0][classes])

    def of_image(fixed: Any, image: jax.Array, place: jax.Array, key: jax.Array) -> Any:
        parameters, rest, classes = fixed
        scores, pull = jax.vjp(lambda p: log_p(p, rest, classes, image), parameters)

        def squared(place: jax.Array) -> Any:
            (gradient,) = pull(jax.nn.one_hot(place, len(scores), dtype=scores.dtype))
            return jax.tree.map(jnp.square, gradient)

        def add_class(total: Any, place: jax.Array) -> Any:
            weight = jnp.exp(scores[place])
            return jax.tree.map(lambda t, x: t + weight * x, total, squared(place)), None

        if labels == "true":
            return squared(place)
        if labels == "sampled":
            return squared(jax.random.categorical(key, scores))
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return jax.lax.scan(add_class, zeros, jnp.arange(len(scores)))[0]

    @jax.jit
    def add(fixed: Any, total: Any, images: Any, places: Any, weights: Any, keys: Any) -> Any:
        each = jax.vmap(of_image, (None, 0, 0, 0))(fixed, images, places, keys)
        return jax.tree.map(lambda t, x: t + jnp.tensordot(weights, x, 1), total, each)

    return add


def _batches(loader: Loader, places: np.ndarray, seed: int) -> Iterator[tuple[Any, ...]]:
    """Yields (images uint8 (B, H, W, C), places (B,), weights float32 (B,), keys (B,)).

    Args:
        loader: the images.
        places: int (C,), of each class among those that a label is distinguished from, or -1.
        seed: of the keys.
    """
    for step, batch in enumerate(loader.eval_batches(BATCH)):
        images, labels = _images_and_labels(batch, loader.data)
        weights = np.asarray(batch["mask"]) & (places[labels] >= 0)
        key = jax.random.fold_in(jax.random.key(seed), step)
        yield images, places[labels], weights.astype(np.float32), jax.random.split(key, BATCH)


def _images_and_labels(batch: Batch, data: Batch) -> tuple[np.ndarray, np.ndarray]:
    if "image" in batch:
        return np.asarray(batch["image"]), np.asarray(batch["label"])
    rows = np.asarray(batch["index"])
    return np.asarray(data["image"][rows]), np.asarray(data["label"][rows])
