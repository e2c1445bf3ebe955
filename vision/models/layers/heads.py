"""Classification heads besides `nnx.Linear`."""

import jax
import jax.numpy as jnp
from flax import nnx


class CosineHead(nnx.Module):
    """Logits from angles: scale x cos(embedding, class vector). Wang et al. 2018
    (arXiv:1801.09414).

    The norms of embeddings and class vectors, which follow the classes' frequencies, then say
    nothing.
    """

    def __init__(self, in_features, num_classes, scale, *, rngs):
        """Creates the layer.

        Args:
            in_features: D.
            num_classes: C.
            scale: of the cosines, above 0.
            rngs: nnx's streams; `params` is drawn from.
        """
        init = nnx.initializers.lecun_normal()
        self.in_features = in_features
        self.out_features = num_classes
        self.scale = scale
        self.kernel = nnx.Param(init(rngs.params(), (in_features, num_classes), jnp.float32))

    def __call__(self, x):
        """Returns float32 (B, C), in [-scale, scale], of embeddings (B, D)."""
        x = x.astype(jnp.promote_types(x.dtype, "float32"))
        kernel = self.kernel[...]
        return self.scale * (_unit(x, -1) @ _unit(kernel.astype(x.dtype), 0))


def _unit(x, axis):
    """Returns x divided by its norm along an axis; its gradient is finite at 0 too."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-12))
