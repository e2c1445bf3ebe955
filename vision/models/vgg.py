"""VGG. Simonyan and Zisserman 2014 (arXiv:1409.1556), table 1: configurations A, B, D and E.

"_bn" adds batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167) after each convolution, as
torchvision does.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import UserError, check_choice
from vision.models.layers.blocks import Dropout, apply_blocks
from vision.models.layers.convolution import Conv, adaptive_avg_pool, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_image_size, check_options
from vision.models.weights.published import Weights

DEPTHS = {
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
VARIANTS = {  # convolutions per stage; whether batch norms follow them
    **{name: (depths, False) for name, depths in DEPTHS.items()},
    **{f"{name}_bn": (depths, True) for name, depths in DEPTHS.items()},
    "mu": ((1, 1, 1, 1, 1), True),  # for tests
}
# channels of the stages; width of the dense layers
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096
TINY_WIDTHS = (4, 4, 8, 8, 8)
TINY_HIDDEN = 16
GRID = 7  # side of the map that the dense layers see
SMALLEST = 32  # the last pooling leaves one pixel

# No PAPER_TOP1: the paper evaluates densely over larger images (table 3) or averages crops (table
# 5).


def build(variant: str, num_classes: int, *, image_size: int = 224, **options: Any) -> "VGG":
    """Builds the `VGG` of a variant: "11" to "19", or "11_bn" to "19_bn" with batch normalization.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: 32 px or more; the dense layers see the last map averaged over 7 x 7 cells,
            which at 224 px is the map itself.
        options: those of `VGG`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    check_image_size("vgg", image_size, SMALLEST)
    depths, normalized = VARIANTS[variant]
    widths, hidden = (TINY_WIDTHS, TINY_HIDDEN) if variant == "mu" else (WIDTHS, HIDDEN)
    if options.get("batch_norm_groups", 1) != 1 and not normalized:
        raise UserError(
            f"vgg {variant} has no batch norm for model.batch_norm_groups: "
            f"choose variant {variant}_bn"
        )
    return VGG(depths, widths, hidden, num_classes, normalized, **options)


class VGG(nnx.Module):
    """Normalized images (B, H, W, C) -> embeddings (B, hidden) -> logits (B, num_classes).

    Embeddings and logits are float32.

    Args:
        depths: convolutions of each stage, which ends with max-pooling.
        widths: channels of each stage.
        hidden: width of the two dense layers before the head.
        num_classes: length of the logits.
        normalized: batch normalization after each convolution.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        dropout: probability, after each of the hidden dense layers (the paper's section 3.1).
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    The paper starts its deep nets from a trained net A (section 3.1). Here, as in torchvision,
    convolutions are initialized as in He et al. 2015 (arXiv:1502.01852) instead, dense layers
    normal with deviation 0.01, and biases are 0.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        hidden: int,
        num_classes: int,
        normalized: bool,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.5,
        batch_norm_groups: int = 1,
        remat: str = "none",
    ):
        check_options(dropout=dropout, batch_norm_groups=batch_norm_groups, remat=remat)
        self.dtype = dtype
        self.remat = remat
        self.stages: nnx.List[nnx.List[Layer]] = nnx.List()
        features = channels
        for depth, width in zip(depths, widths, strict=True):
            layers: nnx.List[Layer] = nnx.List()
            for _ in range(depth):
                norm = BatchNorm(width, groups=batch_norm_groups, rngs=rngs) if normalized else None
                layers.append(Layer(features, width, norm, dtype=dtype, rngs=rngs))
                features = width
            self.stages.append(layers)
        dense = functools.partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
        self.hidden = nnx.List(
            [dense(inputs, hidden, dtype=dtype) for inputs in (GRID * GRID * features, hidden)]
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = dense(hidden, num_classes, dtype=at_least_float32(dtype))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stages.0": map, ...} of images (B, H, W, C): (B, H / 2, W / 2, D), ..."""
        x = images.astype(self.dtype)
        maps = {}
        for i, layers in enumerate(self.stages):
            x = max_pool(apply_blocks(layers, x, self.remat), 2, 2)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, hidden), float32: the dense layers' output for the last map."""
        # Channels first, as in the published kernels.
        x = adaptive_avg_pool(x, GRID).transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for dense in self.hidden:
            x = self.dropout(jax.nn.relu(dense(x)))
        return x.astype(at_least_float32(self.dtype))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, hidden), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))


