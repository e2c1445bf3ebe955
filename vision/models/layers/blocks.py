"""Stacks of blocks: rematerialization, dropout and stochastic depth."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import nnx

REMATS = ("none", "dots", "blocks")


def apply_blocks(
    blocks: Iterable[Callable[[jax.Array], jax.Array]], x: jax.Array, remat: str = "none"
) -> jax.Array:
    """Applies blocks in turn; the backward pass may recompute them to save memory.

    Chen et al. 2016 (arXiv:1604.06174).

    Args:
        blocks: modules that map x to the next x.
        x: input of the first block.
        remat: "none": keep everything that the backward pass needs. "dots": keep the results of
            matrix products and convolutions, recompute the rest. "blocks": keep only each block's
            input.

    Returns:
        The output of the last block.
    """
    apply = _apply
    if remat != "none":
        apply = nnx.remat(_apply, policy=_is_product if remat == "dots" else None)
    for block in blocks:
        x = apply(block, x)
    return x


def _apply(block, x):
    return block(x)


def _is_product(primitive, *_, **__):
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)


class Dropout(nnx.Dropout):
    """Dropout without random state if its rate is 0, so that no step has to carry any."""

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        super().__init__(rate, rngs=rngs if rate else None)


class StochasticDepth(Dropout):
    """Drops entire samples of a residual branch: x (B, ...) times 0 or 1 / (1 - rate).

    Huang et al. 2016 (arXiv:1603.09382), scaled in training instead of in evaluation. Draws from
    the random stream `dropout`.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        if self.rate == 0.0 or self.deterministic:
            return x
        # A float32 factor: in bfloat16 the rounding of 1 / (1 - rate) would shift the expectation.
        factor = super().__call__(jnp.ones((x.shape[0],) + (1,) * (x.ndim - 1), jnp.float32))
        return (x * factor).astype(x.dtype)


def linear_rates(rate: float, depth: int) -> list[float]:
    """Returns the stochastic depth of each of `depth` blocks: it rises linearly to `rate`."""
    return [rate * (i + 1) / depth for i in range(depth)]
