"""The diagonal of the Fisher information of a model."""

import collections
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
BATCH = 32  # images whose gradients are held at a time


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
    of_batch = _compiled(model, c, labels, jnp.array(classes))
    total: Any = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    count = 0.0
    pending: collections.deque[jax.Array] = collections.deque()
    with Progress("measuring the importance", len(loader), "images") as work:
        for step, batch in enumerate(work.over(loader.eval_batches(BATCH), BATCH)):
            images, numbers, mask = _rows(batch, loader.data)
            counted = mask & (places[numbers] >= 0)
            key = jax.random.fold_in(jax.random.key(seed), step)
            total = of_batch(total, images, places[numbers], counted.astype(np.float32), key)
            count += counted.sum()
            pending.append(jax.tree.leaves(total)[0])  # of a batch's results all come at once
            if len(pending) > AHEAD:  # else the progress runs ahead of the work
                jax.block_until_ready(pending.popleft())
        jax.block_until_ready(total)
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(total))
    return {
        ".".join(map(str, path)): np.asarray(value, np.float32) / max(count, 1.0)
        for path, value in flat.items()
    }


def _compiled(model: nnx.Module, c: ConfigDict, labels: str, classes: jax.Array) -> Any:
    """Returns what adds a batch: (total, images, labels, mask, key) -> total."""
    split: Any = nnx.split(model, nnx.Param, ...)
    graph, parameters, rest = split

    def log_p(parameters: Any, image: jax.Array) -> jax.Array:
        merged: Any = nnx.merge(graph, parameters, rest, copy=True)
        inputs = normalize(image[None], c.normalize, c.mean, c.std, jnp.float32)
        return jax.nn.log_softmax(merged(inputs)[0][classes])

    def squared(parameters: Any, image: jax.Array, label: jax.Array) -> Any:
        gradient = jax.grad(lambda p: log_p(p, image)[label])(parameters)
        return jax.tree.map(jnp.square, gradient)

    def of_image(parameters: Any, image: jax.Array, label: jax.Array, key: jax.Array) -> Any:
        if labels == "true":
            return squared(parameters, image, label)
        scores = log_p(parameters, image)
        if labels == "sampled":
            return squared(parameters, image, jax.random.categorical(key, scores))
        terms = [squared(parameters, image, jnp.array(k)) for k in range(len(classes))]
        weights = jnp.exp(scores)
        return jax.tree.map(lambda *g: sum(w * x for w, x in zip(weights, g, strict=True)), *terms)

    @jax.jit
    def of_batch(total: Any, images: Any, numbers: Any, mask: Any, key: Any) -> Any:
        keys = jax.random.split(key, len(images))
        each = jax.vmap(of_image, (None, 0, 0, 0))(parameters, images, numbers, keys)
        return jax.tree.map(lambda t, x: t + jnp.tensordot(mask, x, 1), total, each)

    return of_batch


def _rows(batch: Batch, data: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (images uint8 (B, H, W, C), labels int (B,), mask bool (B,)) of a batch."""
    mask = np.asarray(batch["mask"])
    if "image" in batch:
        return np.asarray(batch["image"]), np.asarray(batch["label"]), mask
    rows = np.asarray(batch["index"])
    return np.asarray(data["image"][rows]), np.asarray(data["label"][rows]), mask
