"""MobileNetV3. Howard et al. 2019 (arXiv:1905.02244), tables 1 (large) and 2 (small)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

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
    """A block, as the paper's tables write it: bneck `kernel`; exp size; #out; SE; NL, HS or RE;
    s."""

    kernel: int
    expanded: int
    features: int
    squeezes: bool
    act: str
    stride: int


# the blocks, by stages; the channels of the last two convolutions. The stem has as many as block 1
# gives.
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


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=224,
    channels=3,
    dropout=0.2,
    stochastic_depth=0.0,
    batch_norm_groups=1,
    padding="symmetric",
    norm_epsilon=1e-5,
    remat="none",
):
    """Returns the `MobileNetV3` of a variant, "large" or "small".

    Args:
        image_size: any; the network pools over whatever is left of the image.

    For the other arguments see `MobileNetV3`. Weights trained in TensorFlow (timm's tf_*) go with
    padding "same" and norm_epsilon 1e-3; torchvision's with norm_epsilon 1e-3.

    Raises:
        UserError: an unknown variant, or an option's value that cannot be.
    """
    del image_size
    check_choice("model.variant", variant, tuple(VARIANTS))
    stages, last, width = VARIANTS[variant]
    return MobileNetV3(
        stages,
        last,
        width,
        num_classes,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        batch_norm_groups=batch_norm_groups,
        padding=padding,
        norm_epsilon=norm_epsilon,
        remat=remat,
    )


class MobileNetV3(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, width) -> logits (B, num_classes),
    both float32.

    Args:
        stages: tuples of `Row`s.
        last: channels of the convolution before the pooling, which is the last of `stages`.
        width: of the layer after the pooling.
        num_classes: length of the logits.
        rngs: nnx's streams: `params`, and `dropout` where there is any.
        dtype: of the computation up to the pooling, float32 or bfloat16. Parameters and statistics
            are float32.
        channels: of the images.
        dropout: probability, on the embedding (the paper's section 6.1.1).
        stochastic_depth: probability of dropping the last block's branch; linear in depth
            (arXiv:1603.09382).
        batch_norm_groups: parts of the batch that have their own statistics; see
            `norms.BatchNorm`.
        padding, norm_epsilon: see `inverted_residual.conv_norms`.
        remat: "none", "dots" or "blocks": what the backward pass computes again; see
            `layers.apply_blocks`.

    The paper is silent on the initialization, which is torchvision's: convolutions after He et al.,
    dense layers normal with deviation 0.01.

    Raises:
        UserError: an option's value that cannot be.
    """

    def __init__(
        self,
        stages,
        last,
        width,
        num_classes,
        *,
        rngs,
        dtype=jnp.float32,
        channels=3,
        dropout=0.0,
        stochastic_depth=0.0,
        batch_norm_groups=1,
        padding="symmetric",
        norm_epsilon=1e-5,
        remat="none",
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
        self.stages = nnx.List()
        for rows in stages:
            blocks = nnx.List()
            for row in rows:
                block = InvertedResidual(
                    features,
                    row.features,
                    row.kernel,
                    row.stride,
                    expanded=row.expanded,
                    squeeze=squeeze(row.expanded, round_width(row.expanded / 4))
                    if row.squeezes
                    else None,
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

    def features(self, images):
        """Returns {"stem": ..., "stages.0": ..., ...}, maps (B, H, W, C), of images (B, H, W,
        C)."""
        maps = {"stem": self.stem(images.astype(self.dtype))}
        x = maps["stem"]
        for i, blocks in enumerate(self.stages):
            x = maps[f"stages.{i}"] = apply_blocks(blocks, x, self.remat)
        return maps

    def pool(self, x):
        """Returns the embedding (B, width), float32: the last map's mean over the image, through
        one more layer.

        It has the place of the last convolution, which costs less after the pooling: the paper's
        section 5.1.
        """
        means = x.mean((1, 2), dtype=at_least_float32(self.dtype))
        return self.dropout(jax.nn.hard_swish(self.widen(means)))

    def embed(self, images):
        """Returns embeddings (B, width), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))


def _from_torchvision(arrays):
    """Its blocks are one list."""
    return nest(name_layers(arrays), "stages", "project.0.weight")


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

INCEPTION = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}
UNCHANGED = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
WEIGHTS = {  # accuracies: timm's results-imagenet.csv, torchvision's own
    "hf:timm/mobilenetv3_large_100.ra_in1k": Weights("large", 75.784),
    "hf:timm/mobilenetv3_large_100.miil_in21k_ft_in1k": Weights(
        "large", 77.920, 224, 0.875, "bilinear", **UNCHANGED
    ),
    "hf:timm/mobilenetv3_large_100.ra4_e3600_r224_in1k": Weights(
        "large", 76.310, crop=0.95, **INCEPTION
    ),
    "hf:timm/mobilenetv3_small_100.lamb_in1k": Weights("small", 67.636),
    "hf:timm/tf_mobilenetv3_large_100.in1k": Weights(
        "large", 75.510, 224, 0.875, "bilinear", options=TENSORFLOW, **INCEPTION
    ),
    "hf:timm/tf_mobilenetv3_small_100.in1k": Weights(
        "small", 67.922, 224, 0.875, "bilinear", options=TENSORFLOW, **INCEPTION
    ),
    "mobilenet_v3_large-8738ca79.pth": Weights(
        "large", 74.042, 224, 0.875, "bilinear", options={"norm_epsilon": 1e-3}
    ),
    "mobilenet_v3_large-5c1a4163.pth": Weights(
        "large", 75.274, 224, 224 / 232, "bilinear", options={"norm_epsilon": 1e-3}
    ),
    "mobilenet_v3_small-047dcff4.pth": Weights(
        "small", 67.668, 224, 0.875, "bilinear", options={"norm_epsilon": 1e-3}
    ),
}


def _to_timm(arrays):
    """timm has the layer after pooling as a 1x1 convolution."""
    return {k: v[:, :, None, None] if k == "conv_head.weight" else v for k, v in arrays.items()}


TO_TIMM = _to_timm
