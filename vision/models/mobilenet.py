"""MobileNetV3. Howard et al. 2019 (arXiv:1905.02244), tables 1 (large) and 2 (small)."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.gates import SqueezeExcite
from vision.models.layers.inverted_residual import (
    TENSORFLOW,
    TIMM,
    TORCHVISION,
    InvertedResidual,
    conv_norms,
    name_layers,
    nest,
    round_width,
)
from vision.models.layers.options import check_options
from vision.models.weights.published import INCEPTION_MEAN, INCEPTION_STD, Weights


class Row(NamedTuple):
    """A block, as in the paper's tables: bneck `kernel`; exp size; #out; SE; NL, HS or RE; s."""

    kernel: int
    expanded: int
    features: int
    squeezes: bool
    act: str
    stride: int


# The blocks of each stage; the channels of the last two convolutions. The stem has as many channels
# as the first block's result.
VARIANTS = {
    "large": (
        (
            (Row(3, 16, 16, False, "RE", 1),),
            (Row(3, 64, 24, False, "RE", 2), Row(3, 72, 24, False, "RE", 1)),
            (
                Row(5, 72, 40, True, "RE", 2),
                Row(5, 120, 40, True, "RE", 1),
                Row(5, 120, 40, True, "RE", 1),
            ),
            (
                Row(3, 240, 80, False, "HS", 2),
                Row(3, 200, 80, False, "HS", 1),
                Row(3, 184, 80, False, "HS", 1),
                Row(3, 184, 80, False, "HS", 1),
            ),
            (Row(3, 480, 112, True, "HS", 1), Row(3, 672, 112, True, "HS", 1)),
            (
                Row(5, 672, 160, True, "HS", 2),
                Row(5, 960, 160, True, "HS", 1),
                Row(5, 960, 160, True, "HS", 1),
            ),
        ),
        960,
        1280,
    ),
    "small": (
        (
            (Row(3, 16, 16, True, "RE", 2),),
            (Row(3, 72, 24, False, "RE", 2), Row(3, 88, 24, False, "RE", 1)),
            (
                Row(5, 96, 40, True, "HS", 2),
                Row(5, 240, 40, True, "HS", 1),
                Row(5, 240, 40, True, "HS", 1),
            ),
            (Row(5, 120, 48, True, "HS", 1), Row(5, 144, 48, True, "HS", 1)),
            (
                Row(5, 288, 96, True, "HS", 2),
                Row(5, 576, 96, True, "HS", 1),
                Row(5, 576, 96, True, "HS", 1),
            ),
        ),
        576,
        1024,
    ),
    "mu": (
        (
            (Row(5, 8, 8, True, "RE", 1),),
            (Row(3, 24, 16, False, "RE", 2), Row(3, 32, 16, True, "HS", 1)),
        ),
        96,
        32,
    ),
}
ACTIVATIONS = {"RE": jax.nn.relu, "HS": jax.nn.hard_swish}
# Table 3.
PAPER_TOP1 = {"large": 75.2, "small": 67.4}


