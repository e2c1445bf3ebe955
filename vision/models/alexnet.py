"""AlexNet, in the form of "one weird trick": one tower, no local response normalization.

Krizhevsky, Sutskever and Hinton 2012 ("ImageNet Classification with Deep Convolutional Neural
Networks", NeurIPS); Krizhevsky 2014 ("One weird trick for parallelizing convolutional neural
networks", arXiv:1404.5997). The widths, and dropout before the two hidden dense layers, are
torchvision's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout
from vision.models.layers.convolution import Conv, adaptive_avg_pool, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.options import check_image_size, check_options
from vision.models.weights.published import Weights

VARIANTS = {  # channels of the convolutions; width of the dense layers
    "owt": ((64, 192, 384, 256, 256), 4096),
    "mu": ((4, 8, 8, 8, 8), 16),  # for tests
}
GRID = 6  # side of the map that the dense layers see
SMALLEST = 63  # the last pooling leaves one pixel

NAMES = {
    "torchvision": (
        (r"^stem\.", "features.0."),
        *((rf"^stages\.{i}\.", f"features.{there}.") for i, there in enumerate((3, 6, 8, 10))),
        (r"^hidden\.0\.", "classifier.1."),
        (r"^hidden\.1\.", "classifier.4."),
        (r"^head\.", "classifier.6."),
    )
}
# torchvision's own accuracy
WEIGHTS = {"alexnet-owt-7be5be79.pth": Weights("owt", 56.522, interpolation="bilinear")}


def build(variant: str, num_classes: int, *, image_size: int = 224, **options: Any) -> "AlexNet":
    """Builds the `AlexNet` of a variant: "owt", the net of "one weird trick".

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: 63 px or more; the dense layers see the last map averaged over 6 x 6 cells,
            which at 224 px is the map itself.
        options: those of `AlexNet`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    check_image_size("alexnet", image_size, SMALLEST)
    return AlexNet(*VARIANTS[variant], num_classes, **options)


class AlexNet(nnx.Module):
    """Normalized images (B, H, W, C) -> embeddings (B, hidden) -> logits (B, num_classes).

    Embeddings and logits are float32.

    Args:
        widths: channels of the five convolutions.
        hidden: width of the two dense layers before the head.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters are float32.
        channels: image channels.
        dropout: probability, on the input of each hidden dense layer.

    The initialization is that of the 2012 paper, section 5: normal with deviation 0.01; biases are
    1 in the second, fourth and fifth convolution and the hidden dense layers, 0 elsewhere.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        widths: Sequence[int],
        hidden: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.5,
    ):
        check_options(dropout=dropout)
        normal = nnx.initializers.normal(0.01)
        ones = nnx.initializers.ones_init()
        conv = functools.partial(Conv, bias=True, kernel_init=normal, dtype=dtype, rngs=rngs)
        dense = functools.partial(nnx.Linear, kernel_init=normal, rngs=rngs)
        self.dtype = dtype
        self.stem = conv(channels, widths[0], 11, 4, padding=((2, 2), (2, 2)))
        sizes = zip(widths[:-1], widths[1:], (5, 3, 3, 3), strict=True)
        self.stages = nnx.List([conv(*size) for size in sizes])
        for i in (0, 2, 3):
            bias = self.stages[i].bias
            assert bias is not None
            bias[...] = jnp.ones(widths[i + 1])
        inputs = GRID * GRID * widths[-1]
        self.hidden = nnx.List(
            [dense(n, hidden, bias_init=ones, dtype=dtype) for n in (inputs, hidden)]
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = dense(hidden, num_classes, dtype=at_least_float32(dtype))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...}, one per convolution, of images (B, H, W, C).

        The maps (B, H, W, C) are those that the next layer sees: the first two and the last are
        max-pooled.
        """
        x = max_pool(jax.nn.relu(self.stem(images.astype(self.dtype))), 3, 2)
        maps = {"stem": x}
        for i, conv in enumerate(self.stages):
            x = jax.nn.relu(conv(x))
            if i in (0, 3):
                x = max_pool(x, 3, 2)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, hidden), float32: the dense layers' output for the last map."""
        # Channels first, as in the published kernels.
        x = adaptive_avg_pool(x, GRID).transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for dense in self.hidden:
            x = jax.nn.relu(dense(self.dropout(x)))
        return x.astype(at_least_float32(self.dtype))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, hidden), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))
