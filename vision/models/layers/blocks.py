"""Stacks of blocks: rematerialization, dropout and stochastic depth."""

import jax
import jax.numpy as jnp
from flax import nnx

REMATS = ("none", "dots", "blocks")


def apply_blocks(blocks, x, remat="none"):
    """Returns x after one block after the other, each of which the backward pass may compute again
    to save memory.

    Chen et al. 2016 (arXiv:1604.06174).

    Args:
        blocks: modules that map x to the next x.
        x: array.
        remat: "none": keep what the backward pass needs. "dots": keep the results of matrix
            products and convolutions, compute the rest again. "blocks": keep what enters each block
            only.
    """
    step = _apply
    if remat != "none":
        step = nnx.remat(_apply, policy=_is_product if remat == "dots" else None)
    for block in blocks:
        x = step(block, x)
    return x


def _apply(block, x):
    return block(x)


def _is_product(primitive, *_, **__):
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)


class Dropout(nnx.Dropout):
    """Dropout that holds no random state where its rate is 0, so that there is nothing to carry
    from step to step."""

    def __init__(self, rate, *, rngs):
        super().__init__(rate, rngs=rngs if rate else None)


class StochasticDepth(Dropout):
    """Drops whole samples of a residual branch: x (B, ...) times 0, or else times 1 / (1 - rate).

    Huang et al. 2016 (arXiv:1603.09382), scaled in training instead of in evaluation. Draws from
    nnx's `dropout`.
    """

    def __call__(self, x):
        if self.rate == 0.0 or self.deterministic:
            return x
        # A float32 factor: in bfloat16 the rounding of 1 / (1 - rate) would shift the expectation.
        factor = super().__call__(jnp.ones((x.shape[0],) + (1,) * (x.ndim - 1), jnp.float32))
        return (x * factor).astype(x.dtype)


def linear_rates(rate, depth):
    """Returns the stochastic depth of each of `depth` blocks, rising linearly to `rate` at the last
    one."""
    return [rate * (i + 1) / depth for i in range(depth)]
