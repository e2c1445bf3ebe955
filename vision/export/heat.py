"""Heat maps of where in an image its most probable class is seen, as a third output of a model.

Class activation maps, Zhou et al. 2016 (arXiv:1512.04150), equation 2: if a model's logits are a
linear function of the mean of its last feature map over the image, each position's share of a logit
is the same function of that position.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError
from vision.models.layers.heads import GroupedHead


def check_linear(model: Any, image_size: int, channels: int) -> None:
    """Checks that a model's logits are a linear function of the mean of its last feature map.

    Args:
        model: an `nnx.Module` of `vision.models`.
        image_size, channels: size and channels of its images.

    Raises:
        UserError: they are not.
    """
    if isinstance(model.head, GroupedHead):
        raise UserError(
            "--heatmap needs logits that are linear in the mean of a feature map, which those of "
            "merged classes (model.head_groups) are not: leave it out"
        )
    if not _is_linear(model, image_size, channels):
        raise UserError(
            "--heatmap needs a model whose logits are linear in the mean of a feature map, such as "
            f"resnet, efficientnet and inception; {type(model).__name__} is not: leave it out"
        )


def _is_linear(model, image_size, channels):
    if not hasattr(model, "features") or not hasattr(model, "pool"):
        return False
    if not isinstance(model.head, nnx.Linear):
        return False
    graph, state = nnx.split(model)
    shape = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    last = jax.eval_shape(
        lambda s, x: list(nnx.merge(graph, s).features(x).values())[-1], state, shape
    )
    if last.ndim != 4 or last.shape[1] * last.shape[2] == 1:
        return False
    features = np.random.default_rng(0).normal(size=last.shape).astype(np.float32)
    pooled = np.asarray(model.pool(jnp.asarray(features)))
    expected = features.mean((1, 2))
    return pooled.shape == expected.shape and np.allclose(pooled, expected, atol=1e-4)


def class_activation(model: Any, last: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Returns the heat map of each image's most probable class, float32 (B, h, w) in [0, 1].

    The maximum of each map is 1. Negative evidence is left out; a map without any positive evidence
    is 0.

    Args:
        model: an `nnx.Module` that passes `check_linear`.
        last: its last feature map, (B, h, w, K).
        probabilities: float32 (B, C).
    """
    best = jnp.argmax(probabilities, axis=1)
    weights = model.head.kernel[...].T.at[best].get(mode="promise_in_bounds")
    heat = jax.nn.relu(jnp.einsum("bhwk,bk->bhw", last.astype(jnp.float32), weights))
    return heat / jnp.maximum(heat.max((1, 2), keepdims=True), jnp.finfo(jnp.float32).tiny)
