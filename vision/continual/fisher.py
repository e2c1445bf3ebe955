"""The diagonal of the Fisher information of a model."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import parallel
from vision.data.augment import normalize
from vision.data.loading.loader import Batch, Loader
from vision.support.ahead import AHEAD
from vision.support.progress import Progress

LABELS = ("sampled", "expected", "true")
BLOCK = 32  # images at most whose gradients a device holds; keys are drawn for as many
GRADIENTS = 2**30  # bytes of gradients that a device holds at most, if not of a single image
RESIDENT = ("image", "label")  # of a loader's data


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
    split: Any = nnx.split(model, nnx.Param, nnx.RngState, ...)
    graph, parameters, streams, rest = split
    add = adder((graph, streams), c, labels, loader.mesh)
    fixed = jax.tree.map(np.asarray, (parameters, rest, classes, places))
    size = images_at_a_time(fixed[0], labels, loader.mesh.size)
    squares, count = _sum(add, fixed, loader, size, seed)
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(squares))
    return {
        ".".join(map(str, path)): np.asarray(value, np.float32) / max(count, 1.0)
        for path, value in flat.items()
    }


def _sum(
    add: Callable[..., Any], fixed: Any, loader: Loader, size: int, seed: int
) -> tuple[Any, float]:
    """Returns (the sum of the squared gradients of all images that count, their number).

    Args:
        add: from `adder`.
        fixed: its first argument.
        loader: the images.
        size: images at a time.
        seed: of the labels that are sampled.
    """
    zeros = (jax.tree.map(np.zeros_like, fixed[0]), np.float32(0))
    fixed, total = parallel.put_replicated((fixed, zeros), loader.mesh)
    pending: collections.deque[jax.Array] = collections.deque()
    with Progress("measuring the importance", len(loader), "images") as work:
        for number, batch in enumerate(work.over(loader.eval_batches(size), size)):
            total = add(fixed, total, batch, loader.data, _keys(seed, number * size, size))
            pending.append(total[1])  # of a batch's results all come at once
            if len(pending) > AHEAD:  # else the progress runs ahead of the work
                jax.block_until_ready(pending.popleft())
        squares, count = parallel.fetch(total)
    return squares, float(count)


def images_at_a_time(parameters: Any, labels: str, devices: int = 1) -> int:
    """Returns how many images have their gradients at a time, equally many on each device.

    Args:
        parameters: a tree of arrays.
        labels: of `LABELS`; for "expected", each image has a sum beside its gradient.
        devices: number of devices.
    """
    each = sum(array.nbytes for array in jax.tree.leaves(parameters))
    each *= 2 if labels == "expected" else 1
    size = max(BLOCK // devices, 1)
    while size > 1 and size * each > GRADIENTS:
        size //= 2
    return size * devices


def adder(unlearned: tuple[Any, Any], c: ConfigDict, labels: str, mesh: Mesh) -> Callable[..., Any]:
    """Returns the program that adds some images' squared gradients to a sum.

    All arrays are arguments, so that models of the same graph and shapes have the same program.

    Args:
        unlearned: the graph and the random streams of
            `nnx.split(model, nnx.Param, nnx.RngState, ...)`; the latter are not used.
        c: config.data.
        labels: of `LABELS`.
        mesh: that of the batches.

    Returns:
        ((parameters, other variables, classes int (K,), places int (C,) of all classes among
        these, or -1), (sum, count), batch, the loader's data, a random key for each image) ->
        (sum, count), with the images whose class is among those of `classes`.
    """
    graph, streams = unlearned

    def log_p(parameters: Any, rest: Any, classes: jax.Array, image: jax.Array) -> jax.Array:
        merged: Any = nnx.merge(graph, parameters, streams, rest, copy=True)
        inputs = normalize(image[None], c.normalize, c.mean, c.std, jnp.float32)
        return jax.nn.log_softmax(merged(inputs)[0][classes])

    def of_image(fixed: Any, image: jax.Array, place: jax.Array, key: jax.Array) -> Any:
        parameters, rest, classes, _ = fixed

        def scores_of(parameters: Any) -> jax.Array:
            return log_p(parameters, rest, classes, image)

        if labels == "sampled":
            place = jax.random.categorical(key, scores_of(parameters))
        if labels != "expected":
            gradient = jax.grad(lambda p: scores_of(p)[place])(parameters)
            return jax.tree.map(jnp.square, gradient)
        scores, pull = jax.vjp(scores_of, parameters)

        def add_class(total: Any, place: jax.Array) -> Any:
            (gradient,) = pull(jax.nn.one_hot(place, len(scores), dtype=scores.dtype))
            weight = jnp.exp(scores[place])
            return jax.tree.map(lambda t, g: t + weight * jnp.square(g), total, gradient), None

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return jax.lax.scan(add_class, zeros, jnp.arange(len(scores)))[0]

    @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
    def add(fixed: Any, total: Any, batch: Batch, data: Batch, keys: jax.Array) -> Any:
        rows = batch if "image" in batch else {k: data[k][batch["index"]] for k in RESIDENT}
        places = fixed[-1][rows["label"]]
        weights = (batch["mask"] & (places >= 0)).astype(jnp.float32)
        each = jax.vmap(of_image, (None, 0, 0, 0))(fixed, rows["image"], places, keys)
        squares, count = total
        squares = jax.tree.map(lambda t, x: t + jnp.tensordot(weights, x, 1), squares, each)
        return squares, count + weights.sum()

    return add


def _keys(seed: int, start: int, count: int) -> jax.Array:
    """Returns the keys of images, which do not depend on how many are taken at a time."""
    key = jax.random.key(seed)
    blocks = range(start // BLOCK, -(-(start + count) // BLOCK))
    keys = [jax.random.split(jax.random.fold_in(key, block), BLOCK) for block in blocks]
    first = start - BLOCK * blocks[0]
    return jnp.concatenate(keys)[first : first + count]
