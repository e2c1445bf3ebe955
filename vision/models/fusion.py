"""An image together with a text, with columns of a table, or with both.

Each part is projected to one width; what an example lacks has a learned token in its place.

- "late": the parts, one after the other, through a dense layer.
- "gated": the gated multimodal unit, Arevalo et al. 2017 (arXiv:1702.01992), eq. of section 3.1 for
  several parts.
- "attention": each part's vector attends to the tokens of all parts, which are places of the
  image's last map, words and columns: cross-attention, Vaswani et al. 2017 (arXiv:1706.03762),
  section 3.2.3.

In training, parts and columns are left out at random (ModDrop, Neverova et al. 2015,
arXiv:1501.00102, section 3.3), so that the model can do without them and the tokens of missing
parts learn. Columns become tokens as in Gorishniy et al. 2021 (arXiv:2106.11959), section 3.3.

The input is {"image": float (B, H, W, C), normalized; "text": int32 (B, L); "numbers": float32
(B, K); "categories": int32 (B, M)}, all but the image only if `fields` names it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from vision.data.captions import FIELD as TEXT
from vision.data.columns import CATEGORIES, NUMBERS, columns_of
from vision.data.tokenizer import TextShape
from vision.errors import UserError, check_choice, check_range
from vision.models import build_network
from vision.models.layers.activations import gelu
from vision.models.layers.attention import attention
from vision.models.layers.blocks import Dropout
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear
from vision.models.layers.norms import LayerNorm
from vision.models.layers.options import check_rates
from vision.models.layers.parts import Fallback, ImagePart, Part, TablePart, TextPart
from vision.models.layers.transformer import Mlp
from vision.models.text import build_tower

VARIANTS = ("late", "gated", "attention")
LISTED = ()  # what one costs depends on the data
FIELDS = (TEXT, NUMBERS, CATEGORIES)  # of a source, that a model may take beside the image
IMAGE = "cnn:small"
HEAD_WIDTH = 32  # of the attention, about
NOTHING = (
    "model 'fusion' learns from more than images: set text.tokenizer=bpe for the source's texts "
    "(?text=COLUMN), or data.columns to names of its columns"
)


def fields(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields of a source that a model with these options takes beside the image."""
    return tuple(name for name in FIELDS if options.get(name))


def network(c: ConfigDict) -> tuple[str, ConfigDict]:
    """Returns (prefix of its variables, config.model) of the image's network.

    It is what `model.pretrained` names weights of, unless these are of a whole model of this kind.
    """
    c = c.copy_and_resolve_references()
    name, _, c.variant = c.options.get("image", IMAGE).partition(":")
    if not name:
        raise UserError("model.pretrained needs an image network, but model.options.image is empty")
    c.name = name
    c.options = ConfigDict()
    return "parts.0.network.", c


def build(variant: str, num_classes: int, **options: Any) -> "Fusion":
    """Builds a `Fusion`.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        options: those of `Fusion`.

    Raises:
        UserError: there is no such variant or network, or an option's value is invalid.
    """
    check_choice("model.variant", variant, VARIANTS)
    return Fusion(variant, num_classes, **options)


