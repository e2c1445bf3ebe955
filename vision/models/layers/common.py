"""Layers and checks that several architectures share.

All keep float32 parameters and statistics, and return the dtype that they are given. All follow
nnx's convention for training and evaluation: `model.train()` and `model.eval()` set `deterministic`
and `use_running_average`.
"""

import re

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice

ATTENTIONS = ("auto", "plain", "xla", "cudnn")
REMATS = ("none", "dots", "blocks")


class BatchNorm(nnx.BatchNorm):
    """Batch normalization over all axes but the last. Ioffe and Szegedy 2015 (arXiv:1502.03167).

    With `groups` = n > 1, training normalizes each consecutive 1/n of the batch by its own
    statistics, as n devices without synchronization would (Goyal et al. 2017, arXiv:1706.02677,
    section 2.3); the running averages follow the groups' mean. With 1 it is `nnx.BatchNorm`, whose
    `axis_name` is meant for that case only.

    The running variance follows the biased estimate, as in Flax and TensorFlow; PyTorch's follows
    the unbiased one.
    """

    def __init__(
        self,
        features,
        *,
        groups=1,
        zero_scale=False,
        momentum=0.9,
        epsilon=1e-5,
        use_scale=True,
        rngs,
    ):
        """Creates the layer.

        Args:
            features: channels, int.
            groups: parts of the batch that have their own statistics.
            zero_scale: start the scale at 0, not 1, so that the layer starts as zero.
            momentum: share of the running averages that a step keeps, in [0, 1]; PyTorch's is 1
                minus this.
            epsilon: added to the variance.
            use_scale: whether there is a scale to learn; without, the layer normalizes and adds its
                bias.
            rngs: nnx's streams; `params` is drawn from.
        """
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(
            features,
            momentum=momentum,
            epsilon=epsilon,
            use_scale=use_scale,
            scale_init=scale_init,
            rngs=rngs,
        )
        self.groups = groups
        self.frozen = False

    def __call__(self, x, use_running_average=None):
        """Normalizes x (B, ..., C); in training mode, also updates the running averages, unless it
        is `frozen`.

        Raises:
            UserError: the groups do not divide the batch (training mode only).
        """
        running = self.frozen or (
            self.use_running_average if use_running_average is None else use_running_average
        )
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
        wide = x.astype(at_least_float32(x.dtype)).reshape(
            self.groups, batch // self.groups, *x.shape[1:]
        )
        axes = tuple(range(1, wide.ndim - 1))
        mean = wide.mean(axes, keepdims=True)
        # One pass over x, as in nnx.BatchNorm; rounding may bring a variance of zero below it.
        var = jnp.maximum(0.0, jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean))
        self._follow(self.mean, mean)
        self._follow(self.var, var)
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            factor = factor * self.scale[...]
        y = (wide - mean) * factor + self.bias[...]
        return y.astype(x.dtype).reshape(x.shape)

    def _follow(self, average, statistic):
        statistic = jax.lax.stop_gradient(statistic.mean(0).reshape(-1))
        average[...] = self.momentum * average[...] + (1 - self.momentum) * statistic


class LayerNorm(nnx.LayerNorm):
    """Layer normalization over the last axis. Ba et al. 2016 (arXiv:1607.06450)."""

    def __init__(self, features, *, epsilon=1e-6, rngs):
        super().__init__(features, epsilon=epsilon, rngs=rngs)

    def __call__(self, x):
        """Normalizes x (..., D)."""
        return super().__call__(x).astype(x.dtype)


class Linear(nnx.Linear):
    """Dense layer on the last axis of x (..., D), as one flat matrix product.

    XLA's CPU backend trains a ViT some 10 % faster so than with a product over several leading
    axes.
    """

    def __call__(self, x):
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def attention(query, key, value, name="auto"):
    """Softmax attention without a mask. Vaswani et al. 2017 (arXiv:1706.03762), eq. 1.

    Args:
        query, key, value: (B, N, heads, D).
        name: one of `ATTENTIONS`; see `choose_attention`.

    Returns:
        (B, N, heads, D), in their dtype. The softmax is at least float32.

    Raises:
        UserError: as `choose_attention`.
    """
    _, tokens, _, depth = query.shape
    name = choose_attention(name, tokens, depth, query.dtype)
    if name != "plain":
        return jax.nn.dot_product_attention(query, key, value, implementation=name)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = (query @ key.swapaxes(2, 3)).astype(at_least_float32(query.dtype))
    weights = jax.nn.softmax(scores * depth**-0.5)
    return (weights.astype(value.dtype) @ value).swapaxes(1, 2)


