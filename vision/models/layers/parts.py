"""The parts of an example, as a model that fuses them sees each: an image, a text, a table."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.data.columns import CATEGORIES, NUMBERS, Columns
from vision.errors import UserError
from vision.models.layers.blocks import Dropout
from vision.models.layers.linear import Linear
from vision.models.layers.norms import LayerNorm
from vision.models.text import is_token

FARTHEST = 1e3  # standard deviations from the mean that a number counts as, at most


class Part(NamedTuple):
    """What one part of B examples says.

    Attributes:
        vector: (B, D).
        present: bool (B,), whether an example has the part.
        tokens: (B, T, D).
        mask: bool (B, T), which tokens count.
    """

    vector: jax.Array
    present: jax.Array
    tokens: jax.Array
    mask: jax.Array


class ImagePart(nnx.Module):
    """An image by any network of ours, whose head is left out.

    Args:
        network: a `vision.models.Model`.
        width: D.
        with_places: whether `with_tokens` will be used.
        dtype: of the computation.
        rngs: random streams; `params` is used.

    Raises:
        UserError: the network has no maps, which `with_tokens` needs.
    """

    def __init__(
        self,
        network: Any,
        width: int,
        with_places: bool,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        features = network.head.in_features
        if with_places and not hasattr(network, "features"):
            raise UserError(
                "model.options.image has no feature maps for the variant 'attention': "
                "choose another network, or the variant late or gated"
            )
        del network.head
        self.network = network
        project = functools.partial(Linear, dtype=dtype, rngs=rngs)
        self.project = project(features, width)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, inputs: Mapping[str, jax.Array]) -> Part:
        images = inputs["image"]
        vector = self.norm(self.project(self.network.embed(images)))
        present = jnp.ones(images.shape[:1], bool)
        return Part(vector, present, vector[:, None], present[:, None])

    def with_tokens(self, inputs: Mapping[str, jax.Array]) -> Part:
        """Returns the part with a token for each place of the last map."""
        *_, last = self.network.features(inputs["image"]).values()
        pooled = self.norm(self.project(self.network.pool(last)))
        places = last.reshape(last.shape[0], -1, last.shape[-1]).astype(pooled.dtype)
        if places.shape[-1] != self.project.in_features:
            tokens = pooled[:, None]  # pooled by more than a mean: its places have another width
        else:
            tokens = self.norm(self.project(places))
        mask = jnp.ones(tokens.shape[:2], bool)
        return Part(pooled, mask[:, 0], tokens, mask)


class TextPart(nnx.Module):
    """A text by a tower of `vision.models.text`.

    Args:
        tower: a `vision.models.text.TextTower`.
        width: D.
        dtype: of the computation.
        rngs: random streams; `params` is used.
    """

    def __init__(self, tower: Any, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.tower = tower
        self.project = Linear(tower.width, width, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, inputs: Mapping[str, jax.Array]) -> Part:
        ids = inputs["text"]
        mask = is_token(ids)
        present = mask.any(1)
        # A text without tokens has one that counts, or its attention had nothing to attend to.
        first = jnp.arange(ids.shape[1]) == 0
        ids = jnp.where(present[:, None], ids, jnp.where(first, 1, 0))
        states = self.tower.tokens(ids)
        vector = self.norm(self.project(self.tower.pool(states, ids)))
        return Part(vector, present, self.norm(self.project(states)), mask)

    with_tokens = __call__


class TablePart(nnx.Module):
    """Columns, each a token; missing ones have a learned token of their own.

    Args:
        columns: what the columns hold.
        width: D.
        drop: probability that a column is left out in training.
        dtype: of the computation.
        rngs: random streams; `params`, and `dropout` if columns are left out.
    """

    def __init__(
        self, columns: Columns, width: int, drop: float, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        count = len(columns.numbers)
        sizes = [len(category.values) + 1 for category in columns.categories]
        self.means = tuple(column.mean for column in columns.numbers)
        self.stds = tuple(column.std for column in columns.numbers)
        self.starts = tuple(sum(sizes[:i]) for i in range(len(sizes)))
        self.drop = Dropout(drop, rngs=rngs)
        init = nnx.initializers.normal(1.0)
        if count:
            self.slopes = nnx.Param(init(rngs.params(), (count, width)))
            self.offsets = nnx.Param(init(rngs.params(), (count, width)))
            self.missing = nnx.Param(init(rngs.params(), (count, width)))
        if sizes:
            self.embedding = nnx.Param(init(rngs.params(), (sum(sizes), width)))
        self.norm_tokens = LayerNorm(width, rngs=rngs)
        tokens = count + len(sizes)
        self.project = Linear(tokens * width, width, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, inputs: Mapping[str, jax.Array]) -> Part:
        tokens = []
        mask = []
        if self.means:
            numbers, present = self._numbers(inputs[NUMBERS])
            tokens.append(numbers)
            mask.append(present)
        if self.starts:
            codes = self._keep(inputs[CATEGORIES] > 0) * inputs[CATEGORIES]
            tokens.append(self.embedding[...][codes + jnp.array(self.starts, codes.dtype)])
            mask.append(codes > 0)
        joined = self.norm_tokens(jnp.concatenate(tokens, 1))
        is_present = jnp.concatenate(mask, 1)
        vector = self.norm(self.project(joined.reshape(joined.shape[0], -1)))
        # A missing column counts as a token: that it is missing may say something.
        return Part(vector, is_present.any(1), joined, jnp.ones_like(is_present))

    with_tokens = __call__

    def _numbers(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (tokens (B, K, D), whether each number is there, bool (B, K))."""
        dtype = self.slopes[...].dtype
        present = self._keep(values == values)  # NaN is not
        standard = (values - jnp.array(self.means, dtype)) / jnp.array(self.stds, dtype)
        # Far outside of what was learned, how far says nothing; without an end it would overflow.
        standard = jnp.clip(standard, -FARTHEST, FARTHEST)
        standard = jnp.where(present, standard, 0).astype(dtype)
        tokens = standard[..., None] * self.slopes[...] + self.offsets[...]
        return jnp.where(present[..., None], tokens, self.missing[...]), present

    def _keep(self, present: jax.Array) -> jax.Array:
        """Leaves out columns at random in training."""
        return present & (self.drop(jnp.ones(present.shape, jnp.float32)) > 0)


