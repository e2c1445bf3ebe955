"""Small networks that weigh a feature map by what they see in it: squeeze-and-excitation, and
CBAM."""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.models.layers.convolution import Conv, ConvNorm
from vision.models.layers.dtypes import at_least_float32


class SqueezeExcite(nnx.Module):
    """Weighs the channels of x (B, H, W, C) by their means over the image. Hu et al. 2017
    (arXiv:1709.01507).

    Args:
        features: C.
        squeezed: width between the two layers.
        act: after the first layer.
        gate: after the second; its result multiplies x.
        dtype: of the computation.
        rngs: nnx's streams: `params`.
    """

    def __init__(self, features, squeezed, *, act=jax.nn.relu, gate=jax.nn.sigmoid, dtype, rngs):
        # 1x1 convolutions, not dense layers: pretrained weights come in this shape.
        self.reduce = Conv(features, squeezed, 1, bias=True, dtype=dtype, rngs=rngs)
        self.expand = Conv(squeezed, features, 1, bias=True, dtype=dtype, rngs=rngs)
        self.act = act
        self.gate = gate

    def __call__(self, x):
        means = x.mean((1, 2), keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        return x * self.gate(self.expand(self.act(self.reduce(means))))


class CBAM(nnx.Module):
    """Weighs the channels of x (B, H, W, C), then its pixels. Woo et al. 2018 (arXiv:1807.06521),
    section 3.

    The spatial gate has a norm after its convolution, which the paper leaves out but the authors'
    code and timm have. The channel gate's two layers have no biases, as in the paper and in timm;
    in the authors' code they do.

    Args:
        features: C.
        squeezed: width between the channel gate's layers.
        kernel: side of the spatial gate's convolution.
        norm: makes a norm of so many channels: a partial of `norms.BatchNorm`.
        dtype: of the computation.
        rngs: nnx's streams: `params`.
    """

    def __init__(self, features, squeezed, kernel=7, *, norm, dtype, rngs):
        self.channel = ChannelGate(features, squeezed, dtype=dtype, rngs=rngs)
        self.spatial = SpatialGate(kernel, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.spatial(self.channel(x))


class ChannelGate(nnx.Module):
    """Weighs the channels of x (B, H, W, C) by their means and maxima over the image: eq. 2 of
    arXiv:1807.06521."""

    def __init__(self, features, squeezed, *, dtype, rngs):
        self.reduce = Conv(features, squeezed, 1, dtype=dtype, rngs=rngs)
        self.expand = Conv(squeezed, features, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        means = x.mean((1, 2), keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        largest = x.max((1, 2), keepdims=True)
        # The second layer is linear: that of the sum is the sum of both.
        hidden = jax.nn.relu(self.reduce(means)) + jax.nn.relu(self.reduce(largest))
        return x * jax.nn.sigmoid(self.expand(hidden))


class SpatialGate(nnx.Module):
    """Weighs the pixels of x (B, H, W, C) by their means and maxima over the channels: eq. 3 of
    arXiv:1807.06521."""

    def __init__(self, kernel, *, norm, dtype, rngs):
        self.conv = ConvNorm(2, 1, kernel, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        means = x.mean(-1, keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        return x * jax.nn.sigmoid(self.conv(jnp.concatenate([means, x.max(-1, keepdims=True)], -1)))
