"""The dtype of what needs more digits than the computation has."""

import jax.numpy as jnp


def at_least_float32(dtype):
    """Returns the dtype of statistics, embeddings and logits: float32, or float64 beside a float64
    computation."""
    return jnp.promote_types(dtype, jnp.float32)
