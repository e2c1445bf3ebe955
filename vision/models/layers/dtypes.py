"""The dtype of values that need more precision than the computation has."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of statistics, embeddings and logits: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)