class Layer(nnx.Module):
    """A 3x3 convolution, `norm` unless it is None, ReLU: (B, H, W, C) -> (B, H, W, features).

    The convolution has a bias also before a norm, as in the published weights.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        norm: nnx.Module | None,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(features_in, features, 3, bias=True, dtype=dtype, rngs=rngs)
        self.norm = norm

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return jax.nn.relu(x if self.norm is None else self.norm(x))


def _from_torchvision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits torchvision's one list of layers, which counts ReLUs and poolings too, into stages.

    A stage ends where the list skips one more number.
    """
    step = 3 if "features.1.weight" in arrays else 2  # convolution, norm, ReLU
    kernels = sorted(
        int(name.split(".")[1])
        for name, array in arrays.items()
        if name.startswith("features.") and array.ndim == 4
    )
    renames = {}
    stage = 0
    layer = 0
    for number, previous in zip(kernels, [0, *kernels], strict=False):
        if number - previous > step:
            stage += 1
            layer = 0
        elif number > 0:
            layer += 1
        renames[f"features.{number}"] = f"stages.{stage}.{layer}.conv"
        renames[f"features.{number + 1}"] = f"stages.{stage}.{layer}.norm"
    return {
        re.sub(r"^features\.\d+", lambda match: renames.get(match[0], match[0]), name): array
        for name, array in arrays.items()
    }


def _from_timm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Also turns the first dense layer, a convolution over the 7x7 map in timm, into a matrix."""
    kernel = arrays["pre_logits.fc1.weight"]
    return _from_torchvision(arrays) | {"pre_logits.fc1.weight": kernel.reshape(len(kernel), -1)}


def _to_timm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers the layers as one list again, and turns the dense layers into convolutions."""
    step = 3 if any(".norm." in name for name in arrays) else 2
    layers = sorted(
        {tuple(map(int, name.split(".")[1:3])) for name in arrays if name.startswith("stages.")}
    )
    # a pooling between stages
    numbers = {layer: step * i + layer[0] for i, layer in enumerate(layers)}

    def rename(name):
        if not name.startswith("stages."):
            return name
        _, stage, layer, kind, variable = name.split(".", 4)
        return f"features.{numbers[int(stage), int(layer)] + (kind == 'norm')}.{variable}"

    renamed = {rename(name): array for name, array in arrays.items()}
    for name, side in (("pre_logits.fc1.weight", 7), ("pre_logits.fc2.weight", 1)):
        renamed[name] = renamed[name].reshape(len(renamed[name]), -1, side, side)
    return renamed


NAMES = {
    "timm": (
        (r"^hidden\.0\.", "pre_logits.fc1."),
        (r"^hidden\.1\.", "pre_logits.fc2."),
        (r"^head\.", "head.fc."),
    ),
    "torchvision": (
        (r"^hidden\.0\.", "classifier.0."),
        (r"^hidden\.1\.", "classifier.3."),
        (r"^head\.", "classifier.6."),
    ),
}
REWRITE = {"timm": _from_timm, "torchvision": _from_torchvision}
TO_TIMM = _to_timm

# Accuracies: timm's results-imagenet.csv; torchvision's own for torchvision's files.
_PUBLISHED = {
    "11": ("8a719046", 69.020, 69.022),
    "13": ("19584684", 69.928, 69.932),
    "16": ("397923af", 71.592, 71.592),
    "19": ("dcbb9e9d", 72.376, 72.378),
    "11_bn": ("6002323d", 70.370, 70.382),
    "13_bn": ("abd245e5", 71.586, 71.588),
    "16_bn": ("6c64b313", 73.360, 73.370),
    "19_bn": ("c79401a0", 74.218, 74.216),
}
WEIGHTS = {}
for _variant, (_hash, _torchvision, _timm) in _PUBLISHED.items():
    WEIGHTS[f"hf:timm/vgg{_variant}.tv_in1k"] = Weights(_variant, _timm, interpolation="bilinear")
    WEIGHTS[f"vgg{_variant}-{_hash}.pth"] = Weights(
        _variant, _torchvision, interpolation="bilinear"
    )
