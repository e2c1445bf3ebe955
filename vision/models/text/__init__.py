"""Text towers, one file each: networks from token ids to the embedding of a text.

A tower is an `nnx.Module` as `TextTower` describes it. Its file has `VARIANTS` and

    def build(variant, shape, *, dtype, rngs) -> TextTower

and, if there are published weights, `read(path, shape) -> {name: array}`. Token ids are int32
(B, L), and 0 is padding, which no other token sees (`vision.data.tokenizer`).
"""

import importlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.data.tokenizer import PAD, TextShape
from vision.errors import check_choice

TOWERS = ("transformer", "bert")


class TextTower(Protocol):
    """What objectives need of a text tower, an `nnx.Module`."""

    width: int  # D

    def tokens(self, ids: jax.Array) -> jax.Array:
        """Returns the last states (B, L, D), normalized, of token ids (B, L)."""

    def pool(self, states: jax.Array, ids: jax.Array) -> jax.Array:
        """Returns the embeddings, float32 (B, D), of last states (B, L, D)."""

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the embeddings, float32 (B, D), of token ids (B, L)."""


def module_of(name: str) -> Any:
    """Returns the module of a tower; raises `UserError` if there is none of this name."""
    check_choice("objective.options.tower", name, TOWERS)
    return importlib.import_module(f"{__name__}.{name}")


def build_tower(
    name: str, variant: str, shape: TextShape, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> Any:
    """Builds a `TextTower`.

    Args:
        name: one of `TOWERS`.
        variant: one of its `VARIANTS`.
        shape: of the texts.
        dtype: of the computation.
        rngs: random streams; `params` is used.

    Raises:
        UserError: there is no such tower or variant, or it cannot read such texts.
    """
    module = module_of(name)
    check_choice("objective.options.variant", variant, tuple(module.VARIANTS))
    return module.build(variant, shape, dtype=dtype, rngs=rngs)


def is_token(ids: jax.Array) -> jax.Array:
    """Returns which ids are tokens and not padding, bool (B, L)."""
    return ids != PAD


def mean_pool(states: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the mean state of each text's tokens, (B, D); zeros for a text without tokens."""
    weights = is_token(ids).astype(states.dtype)
    count = jnp.maximum(weights.sum(1, keepdims=True), jnp.ones((), states.dtype))
    return (states * weights[..., None]).sum(1) / count
