"""Convolutions that are fast on a CPU too, with the norm and the pooling that go with them.

Padding is as in PyTorch, half the kernel on each side, even if the stride is 2; or "SAME", as in
TensorFlow, which then pads more on the far side.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.models.layers.dtypes import at_least_float32

PARTS = 8
DEPTHWISE = "_shift_and_add"  # name of a depthwise convolution in a CPU's jaxpr

Padding = str | Sequence[tuple[int, int]]


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Padding, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, for `nnx.Conv(..., conv_general_dilated=convolve)`.

    On a CPU two cases are computed differently (jaxlib 0.10.2, two cores). The filter gradient is
    the sum over up to 8 parts of the batch: in one piece XLA computes it mostly on one core; in
    parts it takes a third of the time in ResNet-20's first stage and half in its last, and the
    training step some 40 % less. A depthwise convolution is a sum of shifted images: 20 to 50 times
    faster forward, 5 to 10 times with its gradients. A 1x1 kernel gains nothing from either. On
    other devices this is the function of lax.

    Args:
        x: (B, ..., Cin); the batch is the first axis.
        kernel: (..., Cin / groups, Cout).
        strides: one number per axis.
        padding: (low, high) per axis, or "SAME" or "VALID".
        options: further arguments of `jax.lax.conv_general_dilated`.

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
        return _convolve_depthwise(x, kernel, tuple(strides), padding)
    return _split_filter_gradient(plain)(x, kernel)


def _split_filter_gradient(plain):
    """Returns `plain(x, kernel)` with a filter gradient that is summed over parts of the batch."""

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(saved, dy):
        x, kernel = saved
        parts = math.gcd(len(x), PARTS)

        def gradient_of_part(i):
            # Each part takes rows from every device, so that a sharded batch stays in place.
            x_part, dy_part = (a.reshape(-1, parts, *a.shape[1:])[:, i] for a in (x, dy))
            transposed = jax.linear_transpose(lambda kernel: plain(x_part, kernel), kernel)
            (gradient,) = transposed(dy_part)
            return gradient.astype(at_least_float32(kernel.dtype))

        (dx,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(dy)
        return dx, sum(map(gradient_of_part, range(parts))).astype(kernel.dtype)

    convolution = jax.custom_vjp(plain)
    convolution.defvjp(forward, backward)
    return convolution


def _convolve_depthwise(x, kernel, strides, padding):
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padding = tuple(map(tuple, padding))
    inside_kernel = all(
        0 <= pad < side for pads, side in zip(padding, kernel.shape, strict=False) for pad in pads
    )
    if set(strides) == {1} and inside_kernel:
        return _depthwise(x, kernel, padding)
    return _shift_and_add(x, kernel, strides, padding)


def _depthwise(x, kernel, padding):
    """`_shift_and_add` with stride 1, with gradients that are computed in the same way.

    They take a quarter to a half of the time of those that JAX derives, which add up padded images;
    and XLA compiles the training step of a net with 7x7 kernels in a sixth of the time.
    """

    def plain(x, kernel):
        return _shift_and_add(x, kernel, (1, 1), padding)

    def forward(x, kernel):
        return plain(x, kernel), (x, kernel)

    def backward(saved, dy):
        x, kernel = saved
        transposed_padding = tuple(
            (side - 1 - low, side - 1 - high)
            for side, (low, high) in zip(kernel.shape, padding, strict=False)
        )
        dx = _shift_and_add(dy, kernel[::-1, ::-1], (1, 1), transposed_padding)
        height, width = dy.shape[1:3]
        wide = at_least_float32(x.dtype)
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        dy = dy.astype(wide)

        def gradient_of_row(i):
            rows = jax.lax.dynamic_slice_in_dim(padded, i, height, 1).astype(wide)
            return jnp.stack(
                [(rows[:, :, j : j + width] * dy).sum((0, 1, 2)) for j in range(kernel.shape[1])]
            )

        # A loop over the kernel's rows: in one piece it takes as long, and longer to compile.
        dkernel = jax.lax.map(gradient_of_row, jnp.arange(len(kernel)))[:, :, None]
        return dx, dkernel.astype(kernel.dtype)

    convolution = jax.custom_vjp(plain)
    convolution.defvjp(forward, backward)
    return convolution(x, kernel)


# jit gives it a name in the jaxpr, by which its operations are counted.
@functools.partial(jax.jit, static_argnames=("strides", "padding"))
def _shift_and_add(x, kernel, strides, padding):
    """Depthwise convolution of x (B, H, W, C) with a kernel (h, w, 1, C), tap by tap."""
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
        features_in: number of input channels C.
        features: number of output channels.
        kernel: its side, or (height, width).
        stride: stride of both axes.
        padding: None for half the kernel on each side; or (low, high) per axis; or "SAME" or
            "VALID".
        groups: number of groups of channels that do not mix; C for a depthwise convolution.
        bias: whether the layer has a bias.
        kernel_init: None for He et al. 2015 (arXiv:1502.01852) by fan-out, `fan_out` in PyTorch,
            per group.
        dtype: dtype of the computation.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        *,
        padding: Padding | None = None,
        groups: int = 1,
        bias: bool = False,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        kernel = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        if padding is None:
            padding = [(side // 2, side // 2) for side in kernel]
        if kernel_init is None:
            kernel_init = nnx.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")
        super().__init__(
            features_in,
            features,
            kernel,
            strides=stride,
            padding=padding,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=kernel_init,
            dtype=dtype,
            conv_general_dilated=_without_sharding,
            rngs=rngs,
        )


def _without_sharding(*arguments, out_sharding=None, **options):
    """`convolve` as nnx calls it: with an output sharding, which is always None here."""
    del out_sharding
    return convolve(*arguments, **options)


class ConvNorm(nnx.Module):
    """Convolution without bias, then a norm, then an activation.

    (B, H, W, C) -> (B, H / stride, W / stride, features).

    Args:
        features_in: number of input channels C.
        features: number of output channels.
        kernel, stride, padding, groups, dtype, rngs: see `Conv`.
        norm: returns a norm with `features` channels: a partial of `BatchNorm`.
        act: activation of the result, or None.
        zero_scale: start the norm's scale at 0, so that the output starts as zero.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        *,
        norm: Callable[..., Any],
        act: Callable[[jax.Array], jax.Array] | None = None,
        padding: Padding | None = None,
        groups: int = 1,
        zero_scale: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
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

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Returns the maximum of each `size` x `size` window of x (B, H, W, C), ignoring padding."""
    windows = ((size, size), (stride, stride), ((padding, padding),) * 2)
    return nnx.pool(x, -jnp.inf, jax.lax.max, *windows)


def avg_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Returns the mean of each `size` x `size` window of x (B, H, W, C); padding counts as 0."""
    windows = ((size, size), (stride, stride), ((padding, padding),) * 2)
    return nnx.pool(x, 0.0, jax.lax.add, *windows) / size**2


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages x (B, H, W, C) over a grid: (B, size, size, C), for any H and W.

    As PyTorch's `adaptive_avg_pool2d`: cell i covers the rows from floor(i H / size) to
    ceil((i + 1) H / size).
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
