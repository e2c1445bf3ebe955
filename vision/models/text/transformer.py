"""The text tower of CLIP, Radford et al. 2021 (arXiv:2103.00020), section 2.4.

A transformer with pre-norm blocks and causal attention; the embedding is the last state at the end
of the text. With `-mean` in the variant, tokens attend in both directions and the embedding is the
mean of the last states, as in SigLIP's predecessors. GELU is exact, where CLIP's approximates it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.data.tokenizer import TextShape
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import LayerNorm
from vision.models.text import is_token, mean_pool
from vision.models.vit import Block

SIZES = {  # width, blocks, heads; B is that of CLIP ViT-B
    "mu": (32, 1, 2),
    "XS": (128, 2, 2),
    "Ti": (192, 4, 3),
    "S": (384, 6, 6),
    "B": (512, 12, 8),
}
VARIANTS = {f"{name}{end}": size for name, size in SIZES.items() for end in ("", "-mean")}


class TextTransformer(nnx.Module):
    """A transformer on tokens.

    Args:
        width: of a token's state, D.
        depth: number of blocks.
        heads: heads of each attention.
        shape: of the texts.
        causal: whether a token attends only to those before it, and the last one is the embedding.
        dtype: of the computation; parameters and norms are float32.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        shape: TextShape,
        *,
        causal: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.width = width
        self.causal = causal
        self.dtype = dtype
        # The deviations of CLIP's code.
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (shape.vocabulary, width)))
        init = nnx.initializers.normal(0.01)
        self.positions = nnx.Param(init(rngs.params(), (1, shape.context, width)))
        self.blocks = nnx.List(
            [Block(width, heads, 0.0, 0.0, "auto", dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.norm = LayerNorm(width, rngs=rngs)

    def tokens(self, ids: jax.Array) -> jax.Array:
        """Returns the last states (B, L, D), at least float32, of token ids (B, L)."""
        x = self.embedding[...].astype(self.dtype)[ids] + self.positions[...].astype(self.dtype)
        mask = is_token(ids)[:, None, :]
        length = ids.shape[1]
        if self.causal:
            mask = mask & jnp.tril(jnp.ones((length, length), bool))
        mask = jnp.broadcast_to(mask, (ids.shape[0], length, length))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x.astype(at_least_float32(self.dtype)))

    def pool(self, states: jax.Array, ids: jax.Array) -> jax.Array:
        """Returns the embeddings (B, D) of last states (B, L, D)."""
        if not self.causal:
            return mean_pool(states, ids)
        last = jnp.maximum(is_token(ids).sum(1) - 1, 0)
        return jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the embeddings (B, D), at least float32, of token ids (B, L)."""
        return self.pool(self.tokens(ids), ids)


def build(variant: str, shape: TextShape, **options: Any) -> TextTransformer:
    """Builds the tower of a variant, such as "S" or "S-mean"."""
    causal = not variant.endswith("-mean")
    return TextTransformer(*VARIANTS[variant], shape, causal=causal, **options)