class Fusion(nnx.Module):
    """Inputs as above -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if anything is left out at random.
        dtype: compute dtype, float32 or bfloat16. Parameters are float32.
        image_size: side of the images, pixels.
        channels: image channels.
        image: the image's network, NAME:VARIANT; "" does without the image.
        tower: the text's network, NAME:VARIANT of `vision.models.text`.
        width: length of the embedding, D, and of each part's vector.
        part_dropout: probability that a part, or a column, is left out in training; an example
            never loses all of its parts.
        dropout: probability, on the embedding.
        text: (vocabulary, context) of the texts, which the data say; () without.
        numbers: (name, mean, standard deviation) of each column of numbers, which the data say.
        categories: (name, values) of each column of names, which the data say.

    Raises:
        UserError: an option's value is invalid, or there is nothing beside the image.
    """

    def __init__(
        self,
        variant: str,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        image_size: int = 32,
        channels: int = 3,
        image: str = IMAGE,
        tower: str = "transformer:XS-mean",
        width: int = 128,
        part_dropout: float = 0.1,
        dropout: float = 0.0,
        text: Sequence[int] = (),
        numbers: Sequence[Sequence[Any]] = (),
        categories: Sequence[Sequence[Any]] = (),
    ):
        _check(width, part_dropout, dropout)
        if not (text or numbers or categories):
            raise UserError(NOTHING)
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.dtype = dtype
        self.uses_tokens = variant == "attention"
        offered = common | {"image_size": image_size, "channels": channels}
        parts: list[Any] = []
        if image:
            network = build_network(image, num_classes, **offered)
            parts.append(ImagePart(network, width, self.uses_tokens, **common))
        if text:
            name, _, size = tower.partition(":")
            network = build_tower(name, size, TextShape(*text), **common)
            parts.append(TextPart(network, width, **common))
        columns = columns_of({NUMBERS: numbers, CATEGORIES: categories})
        if columns.names:
            parts.append(TablePart(columns, width, part_dropout, **common))
        self.parts = nnx.List(parts)
        count = len(parts)
        self.fallback = Fallback(count, width, part_dropout, rngs=rngs)
        self.fuse = FUSIONS[variant](count, width, **common)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(
            width,
            num_classes,
            kernel_init=nnx.initializers.normal(0.01),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def embed(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns embeddings (B, D), at least float32, of inputs."""
        if self.uses_tokens:
            parts = [part.with_tokens(inputs) for part in self.parts]
        else:
            parts = [part(inputs) for part in self.parts]
        embedding = self.fuse(self.fallback(parts))
        return self.dropout(embedding.astype(at_least_float32(self.dtype)))

    def __call__(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns logits (B, num_classes), at least float32, of inputs."""
        return self.head(self.embed(inputs))


def _check(width: int, part_dropout: float, dropout: float) -> None:
    check_rates(**{"model.dropout": dropout, "model.options.part_dropout": part_dropout})
    check_range("model.options.width", width, width >= 1, "at least 1")


class Late(nnx.Module):
    """The vectors of all parts through a dense layer.

    Args:
        count: number of parts, P.
        width: D.
        dtype: of the computation.
        rngs: random streams; `params` is used.
    """

    def __init__(self, count: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dense = Linear(count * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, parts: Sequence[Part]) -> jax.Array:
        """Returns (B, D)."""
        return gelu(self.dense(jnp.concatenate([part.vector for part in parts], 1)))


class Gated(nnx.Module):
    """The sum of tanh(W_i x_i), each times its gate sigmoid(V_i [x_1, ..., x_P]); as `Late`."""

    def __init__(self, count: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dense = functools.partial(Linear, use_bias=False, dtype=dtype, rngs=rngs)
        self.states = nnx.List([dense(width, width) for _ in range(count)])
        self.gates = dense(count * width, count * width)

    def __call__(self, parts: Sequence[Part]) -> jax.Array:
        """Returns (B, D)."""
        joined = jnp.concatenate([part.vector for part in parts], 1)
        gates = jnp.split(jax.nn.sigmoid(self.gates(joined)), len(parts), axis=1)
        total = jnp.zeros_like(parts[0].vector)
        for gate, dense, part in zip(gates, self.states, parts, strict=True):
            total += gate * jnp.tanh(dense(part.vector))
        return total


class CrossAttention(nnx.Module):
    """Each part's vector attends to the tokens of all parts, then an MLP, then the mean.

    Arguments as those of `Late`.
    """

    implementation = "auto"

    def __init__(self, count: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        heads = max(1, width // HEAD_WIDTH)
        if width % heads:
            rule = f"a multiple of {heads} for the attention"
            check_range("model.options.width", width, False, rule)
        init = nnx.initializers.normal(0.02)
        self.heads = heads
        self.kinds = nnx.Param(init(rngs.params(), (count, width)))
        norm = functools.partial(LayerNorm, width, rngs=rngs)
        dense = functools.partial(Linear, dtype=dtype, rngs=rngs)
        self.norm_queries = norm()
        self.norm_tokens = norm()
        self.query = dense(width, width)
        self.key_value = dense(width, 2 * width)
        self.out = dense(width, width)
        self.norm_hidden = norm()
        self.mlp = Mlp(width, 2 * width, 0.0, dtype=dtype, rngs=rngs)
        self.norm = norm()

    def __call__(self, parts: Sequence[Part]) -> jax.Array:
        """Returns (B, D)."""
        kinds = self.kinds[...]
        vectors = jnp.stack([part.vector for part in parts], 1) + kinds
        tokens = [part.tokens + kind for part, kind in zip(parts, kinds, strict=True)]
        mask = jnp.concatenate([part.mask for part in parts], 1)
        x = vectors + self._attend(vectors, jnp.concatenate(tokens, 1), mask)
        x = x + self.mlp(self.norm_hidden(x))
        return self.norm(x).mean(1)

    def _attend(self, queries: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns (B, P, D) of queries (B, P, D), tokens (B, N, D) and which count, (B, N)."""
        query = self._by_head(self.query(self.norm_queries(queries)))
        keys_values = self.key_value(self.norm_tokens(tokens))
        key, value = (self._by_head(x) for x in jnp.split(keys_values, 2, axis=-1))
        mask = jnp.broadcast_to(mask[:, None], (mask.shape[0], queries.shape[1], mask.shape[1]))
        x = attention(query, key, value, self.implementation, mask)
        return self.out(x.reshape(*x.shape[:2], -1))

    def _by_head(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


FUSIONS = {"late": Late, "gated": Gated, "attention": CrossAttention}
