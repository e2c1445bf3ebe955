"""The dense layer of the transformers."""

import jax
from flax import nnx


class Linear(nnx.Linear):
    """Dense layer on the last axis of x (..., D), as one flat matrix product.

    XLA's CPU backend trains a ViT some 10 % faster this way than with a product over several
    leading axes.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