class Fallback(nnx.Module):
    """Learned vectors in the place of parts that are missing, or left out at random in training.

    Args:
        count: number of parts, P.
        width: D.
        drop: probability that a part is left out in training.
        rngs: random streams; `params`, and `dropout` if parts are left out.
    """

    def __init__(self, count: int, width: int, drop: float, *, rngs: nnx.Rngs):
        self.drop = Dropout(drop, rngs=rngs)
        init = nnx.initializers.normal(1.0)
        self.vectors = nnx.Param(init(rngs.params(), (count, width)))

    def __call__(self, parts: Sequence[Part]) -> list[Part]:
        """Returns the parts, with a vector and one token that count wherever one is missing."""
        present = jnp.stack([part.present for part in parts], 1)
        kept = present & (self.drop(jnp.ones(present.shape, jnp.float32)) > 0)
        # An example that would lose all it has keeps it.
        kept = kept | (present & ~kept.any(1, keepdims=True))
        vectors = self.vectors[...]
        return [_replaced(part, kept[:, place], vectors[place]) for place, part in enumerate(parts)]


def _replaced(part: Part, present: jax.Array, vector: jax.Array) -> Part:
    """Returns a part whose missing examples have `vector`, (D,), as their vector and only token."""
    there = present[:, None]
    own = vector.astype(part.vector.dtype)
    is_first = jnp.arange(part.tokens.shape[1]) == 0
    return Part(
        jnp.where(there, part.vector, own),
        present,
        jnp.where(there[..., None], part.tokens, own),
        (there & part.mask) | (~there & is_first),
    )
