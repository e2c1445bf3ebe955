"""Convolutions as XLA's CPU backend computes them fastest, without another library.

Measured with jaxlib 0.10.2 on two cores. The filter gradient in one piece keeps one core busy: in
parts it takes a third of the time in ResNet-20's first stage and half in its last. A depthwise
convolution as a sum of shifted images is 20 to 50 times faster forward, and 5 to 10 times with its
gradients. A 1x1 kernel gains nothing from either.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vision.cpu.geometry import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Geometry

PARTS = 8


def find(kind: str, geometry: Geometry, convolve: Callable) -> Callable | None:
    """Returns a function that computes the same as `convolve`, or None if nothing is faster.

    Args:
        kind: one of `vision.cpu.geometry.KINDS`.
        geometry: the shapes.
        convolve: computes it, from the two arrays of `vision.cpu.geometry.recognize`.
    """
    height, width, size_in, size_out = geometry.kernel
    if height * width == 1:
        return None
    is_depthwise = size_in == 1 and geometry.groups == size_out == geometry.images[-1]
    if is_depthwise and geometry.dilation == (1, 1):
        return functools.partial(_DEPTHWISE[kind], geometry=geometry)
    if kind == BACKWARD_WEIGHTS:
        return functools.partial(_sum_over_parts, convolve)
    return None


def _sum_over_parts(convolve, x, dy):
    """Returns the gradient by the kernel, summed over parts of the batch."""
    parts = math.gcd(len(x), PARTS)
    total = 0
    for i in range(parts):
        # Each part takes rows from every device, so that a sharded batch stays in place.
        x_part, dy_part = (a.reshape(-1, parts, *a.shape[1:])[:, i] for a in (x, dy))
        part = convolve(x_part, dy_part)
        total += part.astype(jnp.promote_types(part.dtype, jnp.float32))
    return total.astype(part.dtype)


def _depthwise(x, kernel, geometry):
    """Depthwise convolution of x (B, H, W, C) with a kernel (h, w, 1, C), tap by tap."""
    return _shift_and_add(x, kernel, geometry.strides, _padding(geometry))


def _depthwise_by_images(dy, kernel, geometry):
    """Its gradient by x. The kernel (h, w, C, 1) is reversed in both axes, as JAX does for it."""
    padding = _padding(geometry)
    kernel = kernel.swapaxes(2, 3)
    if _is_simple(geometry):
        transposed = tuple(
            (side - 1 - low, side - 1 - high)
            for side, (low, high) in zip(geometry.kernel, padding, strict=False)
        )
        return _shift_and_add(dy, kernel, (1, 1), transposed)
    forward = functools.partial(
        _shift_and_add, kernel=kernel[::-1, ::-1], strides=geometry.strides, padding=padding
    )
    images = jax.ShapeDtypeStruct(geometry.images, dy.dtype)
    (dx,) = jax.linear_transpose(forward, images)(dy)
    return dx


def _depthwise_by_kernel(x, dy, geometry):
    """Its gradient by the kernel."""
    padding = _padding(geometry)
    if not _is_simple(geometry):

        def forward(kernel):
            return _shift_and_add(x, kernel, geometry.strides, padding)

        kernel = jax.ShapeDtypeStruct(geometry.kernel, x.dtype)
        (gradient,) = jax.linear_transpose(forward, kernel)(dy)
        return gradient
    height, width = dy.shape[1:3]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    dy = dy.astype(wide)

    def gradient_of_row(i):
        rows = jax.lax.dynamic_slice_in_dim(padded, i, height, 1).astype(wide)
        columns = range(geometry.kernel[1])
        return jnp.stack([(rows[:, :, j : j + width] * dy).sum((0, 1, 2)) for j in columns])

    # A loop over the kernel's rows: in one piece it takes as long, and longer to compile.
    gradient = jax.lax.map(gradient_of_row, jnp.arange(geometry.kernel[0]))
    return gradient[:, :, None].astype(x.dtype)


_DEPTHWISE = {
    FORWARD: _depthwise,
    BACKWARD_DATA: _depthwise_by_images,
    BACKWARD_WEIGHTS: _depthwise_by_kernel,
}


def _is_simple(geometry):
    """Whether the gradients are sums of shifted images too.

    They take a quarter to a half of the time of those that JAX derives, which add up padded images;
    and XLA compiles the training step of a net with 7x7 kernels in a sixth of the time.
    """
    padding = _padding(geometry)
    inside = [
        pad < side for side, pads in zip(geometry.kernel, padding, strict=False) for pad in pads
    ]
    return geometry.strides == (1, 1) and all(inside)


def _padding(geometry):
    return tuple(zip(geometry.padding, geometry.padding_after(), strict=True))


def _shift_and_add(x, kernel, strides, padding):
    size = kernel.shape[:2]
    batch, *_, channels = x.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    last = [(length - k) // s * s for length, k, s in zip(x.shape[1:3], size, strides, strict=True)]
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of bfloat16 products lose digits
    total = 0
    for i in range(size[0]):
        for j in range(size[1]):
            end = (batch, i + last[0] + 1, j + last[1] + 1, channels)
            shifted = jax.lax.slice(x, (0, i, j, 0), end, (1, *strides, 1))
            total += shifted.astype(wide) * kernel[i, j, 0].astype(wide)
    return total.astype(x.dtype)
