"""Where a model looks: heat maps of images, how they are shown, and how faithful they are.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) for models that end in a map of positions,
attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928) for a ViT. A heat map is faithful if
the class's probability falls as the hot pixels are removed: the deletion metric of Petsiuk et al.
2018 (RISE, arXiv:1806.07421), section 4.1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.data.augment import normalize
from vision.inference import Classifier, Predictor
from vision.models import vit

GRAD_CAM = "Grad-CAM"
ROLLOUT = "attention rollout"
# Deleted pixels are replaced by the blurred image; its standard deviation is the side over this.
BLUR = 16

Heat = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Explainer:
    """Heat maps of images for one model.

    Args:
        classifier: the model.
        method: name of the method.
        heat: `heat(model, images, classes) -> (B, h, w)`, non-negative, of normalized images and
            classes int (B,).
        grid: (h, w); a map of few positions hardly shows where.
    """

    def __init__(self, classifier: Classifier, method: str, heat: Heat, grid: tuple[int, int]):
        self.method = method
        self.grid = grid
        d = classifier.config.data
        dtype = jnp.promote_types(classifier.config.model.dtype, "float32")
        graph, self._state = nnx.split(classifier.model)

        @jax.jit
        def run(state, images, classes):
            model = nnx.merge(graph, state)
            maps = heat(model, normalize(images, d.normalize, d.mean, d.std, dtype), classes)
            maps = jax.image.resize(maps.astype(jnp.float32), images.shape[:3], "bilinear")
            highest = maps.max((1, 2), keepdims=True)
            # rounding may give more than 1
            return jnp.minimum(maps / jnp.where(highest > 0, highest, 1), 1)

        self._run = run

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Returns heat maps, float32 (B, H, W) in [0, 1]; compiled once for each shape.

        The hottest pixel of each map is 1; a map without any heat is 0.

        Args:
            images: uint8 (B, H, W, channels), as `Classifier.prepare` makes them.
            classes: int (B,), the class whose evidence is shown; attention rollout has the same map
                for all.
        """
        return jax.device_get(self._run(self._state, images, jnp.asarray(classes, jnp.int32)))


def explainer(classifier: Classifier) -> Explainer | None:
    """Returns the `Explainer` of a model; None if neither method fits it.

    Grad-CAM needs the contract's `features` and `pool`, and a last map (B, h, w, K) of more than
    one position: VGG and other networks that reduce small images to a single pixel have none.
    """
    model = classifier.model
    if isinstance(model, vit.ViT):
        if not all(isinstance(block, vit.Block) for block in model.blocks):
            return None
        return Explainer(classifier, ROLLOUT, attention_heat, (model.grid, model.grid))
    positions = _positions(classifier)
    return Explainer(classifier, GRAD_CAM, grad_cam, positions) if positions else None


def _positions(classifier):
    """Returns the (height, width) of the last map; None if the model does not keep the contract."""
    if not all(hasattr(classifier.model, name) for name in ("features", "pool", "head")):
        return None
    side = classifier.image_size
    channels = classifier.channels
    graph, state = nnx.split(classifier.model)

    def run(state, images):
        model = nnx.merge(graph, state)
        *_, last = model.features(images).values()
        return last, model.head(model.pool(last))

    images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    try:
        last, logits = jax.eval_shape(run, state, images)
    except Exception:  # a research module may mean anything by these names
        return None
    has_positions = last.ndim == 4 and last.shape[1] * last.shape[2] > 1
    fits = has_positions and logits.shape == (2, len(classifier.classes))
    return last.shape[1:3] if fits else None


def grad_cam(model: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns Grad-CAM's maps, float32 (B, h, w), non-negative.

    Selvaraju et al. 2017 (arXiv:1610.02391), eqs. 1, 2.

    Args:
        model: keeps the contract of `vision.models`; its last map is (B, h, w, K).
        images: float (B, H, W, C), normalized.
        classes: int (B,), whose logits are explained.
    """
    *_, last = model.features(images).values()

    def total(x):
        logits = model.head(model.pool(x))
        return jnp.take_along_axis(logits, classes[:, None], 1).sum()

    gradient = jax.grad(total)(last).astype(jnp.float32)
    weights = gradient.mean((1, 2))
    return jax.nn.relu(jnp.einsum("bhwk,bk->bhw", last.astype(jnp.float32), weights))


def attention_heat(
    model: vit.ViT, images: jax.Array, classes: jax.Array | None = None
) -> jax.Array:
    """Returns what a ViT's embedding draws from each patch, less the least: (B, grid, grid).

    By `rollout`: the row of the class token; with `pool="mean"` the mean of the patches' rows.

    Args:
        model: the ViT.
        images: float (B, H, W, C), normalized.
        classes: unused, since attention does not depend on the class.

    Returns:
        float32.
    """
    del classes
    x = model.tokens(images)
    probabilities = []
    for block in model.blocks:
        probabilities.append(block.attention.probabilities(block.norm1(x)))
        x = block(x)
    shares = rollout(probabilities)
    row = shares.mean(1) if model.class_token is None else shares[:, 0]
    patches = row[:, -(model.grid**2) :].reshape(-1, model.grid, model.grid)
    return patches - patches.min((1, 2), keepdims=True)  # each draws a little from everywhere


def rollout(probabilities: Sequence[jax.Array]) -> jax.Array:
    """Returns how much each of the last tokens draws from each of the first, (B, N, N).

    Its rows sum to 1. Abnar and Zuidema 2020 (arXiv:2005.00928), eq. 1: the residual branch counts
    as much as the mean of the heads.

    Args:
        probabilities: attention of each block, from the first, (B, heads, N, N), whose rows sum to
            1.
    """
    identity = jnp.eye(probabilities[0].shape[-1])
    steps = [(p.mean(1) + identity) / 2 for p in probabilities]
    return functools.reduce(lambda product, step: step @ product, steps)


def deletion_curves(
    classifier: Predictor,
    images: np.ndarray,
    heat: np.ndarray,
    classes: np.ndarray,
    steps: int = 10,
) -> np.ndarray:
    """Returns each class's probability as the hottest pixels are deleted first.

    Entry k is measured with the share k / steps of the pixels replaced by those of the blurred
    image. If it falls faster than with random numbers for `heat`, the map shows what the model
    looks at. Petsiuk et al. 2018 (arXiv:1806.07421), section 4.1.

    Args:
        classifier: the model.
        images: uint8 (B, H, W, channels), as `Classifier.prepare` makes them.
        heat: float (B, H, W). Among equally hot pixels, upper ones are deleted first.
        classes: int (B,).
        steps: number of shares, besides none.

    Returns:
        float64 (B, steps + 1).
    """
    sigma = images.shape[1] / BLUR
    count = len(images)
    pixels = images[0, ..., 0].size
    blurred = np.stack(
        [cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape) for image in images]
    )
    order = np.argsort(-np.asarray(heat).reshape(count, -1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1).reshape(*images.shape[:3], 1)
    curves = []
    for step in range(steps + 1):
        left = np.where(rank * steps < step * pixels, blurred, images)
        probabilities, _ = classifier.probabilities_and_embeddings(left)
        curves.append(probabilities[np.arange(count), classes])
    return np.stack(curves, axis=1)


def area_under(curves: np.ndarray) -> np.ndarray:
    """Returns the area under curves (..., steps + 1) over [0, 1] by the trapezoid rule: (...)."""
    return np.trapezoid(curves, dx=1 / (np.shape(curves)[-1] - 1), axis=-1)