def build(variant: str, num_classes: int, **options: Any) -> "MobileNetV3":
    """Builds the `MobileNetV3` of a variant, "large" or "small".

    Images may have any size. Weights trained in TensorFlow (timm's tf_*) need padding "same" and
    norm_epsilon 1e-3; torchvision's need norm_epsilon 1e-3.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        options: those of `MobileNetV3`.

    Raises:
        UserError: an unknown variant, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    return MobileNetV3(*VARIANTS[variant], num_classes, **options)


class MobileNetV3(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, width) -> logits (B, num_classes), float32.

    Args:
        stages: `Row`s of each stage.
        last: channels of the convolution before the pooling, which is the last of `stages`.
        width: width of the layer after the pooling.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype up to the pooling, float32 or bfloat16. Parameters and statistics are
            float32.
        channels: image channels.
        dropout: probability, on the embedding (the paper's section 6.1.1).
        stochastic_depth: probability of dropping the last block's branch; linear in depth
            (arXiv:1603.09382).
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        padding, norm_epsilon: see `layers.inverted_residual.conv_norms`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    The paper does not give the initialization; it is torchvision's: convolutions as in He et al.,
    dense layers normal with deviation 0.01.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Row]],
        last: int,
        width: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
        batch_norm_groups: int = 1,
        padding: str = "symmetric",
        norm_epsilon: float = 1e-5,
        remat: str = "none",
    ):
        check_options(
            dropout=dropout,
            stochastic_depth=stochastic_depth,
            batch_norm_groups=batch_norm_groups,
            remat=remat,
        )
        make = conv_norms(
            padding=padding,
            norm_epsilon=norm_epsilon,
            batch_norm_groups=batch_norm_groups,
            dtype=dtype,
            rngs=rngs,
        )
        squeeze = functools.partial(SqueezeExcite, gate=jax.nn.hard_sigmoid, dtype=dtype, rngs=rngs)
        dense = functools.partial(
            nnx.Linear,
            kernel_init=nnx.initializers.normal(0.01),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )
        self.dtype = dtype
        self.remat = remat
        features = stages[0][0].features
        self.stem = make(channels, features, 3, 2, act=jax.nn.hard_swish)
        rates = iter(linear_rates(stochastic_depth, sum(map(len, stages))))
        self.stages: nnx.List[nnx.List[nnx.Module]] = nnx.List()
        for rows in stages:
            blocks: nnx.List[nnx.Module] = nnx.List()
            for row in rows:
                squeezed = round_width(row.expanded / 4)
                block = InvertedResidual(
                    features,
                    row.features,
                    row.kernel,
                    row.stride,
                    expanded=row.expanded,
                    squeeze=squeeze(row.expanded, squeezed) if row.squeezes else None,
                    act=ACTIVATIONS[row.act],
                    drop=StochasticDepth(next(rates), rngs=rngs),
                    make=make,
                )
                blocks.append(block)
                features = row.features
            self.stages.append(blocks)
        self.stages.append(nnx.List([make(features, last, 1, act=jax.nn.hard_swish)]))
        self.widen = dense(last, width)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = dense(width, num_classes)

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C)."""
        x = self.stem(images.astype(self.dtype))
        maps = {"stem": x}
        for i, blocks in enumerate(self.stages):
            x = apply_blocks(blocks, x, self.remat)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, width), float32: the last map's mean through one more layer.

        The layer replaces the last convolution: after the pooling it costs less (the paper's
        section 5.1).
        """
        means = x.mean((1, 2), dtype=at_least_float32(self.dtype))
        return self.dropout(jax.nn.hard_swish(self.widen(means)))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, width), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))


def _from_torchvision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names the layers that torchvision numbers, and splits its one list of blocks into stages."""
    return nest(name_layers(arrays), "stages", "project.0.weight")


def _to_timm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns the layer after the pooling into timm's 1x1 convolution."""
    name = "conv_head.weight"
    return arrays | {name: arrays[name][:, :, None, None]}


NAMES = {
    "timm": ((r"^stages\.(\d+)\.0\.norm", r"blocks.\1.0.bn1"), (r"^widen\.", "conv_head."), *TIMM),
    "torchvision": (
        (r"^stages\.\d+\.0\.(conv|norm)\.", r"last.\1."),
        *TORCHVISION,
        (r"^widen\.", "classifier.0."),
        (r"^head\.", "classifier.3."),
    ),
}
REWRITE = {"torchvision": _from_torchvision}
TO_TIMM = _to_timm

_bilinear = functools.partial(Weights, interpolation="bilinear")
_inception = functools.partial(Weights, mean=INCEPTION_MEAN, std=INCEPTION_STD)
_tensorflow = functools.partial(_inception, interpolation="bilinear", options=TENSORFLOW)
_torchvision = functools.partial(_bilinear, options={"norm_epsilon": 1e-3})
WEIGHTS = {  # accuracies: timm's results-imagenet.csv, torchvision's own
    "hf:timm/mobilenetv3_large_100.ra_in1k": Weights("large", 75.784),
    "hf:timm/mobilenetv3_large_100.miil_in21k_ft_in1k": _bilinear(
        "large", 77.920, mean=(0.0,) * 3, std=(1.0,) * 3
    ),
    "hf:timm/mobilenetv3_large_100.ra4_e3600_r224_in1k": _inception("large", 76.310, crop=0.95),
    "hf:timm/mobilenetv3_small_100.lamb_in1k": Weights("small", 67.636),
    "hf:timm/tf_mobilenetv3_large_100.in1k": _tensorflow("large", 75.510),
    "hf:timm/tf_mobilenetv3_small_100.in1k": _tensorflow("small", 67.922),
    "mobilenet_v3_large-8738ca79.pth": _torchvision("large", 74.042),
    "mobilenet_v3_large-5c1a4163.pth": _torchvision("large", 75.274, crop=224 / 232),
    "mobilenet_v3_small-047dcff4.pth": _torchvision("small", 67.668),
}
