"""Classification heads besides `nnx.Linear`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError, shown


class CosineHead(nnx.Module):
    """Logits from angles: scale x cos(embedding, class vector).

    Wang et al. 2018 (arXiv:1801.09414). The norms of embeddings and class vectors, which follow the
    class frequencies, then have no influence.
    """

    def __init__(self, in_features: int, num_classes: int, scale: float, *, rngs: nnx.Rngs):
        """Creates the layer.

        Args:
            in_features: embedding width D.
            num_classes: number of classes C.
            scale: factor of the cosines, above 0.
            rngs: random streams; `params` is used.
        """
        init = nnx.initializers.lecun_normal()
        self.in_features = in_features
        self.out_features = num_classes
        self.scale = scale
        self.kernel = nnx.Param(init(rngs.params(), (in_features, num_classes), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 logits (B, C), in [-scale, scale], of embeddings (B, D)."""
        x = x.astype(jnp.promote_types(x.dtype, "float32"))
        kernel = self.kernel[...]
        return self.scale * (_normalize(x, -1) @ _normalize(kernel.astype(x.dtype), 0))


class PromptHead(nnx.Module):
    """Logits from the similarity to the prompts of classes, in a space of images and texts.

    Radford et al. 2021 (arXiv:2103.00020), section 3.1.2. Nothing of it learns.

    Args:
        projection: from embeddings (B, in_features) to the space, (B, D).
        prompts: float (C, D), vectors of length 1, one for each class.
        scale: factor of the cosines.
    """

    def __init__(self, projection: Any, prompts: jax.Array, scale: float):
        self.in_features = projection.in_features
        self.out_features = len(prompts)
        self.projection = projection
        self.prompts = nnx.Variable(prompts)
        self.scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits (B, C), at least float32, of embeddings (B, in_features)."""
        return self.scale * (_normalize(self.projection(x), -1) @ self.prompts[...].T)


class GroupedHead(nnx.Module):
    """A head whose outputs are summed to classes: each class has the probability of its outputs.

    The logit of a class is the logarithm of the sum of its outputs' exponentials, so that a softmax
    over classes is the sum of a softmax over outputs. The logit of a class with one output is that
    output, to the bit.
    """

    def __init__(self, inner: Any, groups: Sequence[int], shares: Sequence[float] = ()):
        """Creates the layer.

        Args:
            inner: the head with an output for each of `groups`.
            groups: the class of each output, from 0; every class has an output.
            shares: factor of the exponential of each output, above 0; () for 1.
        """
        self.inner = inner
        self.groups = tuple(map(int, groups))
        self.shares = tuple(shares)
        self.in_features = inner.in_features
        self.out_features = max(self.groups) + 1
        self.dtype = getattr(inner, "dtype", None)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits (B, C), of the inner head's dtype, of embeddings (B, D)."""
        outputs = self.inner(x)
        if self.shares:
            outputs = outputs + np.log(self.shares).astype(outputs.dtype)
        groups = np.array(self.groups)
        sizes = np.bincount(groups)
        # Columns of outputs, and behind them those of the sums.
        columns = np.array([np.flatnonzero(groups == c)[0] for c in range(self.out_features)])
        joined = np.flatnonzero(sizes > 1)
        if len(joined):
            sums = _log_sum_exp(outputs, *_table(groups, joined))
            columns[joined] = len(groups) + np.arange(len(joined))
            outputs = jnp.concatenate([outputs, sums], -1)
        return _take(outputs, columns)


def check_groups(groups: Sequence[int], shares: Sequence[float], num_classes: int) -> None:
    """Raises `UserError` unless `model.head_groups` and `head_shares` are for these classes."""
    if shares and len(shares) != len(groups):
        raise UserError(
            f"model.head_shares has {len(shares)} numbers for the {len(groups)} outputs of "
            "model.head_groups: give one for each, or () for 1"
        )
    if groups and sorted(set(groups)) != list(range(num_classes)):
        raise UserError(
            f"model.head_groups = {shown(tuple(groups))} must name each of the {num_classes} "
            f"classes, 0 to {num_classes - 1}: use the value of the run with these classes, or "
            "() for a new head"
        )


def _table(groups, classes):
    """Returns (the outputs of some classes, int (M, K), padded with their first; which are real).

    The latter are 1.0 and 0.0, (M, K).
    """
    members = [np.flatnonzero(groups == c) for c in classes]
    longest = max(map(len, members))
    table = np.array([np.pad(m, (0, longest - len(m)), constant_values=m[0]) for m in members])
    is_real = np.arange(longest) < np.array([len(m) for m in members])[:, None]
    return table, is_real.astype(float)


def _log_sum_exp(outputs, table, is_real):
    """Returns log(sum(exp)) of the columns of each row of a table, (B, M)."""
    members = _take(outputs, table)
    # Padding repeats a member, so that it never is the largest on its own.
    largest = jax.lax.stop_gradient(members.max(-1, keepdims=True))
    sums = (jnp.exp(members - largest) * is_real.astype(outputs.dtype)).sum(-1)
    return jnp.log(sums) + largest[..., 0]


def _take(x, columns):
    return x.at[..., columns].get(mode="promise_in_bounds")


def _normalize(x, axis):
    """Returns x divided by its L2 norm along an axis; the gradient is finite at 0 too."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-12))
