"""A plain CNN for small images: 3x3 convolutions and max-pooling, as in VGG.

Simonyan and Zisserman 2014 (arXiv:1409.1556), section 2.1, with batch normalization (Ioffe and
Szegedy 2015, arXiv:1502.03167) and the mean over the image in place of the dense layers (Lin et al.
2013, arXiv:1312.4400, section 3.2). The widths are this project's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, apply_blocks
from vision.models.layers.convolution import ConvNorm, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_image_size, check_options

# Our own names, in the layout of PyTorch: weights of finished rows of experiments/.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {"kept": ()}

VARIANTS = {  # channels of each stage; convolutions per stage
    "small": ((32, 64, 128), 1),
    "medium": ((64, 128, 256), 2),
    "large": ((128, 256, 512), 3),
    "mu": ((4, 8, 16), 1),  # for tests
}


def build(variant: str, num_classes: int, *, image_size: int = 32, **options: Any) -> "CNN":
    """Builds the `CNN` of a variant, "small", "medium" or "large".

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: 8 px or more: each of the three stages halves the image.
        options: those of `CNN`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    widths, depth = VARIANTS[variant]
    check_image_size("cnn", image_size, 2 ** len(widths))
    return CNN(widths, depth, num_classes, **options)


class CNN(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        widths: channels of each stage; the last one's is D.
        depth: convolutions per stage.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        dropout: probability, on the embedding.
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Convolutions are initialized as in He et al. 2015 (arXiv:1502.01852), the head as in
    `vision.models.resnet`.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depth: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.0,
        batch_norm_groups: int = 1,
        remat: str = "none",
    ):
        check_options(dropout=dropout, batch_norm_groups=batch_norm_groups, remat=remat)
        norm = functools.partial(BatchNorm, groups=batch_norm_groups, rngs=rngs)
        self.dtype = dtype
        self.remat = remat
        self.stages: nnx.List[nnx.List[ConvNorm]] = nnx.List()
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

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stages.0": map, ...} of images (B, H, W, C): (B, H / 2, W / 2, D), ..."""
        x = images.astype(self.dtype)
        maps = {}
        for i, layers in enumerate(self.stages):
            x = max_pool(apply_blocks(layers, x, self.remat), 2, 2)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32: the last map's mean over the image, with dropout."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))
