"""Classification heads besides `nnx.Linear`."""

import jax
import jax.numpy as jnp
from flax import nnx


class CosineHead(nnx.Module):
    """Logits from angles: scale x cos(embedding, class vector).

    Wang et al. 2018 (arXiv:1801.09414). The norms of embeddings and class vectors, which follow the
    class frequencies, then have no influence.
    """

    def __init__(self, in_features: int, num_classes: int, scale: float, *, rngs: nnx.Rngs):
        """Creates the layer.

        Args:
            in_features: embedding width D.
            num_classes: number of classes C.
            scale: factor of the cosines, above 0.
            rngs: random streams; `params` is used.
        """
        init = nnx.initializers.lecun_normal()
        self.in_features = in_features
        self.out_features = num_classes
        self.scale = scale
        self.kernel = nnx.Param(init(rngs.params(), (in_features, num_classes), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 logits (B, C), in [-scale, scale], of embeddings (B, D)."""
        x = x.astype(jnp.promote_types(x.dtype, "float32"))
        kernel = self.kernel[...]
        return self.scale * (_normalize(x, -1) @ _normalize(kernel.astype(x.dtype), 0))


def _normalize(x, axis):
    """Returns x divided by its L2 norm along an axis; the gradient is finite at 0 too."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-12))
