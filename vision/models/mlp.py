"""A multilayer perceptron on the pixels: dense layers with ReLU, without normalization.

The network of most papers on continual learning: two hidden layers of 400 units in van de Ven and
Tolias 2019 (arXiv:1904.07734), section 4.2.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import UserError
from vision.models.layers.blocks import Dropout
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.options import check_options

# Our own names, in the layout of PyTorch: weights of finished rows of experiments/.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {"kept": ()}

VARIANT = re.compile(r"([1-9]\d{0,4})x([1-9]\d?)")  # units of each hidden layer x hidden layers
VARIANTS = {"400x2": (400, 2), "mu": (8, 1)}  # such as; the last for tests


def build(variant: str, num_classes: int, *, image_size: int = 28, **options: Any) -> "MLP":
    """Builds the `MLP` of a variant, WIDTHxDEPTH, such as "400x2".

    Args:
        variant: units of each hidden layer, and number of hidden layers.
        num_classes: length of the logits.
        image_size: side of the images, pixels.
        options: those of `MLP`.

    Raises:
        UserError: the variant has another form, or an option's value is invalid.
    """
    if match := VARIANT.fullmatch(variant):
        width, depth = map(int, match.groups())
    elif variant in VARIANTS:
        width, depth = VARIANTS[variant]
    else:
        raise UserError(
            f"model.variant = '{variant}' must be WIDTHxDEPTH, such as 400x2: two hidden layers of "
            "400 units"
        )
    return MLP(width, depth, num_classes, image_size, **options)


class MLP(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        width: units of each hidden layer, D.
        depth: hidden layers.
        num_classes: length of the logits.
        image_size: H and W.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters are float32.
        channels: C.
        dropout: probability, on the embedding.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_classes: int,
        image_size: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 1,
        dropout: float = 0.0,
    ):
        check_options(dropout=dropout)
        sizes = [image_size**2 * channels] + [width] * depth
        initialize = nnx.initializers.he_normal()
        self.dtype = dtype
        self.layers = nnx.List(
            [
                nnx.Linear(before, width, kernel_init=initialize, dtype=dtype, rngs=rngs)
                for before in sizes[:-1]
            ]
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, dtype=at_least_float32(dtype), rngs=rngs)

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        x = images.reshape(images.shape[0], -1).astype(self.dtype)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.dropout(x.astype(at_least_float32(self.dtype)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))
