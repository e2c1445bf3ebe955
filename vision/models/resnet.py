"""Residual networks. He et al. 2015 (arXiv:1512.03385): the CIFAR nets of section 4.2, the ImageNet nets of table 1.

The bottleneck's stride is in its 3x3 convolution ("v1.5"), where PyTorch's and NVIDIA's nets have it. Padding is
PyTorch's: half the kernel on each side, also where the stride is 2.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.convolution import convolve
from vision.models.layers import (
    REMATS,
    BatchNorm,
    Dropout,
    StochasticDepth,
    apply_blocks,
    at_least_float32,
    check_rates,
    linear_rates,
)

VARIANTS = {  # blocks of each stage, and whether they are bottlenecks
    **{f"cifar{6 * n + 2}": ((n, n, n), False) for n in (3, 5, 7, 9, 18)},
    "18": ((2, 2, 2, 2), False),
    "34": ((3, 4, 6, 3), False),
    "50": ((3, 4, 6, 3), True),
    "101": ((3, 4, 23, 3), True),
    "152": ((3, 8, 36, 3), True),
}


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=224,
    channels=3,
    dropout=0.0,
    stochastic_depth=0.0,
    batch_norm_groups=1,
    zero_init_residual=None,
    remat="none",
):
    """Returns the `ResNet` of a variant: "cifar20", ..., "cifar110", or "18", ..., "152" for ImageNet.

    Args:
        image_size: any; the network pools over whatever is left of the image.
        zero_init_residual: None: True for the ImageNet nets, False for CIFAR's, as in their papers.

    For the other arguments see `ResNet`.

    Raises:
        UserError: an unknown variant, or an option's value that cannot be.
    """
    del image_size
    check_choice("model.variant", variant, tuple(VARIANTS))
    depths, bottleneck = VARIANTS[variant]
    cifar = variant.startswith("cifar")
    return ResNet(
        depths,
        16 if cifar else 64,
        num_classes,
        bottleneck=bottleneck,
        cifar=cifar,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        batch_norm_groups=batch_norm_groups,
        zero_init_residual=not cifar if zero_init_residual is None else zero_init_residual,
        remat=remat,
    )


class ResNet(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both float32."""

    def __init__(
        self,
        depths,
        width,
        num_classes,
        *,
        bottleneck,
        cifar,
        rngs,
        dtype=jnp.float32,
        channels=3,
        dropout=0.0,
        stochastic_depth=0.0,
        batch_norm_groups=1,
        zero_init_residual=True,
        remat="none",
    ):
        """Creates the network with He's initialization.

        Args:
            depths: blocks of each stage. The first block of each stage but the first halves the image.
            width: channels of the first stage; each further stage has twice as many.
            num_classes: length of the logits.
            bottleneck: blocks of 1x1, 3x3 and 1x1 with 4 times the width at their ends, else of two 3x3.
            cifar: a 3x3 stem, and shortcuts without parameters (the paper's option A). Else a 7x7 stem with
                max-pooling, and 1x1 projections where the shape changes (option B).
            rngs: nnx's streams: `params`, and `dropout` where there is any.
            dtype: of the computation, float32 or bfloat16. Parameters and statistics are float32.
            channels: of the images.
            dropout: probability, on the embedding.
            stochastic_depth: probability of dropping the last block's branch; linear in depth (arXiv:1603.09382).
            batch_norm_groups: parts of the batch that have their own statistics; see `layers.BatchNorm`.
            zero_init_residual: start each block as its shortcut: its last scale is 0 (Goyal et al. 2017,
                arXiv:1706.02677, section 5.1).
            remat: "none", "dots" or "blocks": what the backward pass computes again; see `layers.apply_blocks`.

        Raises:
            UserError: an option's value that cannot be.
        """
        check_rates(**{"model.dropout": dropout, "model.stochastic_depth": stochastic_depth})
        check_choice("model.remat", remat, REMATS)
        if batch_norm_groups < 1:
            raise UserError(f"model.batch_norm_groups = {batch_norm_groups}: it is at least 1, the whole batch")
        make = functools.partial(ConvNorm, groups=batch_norm_groups, dtype=dtype, rngs=rngs)
        self.dtype, self.cifar, self.remat = dtype, cifar, remat
        self.stem = make(channels, width, 3) if cifar else make(channels, width, 7, stride=2)
        rates = iter(linear_rates(stochastic_depth, sum(depths)))
        blocks, features = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 else 1
                drop = StochasticDepth(next(rates), rngs=rngs)
                block = Block(features, width * 2**stage, stride, bottleneck, cifar, zero_init_residual, drop, make)
                features = block.features
                blocks.append(block)
        self.blocks = nnx.List(blocks)
        self.dropout = Dropout(dropout, rngs=rngs)
        # Goyal et al. 2017, section 5.1.
        head_init = nnx.initializers.normal(0.01)
        self.head = nnx.Linear(features, num_classes, kernel_init=head_init, dtype=at_least_float32(dtype), rngs=rngs)

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images):
        """Returns embeddings (B, D), float32: the last features' mean over the image. Images: (B, H, W, C)."""
        x = jax.nn.relu(self.stem(images.astype(self.dtype)))
        if not self.cifar:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x = apply_blocks(self.blocks, x, self.remat)
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))


class Block(nnx.Module):
    """A residual block on x (B, H, W, C): basic, or bottleneck; the result has `features` channels.

    Args:
        features_in: C.
        width: channels of its 3x3 convolutions.
        stride: of its first 3x3 convolution.
        bottleneck, cifar, zero_init_residual: see `ResNet`.
        drop: the branch's `StochasticDepth`.
        make: `ConvNorm` with what all of the network's have in common.
    """

    def __init__(self, features_in, width, stride, bottleneck, cifar, zero_init_residual, drop, make):
        self.features = 4 * width if bottleneck else width
        last = functools.partial(make, zero_scale=zero_init_residual)
        if bottleneck:
            layers = [make(features_in, width, 1), make(width, width, 3, stride), last(width, self.features, 1)]
        else:
            layers = [make(features_in, width, 3, stride), last(width, width, 3)]
        self.layers = nnx.List(layers)
        self.drop = drop
        self.stride = stride
        changes = stride != 1 or features_in != self.features
        self.projection = make(features_in, self.features, 1, stride) if changes and not cifar else None

    def __call__(self, x):
        y = x
        for layer in self.layers[:-1]:
            y = jax.nn.relu(layer(y))
        return jax.nn.relu(self.shortcut(x) + self.drop(self.layers[-1](y)))

    def shortcut(self, x):
        """Returns x in the shape of the branch's result."""
        if self.projection is not None:
            return self.projection(x)
        missing = self.features - x.shape[-1]
        # The paper's option A: take every other pixel, and zeros for the further channels.
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, missing)))


class ConvNorm(nnx.Module):
    """Convolution without bias, then `BatchNorm`: (B, H, W, C) -> (B, H / stride, W / stride, features)."""

    def __init__(self, features_in, features, kernel, stride=1, *, zero_scale=False, groups, dtype, rngs):
        self.conv = nnx.Conv(
            features_in,
            features,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=dtype,
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.norm = BatchNorm(features, groups=groups, zero_scale=zero_scale, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x))
