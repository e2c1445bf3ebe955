"""Gates that weight a feature map by its content: squeeze-and-excitation, and CBAM."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.models.layers.convolution import Conv, ConvNorm
from vision.models.layers.dtypes import at_least_float32


class SqueezeExcite(nnx.Module):
    """Weights the channels of x (B, H, W, C) by their means over the image.

    Hu et al. 2017 (arXiv:1709.01507).

    Args:
        features: number of channels C.
        squeezed: width between the two layers.
        act: activation after the first layer.
        gate: activation after the second; its result multiplies x.
        dtype: dtype of the computation.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        features: int,
        squeezed: int,
        *,
        act: Callable[[jax.Array], jax.Array] = jax.nn.relu,
        gate: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        # 1x1 convolutions, not dense layers: pretrained weights have this shape.
        self.reduce = Conv(features, squeezed, 1, bias=True, dtype=dtype, rngs=rngs)
        self.expand = Conv(squeezed, features, 1, bias=True, dtype=dtype, rngs=rngs)
        self.act = act
        self.gate = gate

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gate(self.expand(self.act(self.reduce(self.means(x)))))

    def means(self, x: jax.Array) -> jax.Array:
        """Returns the channels' means over the image, (B, 1, 1, C)."""
        return x.mean((1, 2), keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)


class CBAM(nnx.Module):
    """Weights the channels of x (B, H, W, C), then its pixels.

    Woo et al. 2018 (arXiv:1807.06521), section 3. The spatial gate has a norm after its
    convolution, which the paper leaves out but the authors' code and timm have. The channel gate's
    two layers have no biases, as in the paper and in timm; in the authors' code they do.

    Args:
        features: number of channels C.
        squeezed: width between the channel gate's layers.
        kernel: side of the spatial gate's convolution.
        norm: returns a norm with `features` channels: a partial of `BatchNorm`.
        dtype: dtype of the computation.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        features: int,
        squeezed: int,
        kernel: int = 7,
        *,
        norm: Callable[..., nnx.Module],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.channel = ChannelGate(features, squeezed, dtype=dtype, rngs=rngs)
        self.spatial = SpatialGate(kernel, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.spatial(self.channel(x))


class ChannelGate(nnx.Module):
    """Weights the channels of x (B, H, W, C) by their means and maxima over the image.

    Eq. 2 of arXiv:1807.06521.
    """

    def __init__(self, features: int, squeezed: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.reduce = Conv(features, squeezed, 1, dtype=dtype, rngs=rngs)
        self.expand = Conv(squeezed, features, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        means = x.mean((1, 2), keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        maxima = x.max((1, 2), keepdims=True)
        # The second layer is linear, so it is applied once, to the sum.
        hidden = jax.nn.relu(self.reduce(means)) + jax.nn.relu(self.reduce(maxima))
        return x * jax.nn.sigmoid(self.expand(hidden))


class SpatialGate(nnx.Module):
    """Weights the pixels of x (B, H, W, C) by their means and maxima over the channels.

    Eq. 3 of arXiv:1807.06521.
    """

    def __init__(
        self, kernel: int, *, norm: Callable[..., nnx.Module], dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.conv = ConvNorm(2, 1, kernel, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        means = x.mean(-1, keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        maxima = x.max(-1, keepdims=True)
        return x * jax.nn.sigmoid(self.conv(jnp.concatenate([means, maxima], -1)))
