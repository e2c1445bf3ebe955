"""Where in an image its most probable class is seen, as a third output of a served model.

Class activation maps, Zhou et al. 2016 (arXiv:1512.04150), equation 2: where a model's logits are a
linear function of the mean of its last map over the image, each position's share of a logit is the
same function of that position.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError


def check_linear(model, image_size, channels):
    """Raises `UserError` unless a model's logits are a linear function of the mean over positions
    of its last map.

    Args:
        model: an `nnx.Module`, as `vision.models` has them.
        image_size, channels: of its images.
    """
    if not _is_linear(model, image_size, channels):
        raise UserError(
            f"--heatmap is for models whose classes follow linearly from the mean of a map, such as resnet, "
            f"efficientnet and inception; {type(model).__name__} is none: leave it out"
        )


def _is_linear(model, image_size, channels):
    if not all(hasattr(model, name) for name in ("features", "pool")) or not isinstance(
        model.head, nnx.Linear
    ):
        return False
    graph, state = nnx.split(model)
    shape = jax.ShapeDtypeStruct((2, image_size, image_size, channels), jnp.float32)
    last = jax.eval_shape(
        lambda s, x: list(nnx.merge(graph, s).features(x).values())[-1], state, shape
    )
    if last.ndim != 4 or last.shape[1] * last.shape[2] == 1:
        return False
    some = np.random.default_rng(0).normal(size=last.shape).astype(np.float32)
    found = np.asarray(model.pool(jnp.asarray(some)))
    expected = some.mean((1, 2))
    return found.shape == expected.shape and np.allclose(found, expected, atol=1e-4)


def class_activation(model, last, probabilities):
    """Returns the maps of each image's most probable class, float32 (B, h, w) in [0, 1], the
    hottest place of each 1.

    What speaks against the class is left out; a map without anything that speaks for it is 0.

    Args:
        model: one that `check_linear` takes.
        last: its last map, (B, h, w, K).
        probabilities: float32 (B, C).
    """
    best = jnp.argmax(probabilities, axis=1)
    weights = model.head.kernel[...].T.at[best].get(mode="promise_in_bounds")
    found = jax.nn.relu(jnp.einsum("bhwk,bk->bhw", last.astype(jnp.float32), weights))
    return found / jnp.maximum(found.max((1, 2), keepdims=True), jnp.finfo(jnp.float32).tiny)
