"""Layers and checks that several architectures share.

All keep float32 parameters and statistics, and return the dtype that they are given. All follow nnx's convention for
training and evaluation: `model.train()` and `model.eval()` set `deterministic` and `use_running_average`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError


class BatchNorm(nnx.BatchNorm):
    """Batch normalization over all axes but the last. Ioffe and Szegedy 2015 (arXiv:1502.03167).

    With `groups` = n > 1, training normalizes each consecutive 1/n of the batch by its own statistics, as n devices
    without synchronization would (Goyal et al. 2017, arXiv:1706.02677, section 2.3); the running averages follow the
    groups' mean. With 1 it is `nnx.BatchNorm`, whose `axis_name` is meant for that case only.

    The running variance follows the biased estimate, as in Flax and TensorFlow; PyTorch's follows the unbiased one.
    """

    def __init__(self, features, *, groups=1, zero_scale=False, rngs):
        """Creates the layer.

        Args:
            features: channels, int.
            groups: parts of the batch that have their own statistics.
            zero_scale: start the scale at 0, not 1, so that the layer starts as zero.
            rngs: nnx's streams; `params` is drawn from.
        """
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(features, momentum=0.9, epsilon=1e-5, scale_init=scale_init, rngs=rngs)
        self.groups = groups

    def __call__(self, x, use_running_average=None):
        """Normalizes x (B, ..., C); in training mode, also updates the running averages.

        Raises:
            UserError: the groups do not divide the batch (training mode only).
        """
        running = self.use_running_average if use_running_average is None else use_running_average
        if self.groups == 1 or running:
            return super().__call__(x, running).astype(x.dtype)
        return self._by_group(x)

    def _by_group(self, x):
        batch = x.shape[0]
        if batch % self.groups:
            raise UserError(
                f"model.batch_norm_groups = {self.groups} does not divide the batch of {batch} images: "
                "choose a batch size that is a multiple of it"
            )
        wide = x.astype(at_least_float32(x.dtype)).reshape(self.groups, batch // self.groups, *x.shape[1:])
        axes = tuple(range(1, wide.ndim - 1))
        mean = wide.mean(axes, keepdims=True)
        # One pass over x, as in nnx.BatchNorm; rounding may bring a variance of zero below it.
        var = jnp.maximum(0.0, jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean))
        self._follow(self.mean, mean)
        self._follow(self.var, var)
        y = (wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * self.scale[...]) + self.bias[...]
        return y.astype(x.dtype).reshape(x.shape)

    def _follow(self, average, statistic):
        statistic = jax.lax.stop_gradient(statistic.mean(0).reshape(-1))
        average[...] = self.momentum * average[...] + (1 - self.momentum) * statistic


class LayerNorm(nnx.LayerNorm):
    """Layer normalization over the last axis, eps 1e-6. Ba et al. 2016 (arXiv:1607.06450)."""

    def __init__(self, features, *, rngs):
        super().__init__(features, epsilon=1e-6, rngs=rngs)

    def __call__(self, x):
        """Normalizes x (..., D)."""
        return super().__call__(x).astype(x.dtype)


class Linear(nnx.Linear):
    """Dense layer on the last axis of x (..., D), as one flat matrix product.

    XLA's CPU backend trains a ViT some 10 % faster so than with a product over several leading axes.
    """

    def __call__(self, x):
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def attention(query, key, value):
    """Softmax attention without a mask. Vaswani et al. 2017 (arXiv:1706.03762), eq. 1.

    On accelerators this is `jax.nn.dot_product_attention`. On a CPU two plain matrix products, heads first, take a
    quarter less time, and keep float64 where `jax.nn` rounds to float32 inside.

    Args:
        query, key, value: (B, N, heads, D).

    Returns:
        (B, N, heads, D), in their dtype. The softmax is at least float32.
    """
    if jax.default_backend() != "cpu":
        return jax.nn.dot_product_attention(query, key, value)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = (query @ key.swapaxes(2, 3)).astype(at_least_float32(query.dtype))
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5)
    return (weights.astype(value.dtype) @ value).swapaxes(1, 2)


class Dropout(nnx.Dropout):
    """Dropout that holds no random state where its rate is 0, so that there is nothing to carry from step to step."""

    def __init__(self, rate, *, rngs):
        super().__init__(rate, rngs=rngs if rate else None)


class StochasticDepth(Dropout):
    """Drops whole samples of a residual branch: x (B, ...) times 0, or else times 1 / (1 - rate).

    Huang et al. 2016 (arXiv:1603.09382), scaled in training instead of in evaluation. Draws from nnx's `dropout`.
    """

    def __call__(self, x):
        if self.rate == 0.0 or self.deterministic:
            return x
        # A float32 factor: in bfloat16 the rounding of 1 / (1 - rate) would shift the expectation.
        factor = super().__call__(jnp.ones((x.shape[0],) + (1,) * (x.ndim - 1), jnp.float32))
        return (x * factor).astype(x.dtype)


def gelu(x):
    """Exact GELU. Hendrycks and Gimpel 2016 (arXiv:1606.08415).

    By erf, not by `jax.nn.gelu`'s erfc, which takes twice as long on a CPU; float32 inside, as 1 + erf cancels.
    """
    wide = x.astype(at_least_float32(x.dtype))
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def linear_rates(rate, depth):
    """Returns the stochastic depth of each of `depth` blocks, rising linearly to `rate` at the last one."""
    return [rate * (i + 1) / depth for i in range(depth)]


def at_least_float32(dtype):
    """Returns the dtype of statistics, embeddings and logits: float32, or float64 beside a float64 computation."""
    return jnp.promote_types(dtype, jnp.float32)


def check_rates(**rates):
    """Raises UserError for a probability outside [0, 1), by its option's name."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name} = {rate} is no probability below 1: choose from 0 to 0.99")
