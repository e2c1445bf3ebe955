"""The two parts of a transformer block: self-attention and an MLP."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from vision.models.layers.activations import gelu
from vision.models.layers.attention import attention
from vision.models.layers.blocks import Dropout
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear


class Attention(nnx.Module):
    """Multi-head self-attention on tokens (B, N, width).

    `qkv` holds queries, keys and values in this order, by head.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        implementation: str = "auto",
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        # On the fused (width, 3 width) kernel, this is Xavier's uniform on each of the three
        # (width, width) parts.
        qkv_init = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        self.qkv = Linear(width, 3 * width, kernel_init=qkv_init, dtype=dtype, rngs=rngs)
        self.out = Linear(
            width, width, kernel_init=nnx.initializers.xavier_uniform(), dtype=dtype, rngs=rngs
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.depth = width // heads
        self.implementation = implementation

    @property
    def heads(self) -> int:
        """The number of heads: pruning leaves fewer, of the same depth."""
        return self.qkv.out_features // (3 * self.depth)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Attends to all tokens, or to those of a mask, bool (B, N, N) of queries and keys."""
        query, key, value = self._split(x)
        x = attention(query, key, value, self.implementation, mask)
        return self.dropout(self.out(x.reshape(*x.shape[:2], -1)))

    def probabilities(self, x: jax.Array) -> jax.Array:
        """Returns how much each token attends to each other one: (B, heads, N, N), rows sum to 1.

        The dtype is at least float32.
        """
        query, key, _ = self._split(x)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(at_least_float32(x.dtype))
        return nnx.softmax(scores * query.shape[-1] ** -0.5)

    def _split(self, x):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, -1, self.depth)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


class Mlp(nnx.Module):
    """Two dense layers with GELU in between, on x (..., width); by default initialized as ViT's."""

    def __init__(
        self,
        width: int,
        hidden: int,
        dropout: float,
        *,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        dense = functools.partial(
            Linear,
            kernel_init=kernel_init or nnx.initializers.xavier_uniform(),
            bias_init=bias_init or nnx.initializers.normal(1e-6),
            dtype=dtype,
            rngs=rngs,
        )
        self.hidden = dense(width, hidden)
        self.out = dense(hidden, width)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout(gelu(self.hidden(x)))
        return self.dropout(self.out(x))
