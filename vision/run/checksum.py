"""Numbers that change with any bit of a checkpoint: of its arrays, and of the JSON beside them."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SEAL = "checksum"  # the key of a dict's own
BLOCK = 2**16  # words that are summed at a time: they stay in the processor's cache


def checksum(tree: Any) -> int:
    """Returns a number that changes with any bit of any array.

    Each device computes the share of the pieces that it holds; what a CPU holds as a whole, NumPy
    sums without a program to compile. A named tuple has the checksum of the dict as which Orbax
    reads it, whatever the order of its fields.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return _joined_sums([leaf for _, leaf in sorted(leaves, key=_place)])


def checksum_in_order(tree: Any) -> int:
    """Returns the checksum as older checkpoints have it: of the arrays in the tree's own order."""
    return _joined_sums(jax.tree.leaves(tree))


def _place(leaf: tuple[Any, Any]) -> list[tuple[int, str]]:
    """Returns where a leaf is in a tree of dicts and lists: the order that JAX gives it there."""
    keys = leaf[0]
    return [
        (key.idx, "") if hasattr(key, "idx") else (0, str(getattr(key, "name", None) or key.key))
        for key in keys
    ]


def _joined_sums(leaves: list[Any]) -> int:
    # One array after the other: on CPUs, programs that all sum over the devices of a split array
    # wait for each other forever.
    sums = [
        _sum_on_host(leaf) if _is_on_host(leaf) else jax.device_get(_sum_bits(leaf))
        for leaf in leaves
    ]
    return zlib.crc32(np.array(sums, np.uint32).tobytes())


def joined(number: int, values: Mapping[str, Any]) -> int:
    """Returns a checksum that changes with another one and with any value of a JSON dict."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode(), number)


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON dict with its own checksum, as `unsealed` takes it."""
    return dict(values) | {SEAL: _sum_json(values)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what was given to `sealed`, or None if it has changed.

    Values without a checksum are those of older versions, and returned as they are.
    """
    plain = {key: value for key, value in values.items() if key != SEAL}
    if SEAL in values and values[SEAL] != _sum_json(plain):
        return None
    return plain


def _sum_json(values):
    return joined(0, values)


def _is_on_host(leaf: Any) -> bool:
    """Whether a leaf is an array that one CPU of this process holds as a whole."""
    if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) > 1:
        return False
    device: Any = next(iter(leaf.sharding.device_set))
    return device.platform == "cpu" and leaf.is_fully_addressable


def _sum_on_host(x: jax.Array) -> int:
    """Returns what `_sum_bits` does."""
    array = np.ascontiguousarray(x).reshape(-1)  # of the buffer itself: nothing is copied
    words = array.view(f"uint{8 * min(array.itemsize, 4)}")
    weights = 2 * np.arange(min(BLOCK, len(words)), dtype=np.uint32) + 1
    total = 0
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK].astype(np.uint32, copy=False)
        # The block's weights begin at 2 start + 1. Sums of uint32 wrap, as on a device.
        total += int(block @ weights[: len(block)])
        total += 2 * start * int(block.sum(dtype=np.uint32))
    return total % 2**32


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
