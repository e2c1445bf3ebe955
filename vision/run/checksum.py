"""A number that changes with any bit of a checkpoint's arrays."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksum(tree: Any) -> int:
    """Returns a number that changes with any bit of any array.

    Each device computes the share of the pieces that it holds.
    """
    # One array after the other: on CPUs, programs that all sum over the devices of a split array
    # wait for each other forever.
    sums = [jax.device_get(_sum_bits(leaf)) for leaf in jax.tree.leaves(tree)]
    return zlib.crc32(np.array(sums, np.uint32).tobytes())


@jax.jit
def _sum_bits(x: jax.Array) -> jax.Array:
    """Returns a weighted sum of an array's 32-bit words, uint32 ()."""
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    # 64-bit types become pairs of 32-bit words.
    unsigned = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")
    words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    place = jnp.uint32(0)
    stride = 1
    # Not computed on the flat array: flattening would gather a split one.
    for axis in reversed(range(words.ndim)):
        place += jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(
            jnp.uint32, words.shape, axis
        )
        stride *= words.shape[axis]
    weights = 2 * place + 1  # odd, so that no single change cancels; distinct, for the order
    return (words * weights).sum(dtype=jnp.uint32)
