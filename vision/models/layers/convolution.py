"""Convolutions that are fast on a CPU too, with the norm and the pooling that go with them.

Padding is PyTorch's, half the kernel on each side, also where the stride is 2; or "SAME",
TensorFlow's, which then pads more on the far side.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from vision.models.layers.dtypes import at_least_float32

PARTS = 8
DEPTHWISE = "_shift_and_add"  # what a depthwise convolution is called in a jaxpr of a CPU


def convolve(x, kernel, strides, padding, **options):
    """`jax.lax.conv_general_dilated`, for `nnx.Conv(..., conv_general_dilated=convolve)`.

    On a CPU two cases take other ways (jaxlib 0.10.2, two cores). The filter gradient is the sum
    over up to 8 parts of the batch: in one piece XLA computes it mostly on one core; in parts it
    takes a third of the time in ResNet-20's first stage and half in its last, and the training step
    some 40 % less. A depthwise convolution is a sum of shifted images: 20 to 50 times faster
    forward, 5 to 10 times with its gradients. A 1x1 kernel gains nothing from either. Elsewhere
    this is lax's function.

    Args:
        x: (B, ..., Cin); the batch is the first axis.
        kernel: (..., Cin / groups, Cout).
        strides: one number an axis.
        padding: (low, high) an axis, or "SAME" or "VALID".
        options: as for `jax.lax.conv_general_dilated`.

    Returns:
        (B, ..., Cout).
    """

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    if jax.default_backend() != "cpu" or math.prod(kernel.shape[:-2]) == 1:
        return plain(x, kernel)
    depthwise = (
        kernel.shape[-2] == 1
        and options.get("feature_group_count", 1) == x.shape[-1] == kernel.shape[-1]
    )
    if depthwise and x.ndim == 4 and set(options.get("rhs_dilation", (1,))) == {1}:
        if isinstance(padding, str):
            padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        padding = tuple(map(tuple, padding))
        reaches = all(
            0 <= pad < k for pads, k in zip(padding, kernel.shape, strict=False) for pad in pads
        )
        if set(strides) == {1} and reaches:
            return _depthwise(x, kernel, padding)
        return _shift_and_add(x, kernel, tuple(strides), padding)

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(saved, dy):
        x, kernel = saved
        parts = math.gcd(len(x), PARTS)

        def gradient_of_part(i):
            # Each part takes rows from every device, so that a sharded batch stays where it is.
            x_part, dy_part = (a.reshape(-1, parts, *a.shape[1:])[:, i] for a in (x, dy))
            (gradient,) = jax.linear_transpose(lambda kernel: plain(x_part, kernel), kernel)(
                dy_part
            )
            return gradient.astype(at_least_float32(kernel.dtype))

        (dx,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(dy)
        return dx, sum(map(gradient_of_part, range(parts))).astype(kernel.dtype)

    convolution = jax.custom_vjp(plain)
    convolution.defvjp(forward, backward)
    return convolution(x, kernel)


def _depthwise(x, kernel, padding):
    """`_shift_and_add` of stride 1, with gradients that are computed likewise.

    They take a quarter to a half of the time of those that JAX derives, which add up padded images;
    and XLA compiles the training step of a net with 7x7 kernels in a sixth of the time.
    """

    def plain(x, kernel):
        return _shift_and_add(x, kernel, (1, 1), padding)

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(saved, dy):
        x, kernel = saved
        around = tuple(
            (k - 1 - low, k - 1 - high)
            for k, (low, high) in zip(kernel.shape, padding, strict=False)
        )
        dx = _shift_and_add(dy, kernel[::-1, ::-1], (1, 1), around)
        (height, width) = dy.shape[1:3]
        wide = at_least_float32(x.dtype)
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        dy = dy.astype(wide)

        def gradient_of_row(i):
            rows = jax.lax.dynamic_slice_in_dim(padded, i, height, 1).astype(wide)
            return jnp.stack(
                [(rows[:, :, j : j + width] * dy).sum((0, 1, 2)) for j in range(kernel.shape[1])]
            )

        # A loop over the kernel's rows: in one piece it takes as long, and longer to compile.
        return dx, jax.lax.map(gradient_of_row, jnp.arange(len(kernel)))[:, :, None].astype(
            kernel.dtype
        )

    convolution = jax.custom_vjp(plain)
    convolution.defvjp(forward, backward)
    return convolution(x, kernel)


# for its name, by which it can be counted
@functools.partial(jax.jit, static_argnames=("strides", "padding"))
def _shift_and_add(x, kernel, strides, padding):
    """A depthwise convolution of x (B, H, W, C) with a kernel (h, w, 1, C), one tap of the kernel
    after the other."""
    size = kernel.shape[:2]
    batch = x.shape[0]
    channels = x.shape[-1]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    last = [(length - k) // s * s for length, k, s in zip(x.shape[1:3], size, strides, strict=True)]
    wide = at_least_float32(x.dtype)  # sums of bfloat16 products lose digits
    total = 0
    for i in range(size[0]):
        for j in range(size[1]):
            end = (batch, i + last[0] + 1, j + last[1] + 1, channels)
            shifted = jax.lax.slice(x, (0, i, j, 0), end, (1, *strides, 1))
            total += shifted.astype(wide) * kernel[i, j, 0].astype(wide)
    return total.astype(x.dtype)


class Conv(nnx.Conv):
    """2-D convolution: (B, H, W, C) -> (B, H / stride, W / stride, features).

    Args:
        features_in: C.
        features: channels of the result.
        kernel: its side, or (height, width).
        stride: of both axes.
        padding: None: half the kernel on each side; or (low, high) an axis; or "SAME" or "VALID".
        groups: parts of the channels that do not mix; C for a depthwise convolution.
        bias: whether there is one.
        kernel_init: None: He et al. 2015 (arXiv:1502.01852), by what leaves, as `fan_out` in
            PyTorch; of a group.
        dtype: of the computation.
        rngs: nnx's streams: `params`.
    """

    def __init__(
        self,
        features_in,
        features,
        kernel,
        stride=1,
        *,
        padding=None,
        groups=1,
        bias=False,
        kernel_init=None,
        dtype,
        rngs,
    ):
        kernel = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        super().__init__(
            features_in,
            features,
            kernel,
            strides=stride,
            padding=[(side // 2, side // 2) for side in kernel] if padding is None else padding,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=kernel_init
            or nnx.initializers.variance_scaling(2.0 * groups, "fan_out", "normal"),
            dtype=dtype,
            conv_general_dilated=_without_sharding,
            rngs=rngs,
        )


def _without_sharding(*arguments, out_sharding=None, **options):
    """`convolve`, as nnx calls it; it names an output sharding that is always None here."""
    del out_sharding
    return convolve(*arguments, **options)


class ConvNorm(nnx.Module):
    """Convolution without bias, then a norm, then an activation: (B, H, W, C) -> (B, H / stride, W
    / stride, features).

    Args:
        features_in: C.
        features: channels of the result.
        kernel, stride, padding, groups, dtype, rngs: see `Conv`.
        norm: makes a norm of so many channels: a partial of `norms.BatchNorm`.
        act: applied to the result; None = nothing.
        zero_scale: start the norm's scale at 0, so that all starts as zero.
    """

    def __init__(
        self,
        features_in,
        features,
        kernel,
        stride=1,
        *,
        norm,
        act=None,
        padding=None,
        groups=1,
        zero_scale=False,
        dtype,
        rngs,
    ):
        self.conv = Conv(
            features_in,
            features,
            kernel,
            stride,
            padding=padding,
            groups=groups,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = norm(features, zero_scale=zero_scale)
        self.act = act

    def __call__(self, x):
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


def max_pool(x, size, stride, padding=0):
    """Returns the largest of each `size` x `size` pixels of x (B, H, W, C); what is padded never
    wins."""
    return nnx.pool(
        x, -jnp.inf, jax.lax.max, (size, size), (stride, stride), ((padding, padding),) * 2
    )


def avg_pool(x, size, stride, padding=0):
    """Returns the mean of each `size` x `size` pixels of x (B, H, W, C); what is padded counts as
    zeros."""
    return (
        nnx.pool(x, 0.0, jax.lax.add, (size, size), (stride, stride), ((padding, padding),) * 2)
        / size**2
    )


def adaptive_avg_pool(x, size):
    """Averages x (B, H, W, C) over a grid: (B, size, size, C), whatever H and W are.

    As PyTorch's `adaptive_avg_pool2d`: cell i covers the rows from floor(i H / size) to ceil((i +
    1) H / size).
    """
    for axis in (1, 2):
        length = x.shape[axis]
        cells = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
        parts = [
            jax.lax.slice_in_dim(x, start, end, axis=axis).mean(axis, keepdims=True)
            for start, end in cells
        ]
        x = jnp.concatenate(parts, axis)
    return x