def choose_attention(name, tokens, depth, dtype):
    """Returns "plain", "xla" or "cudnn": what `attention` computes with.

    "plain" is two matrix products, heads first. "xla" is `jax.nn.dot_product_attention`, which
    rounds to float32 inside. "cudnn" is NVIDIA's fused kernel, which never stores the (N, N)
    scores. "auto" is plain on a CPU, where it takes a quarter less time than xla; on an NVIDIA GPU
    cudnn, where it takes the shapes and there are at least 128 tokens; else xla. The rule for GPUs
    was not measured: scripts/bench/attention.py measures it.

    Args:
        name: one of `ATTENTIONS`.
        tokens: N, int.
        depth: of a head, int.
        dtype: of query, key and value.

    Raises:
        UserError: an unknown name; or cudnn, where it cannot be had.
    """
    check_choice("model.attention", name, ATTENTIONS)
    if name in ("plain", "xla"):
        return name
    missing = _missing_for_cudnn(depth, dtype)
    if name == "cudnn" and missing:
        raise UserError(
            f"model.attention = 'cudnn' needs {missing}, or set model.attention to auto"
        )
    if name == "cudnn" or (not missing and tokens >= 128):
        return "cudnn"
    return "plain" if jax.default_backend() == "cpu" else "xla"


def _missing_for_cudnn(depth, dtype):
    """Returns what cuDNN's attention needs and has not here, None if nothing: JAX's own conditions,
    and Ampere."""
    # "8.0" on an NVIDIA GPU, "gfx90a" on an AMD one; a CPU has none.
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < 8:
        return "an NVIDIA GPU of compute capability 8.0 or above, which is not here: run on one"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"a computation in 16 bits, not {jnp.dtype(dtype).name}: set model.dtype to bfloat16"
    limit = 256 if float(capability) >= 9 else 128
    if depth > limit or depth % 8:
        return f"heads of a depth up to {limit} that 8 divides, not {depth}: choose another model.variant"
    return None


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


def gelu(x):
    """Exact GELU. Hendrycks and Gimpel 2016 (arXiv:1606.08415).

    By erf, not by `jax.nn.gelu`'s erfc, which takes twice as long on a CPU; float32 inside, as 1 +
    erf cancels.
    """
    wide = x.astype(at_least_float32(x.dtype))
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def linear_rates(rate, depth):
    """Returns the stochastic depth of each of `depth` blocks, rising linearly to `rate` at the last
    one."""
    return [rate * (i + 1) / depth for i in range(depth)]


def at_least_float32(dtype):
    """Returns the dtype of statistics, embeddings and logits: float32, or float64 beside a float64
    computation."""
    return jnp.promote_types(dtype, jnp.float32)


def check_options(*, dropout=0.0, stochastic_depth=0.0, batch_norm_groups=1, remat="none"):
    """Raises UserError for a value that cannot be, of the options that the architectures share."""
    check_rates(**{"model.dropout": dropout, "model.stochastic_depth": stochastic_depth})
    check_choice("model.remat", remat, REMATS)
    if batch_norm_groups < 1:
        raise UserError(
            f"model.batch_norm_groups = {batch_norm_groups}: it is at least 1, the whole batch"
        )


def check_image_size(name, image_size, smallest):
    """Raises UserError for images that are too small for the architecture of this name."""
    if image_size < smallest:
        raise UserError(
            f"model '{name}' takes images of {smallest} px or more, not {image_size}: set data.image_size"
        )


def check_rates(**rates):
    """Raises UserError for a probability outside [0, 1), by its option's name."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name} = {rate} is no probability below 1: choose from 0 to 0.99")


class CosineHead(nnx.Module):
    """Logits from angles: scale x cos(embedding, class vector). Wang et al. 2018
    (arXiv:1801.09414).

    The norms of embeddings and class vectors, which follow the classes' frequencies, then say
    nothing.
    """

    def __init__(self, in_features, num_classes, scale, *, rngs):
        """Creates the layer.

        Args:
            in_features: D.
            num_classes: C.
            scale: of the cosines, above 0.
            rngs: nnx's streams; `params` is drawn from.
        """
        init = nnx.initializers.lecun_normal()
        self.in_features = in_features
        self.out_features = num_classes
        self.scale = scale
        self.kernel = nnx.Param(init(rngs.params(), (in_features, num_classes), jnp.float32))

    def __call__(self, x):
        """Returns float32 (B, C), in [-scale, scale], of embeddings (B, D)."""
        x = x.astype(jnp.promote_types(x.dtype, "float32"))
        kernel = self.kernel[...]
        return self.scale * (_unit(x, -1) @ _unit(kernel.astype(x.dtype), 0))


def _unit(x, axis):
    """Returns x divided by its norm along an axis; its gradient is finite at 0 too."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-12))
