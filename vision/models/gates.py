"""Small networks that weigh a feature map by what they see in it: squeeze-and-excitation, and CBAM."""

import jax
from flax import nnx

from vision.models.convolution import Conv
from vision.models.layers import at_least_float32


class SqueezeExcite(nnx.Module):
    """Weighs the channels of x (B, H, W, C) by their means over the image. Hu et al. 2017 (arXiv:1709.01507).

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
        self.act, self.gate = act, gate

    def __call__(self, x):
        means = x.mean((1, 2), keepdims=True, dtype=at_least_float32(x.dtype)).astype(x.dtype)
        return x * self.gate(self.expand(self.act(self.reduce(means))))
