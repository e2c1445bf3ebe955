"""Activations that JAX computes slowly."""

import jax

from vision.models.layers.dtypes import at_least_float32


def gelu(x):
    """Exact GELU. Hendrycks and Gimpel 2016 (arXiv:1606.08415).

    By erf, not by `jax.nn.gelu`'s erfc, which takes twice as long on a CPU; float32 inside, as 1 +
    erf cancels.
    """
    wide = x.astype(at_least_float32(x.dtype))
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)
