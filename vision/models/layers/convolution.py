"""Convolutions, with the norm and the pooling that go with them.

Padding is as in PyTorch, half the kernel on each side, even if the stride is 2; or "SAME", as in
TensorFlow, which then pads more on the far side.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

Padding = str | Sequence[tuple[int, int]]


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
            rngs=rngs,
        )


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
