"""A plain CNN for small images: 3x3 convolutions and max-pooling, as in VGG.

Simonyan and Zisserman 2014 (arXiv:1409.1556), section 2.1, with batch normalization (Ioffe and
Szegedy 2015, arXiv:1502.03167) and the mean over the image in place of the dense layers (Lin et al.
2013, arXiv:1312.4400, section 3.2). The widths are this project's.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, apply_blocks
from vision.models.layers.convolution import ConvNorm, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_image_size, check_options

VARIANTS = {  # channels of each stage; convolutions a stage
    "small": ((32, 64, 128), 1),
    "medium": ((64, 128, 256), 2),
    "large": ((128, 256, 512), 3),
    "mu": ((4, 8, 16), 1),  # for tests
}


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=32,
    channels=3,
    dropout=0.0,
    batch_norm_groups=1,
    remat="none",
):
    """Returns the `CNN` of a variant, "small", "medium" or "large".

    Args:
        image_size: 8 px or more: each of the three stages halves the image.

    For the other arguments see `CNN`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value that cannot
            be.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    widths, depth = VARIANTS[variant]
    check_image_size("cnn", image_size, 2 ** len(widths))
    return CNN(
        widths,
        depth,
        num_classes,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        dropout=dropout,
        batch_norm_groups=batch_norm_groups,
        remat=remat,
    )


class CNN(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both
    float32.

    Args:
        widths: channels of each stage; D is the last one's.
        depth: convolutions a stage.
        num_classes: length of the logits.
        rngs: nnx's streams: `params`, and `dropout` where there is any.
        dtype: of the computation, float32 or bfloat16. Parameters and statistics are float32.
        channels: of the images.
        dropout: probability, on the embedding.
        batch_norm_groups: parts of the batch that have their own statistics; see
            `norms.BatchNorm`.
        remat: "none", "dots" or "blocks": what the backward pass computes again; see
            `layers.apply_blocks`.

    Convolutions start after He et al. 2015 (arXiv:1502.01852), the head as in
    `vision.models.resnet`.

    Raises:
        UserError: an option's value that cannot be.
    """

    def __init__(
        self,
        widths,
        depth,
        num_classes,
        *,
        rngs,
        dtype=jnp.float32,
        channels=3,
        dropout=0.0,
        batch_norm_groups=1,
        remat="none",
    ):
        check_options(dropout=dropout, batch_norm_groups=batch_norm_groups, remat=remat)
        norm = functools.partial(BatchNorm, groups=batch_norm_groups, rngs=rngs)
        self.dtype = dtype
        self.remat = remat
        self.stages = nnx.List()
        features = channels
        for width in widths:
            inputs = [features] + [width] * (depth - 1)
            layers = [
                ConvNorm(n, width, 3, norm=norm, act=jax.nn.relu, dtype=dtype, rngs=rngs)
                for n in inputs
            ]
            self.stages.append(nnx.List(layers))
            features = width
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(
            features,
            num_classes,
            kernel_init=nnx.initializers.normal(0.01),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def features(self, images):
        """Returns {"stages.0": ..., ...}, maps (B, H / 2, W / 2, C) and so on, of images (B, H, W,
        C)."""
        x = images.astype(self.dtype)
        maps = {}
        for i, layers in enumerate(self.stages):
            maps[f"stages.{i}"] = x = max_pool(apply_blocks(layers, x, self.remat), 2, 2)
        return maps

    def pool(self, x):
        """Returns embeddings (B, D), float32: the mean over the image of the last map (B, H, W, D),
        and dropout."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images):
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))
