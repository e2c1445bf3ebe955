"""EfficientNet. Tan and Le 2019 (arXiv:1905.11946): B0 of table 1, scaled up to B1, ..., B7.

The coefficients of B1 to B7, and whatever the paper leaves open, are those of the authors' code
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
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


class Stage(NamedTuple):
    """Blocks of one width; the first has the stride, and the previous stage's channels as input."""

    depth: int
    kernel: int
    stride: int
    expansion: int
    features: int


STAGES = (  # table 1
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
IMAGENET = 1000  # classes
TINY = (Stage(1, 5, 1, 1, 8), Stage(2, 3, 2, 4, 16))


class Scale(NamedTuple):
    """A variant: factors on a baseline's width and depth, image size, dropout; and the baseline."""

    width: float
    depth: float
    size: int
    dropout: float
    stem: int = 32
    stages: tuple[Stage, ...] = STAGES
    last: int = 1280


VARIANTS = {
    "B0": Scale(1.0, 1.0, 224, 0.2),
    "B1": Scale(1.0, 1.1, 240, 0.2),
    "B2": Scale(1.1, 1.2, 260, 0.3),
    "B3": Scale(1.2, 1.4, 300, 0.3),
    "B4": Scale(1.4, 1.8, 380, 0.4),
    "B5": Scale(1.6, 2.2, 456, 0.4),
    "B6": Scale(1.8, 2.6, 528, 0.5),
    "B7": Scale(2.0, 3.1, 600, 0.5),
    "mu": Scale(1.0, 1.0, 32, 0.2, 8, TINY, 32),
}
SIZES = {variant: scale.size for variant, scale in VARIANTS.items()}
# Table 2.
PAPER_TOP1 = {
    "B0": 77.1,
    "B1": 79.1,
    "B2": 80.1,
    "B3": 81.6,
    "B4": 82.9,
    "B5": 83.6,
    "B6": 84.0,
    "B7": 84.3,
}


def build(variant: str, num_classes: int, **options: Any) -> "EfficientNet":
    """Builds the `EfficientNet` of a variant, "B0" to "B7".

    Images may have any size; the paper's, which grow with the variant, are in `SIZES`. Weights
    trained in TensorFlow (timm's tf_*, those of lukemelas) need padding "same" and norm_epsilon
    1e-3; torchvision's B5 to B7 need norm_epsilon 1e-3.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        options: those of `EfficientNet`; dropout is by default the variant's, from 0.2 to 0.5.

    Raises:
        UserError: an unknown variant, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    scale = VARIANTS[variant]
    stages = [
        stage._replace(
            depth=math.ceil(scale.depth * stage.depth),
            features=round_width(scale.width * stage.features),
        )
        for stage in scale.stages
    ]
    stem = round_width(scale.width * scale.stem)
    last = round_width(scale.width * scale.last)
    options = {"dropout": scale.dropout} | options
    return EfficientNet(stem, stages, last, num_classes, jax.nn.silu, True, **options)


class EfficientNet(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, last) -> logits (B, num_classes), float32.

    Args:
        stem: channels of the first convolution.
        stages: `Stage`s.
        last: channels of the last convolution.
        num_classes: length of the logits.
        act: the activation.
        squeezes: whether the blocks have a `SqueezeExcite`, with a quarter of the block's input
            channels.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        dropout: probability, on the embedding.
        stochastic_depth: probability of dropping the last block's branch; linear in depth
            (arXiv:1603.09382).
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        padding, norm_epsilon: see `layers.inverted_residual.conv_norms`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Initialized as in the authors' code: convolutions as in He et al., the head uniformly within 1 /
    sqrt(num_classes).

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[Stage],
        last: int,
        num_classes: int,
        act: Callable[[jax.Array], jax.Array],
        squeezes: bool,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
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
        squeeze = functools.partial(SqueezeExcite, act=act, dtype=dtype, rngs=rngs)
        self.dtype = dtype
        self.remat = remat
        self.stem = make(channels, stem, 3, 2, act=act)
        rates = iter(linear_rates(stochastic_depth, sum(stage.depth for stage in stages)))
        self.stages: nnx.List[nnx.List[InvertedResidual]] = nnx.List()
        width = stem
        for stage in stages:
            blocks: nnx.List[InvertedResidual] = nnx.List()
            for i in range(stage.depth):
                expanded = width * stage.expansion
                block = InvertedResidual(
                    width,
                    stage.features,
                    stage.kernel,
                    stage.stride if i == 0 else 1,
                    expanded=expanded,
                    squeeze=squeeze(expanded, max(1, width // 4)) if squeezes else None,
                    act=act,
                    drop=StochasticDepth(next(rates), rngs=rngs),
                    make=make,
                )
                blocks.append(block)
                width = stage.features
            self.stages.append(blocks)
        self.last = make(width, last, 1, act=act)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(
            last,
            num_classes,
            # TF's 1 / sqrt(classes), but as for ImageNet's 1,000 at most: the head of three classes
            # would begin with logits of a deviation of 5, which transfer hardly recovers from
            kernel_init=uniform_within(max(num_classes, IMAGENET) ** -0.5),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ..., "last": map} of images (B, H, W, C)."""
        x = self.stem(images.astype(self.dtype))
        maps = {"stem": x}
        for i, blocks in enumerate(self.stages):
            x = apply_blocks(blocks, x, self.remat)
            maps[f"stages.{i}"] = x
        return maps | {"last": self.last(x)}

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, last), float32: the last map's mean, with dropout."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, last), float32, of images (B, H, W, C)."""
        return self.pool(self.features(images)["last"])

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))


def uniform_within(limit: float) -> Initializer:
    """Returns an initializer that draws uniformly from [-limit, limit)."""

    def initialize(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return initialize


NAMES = {
    "timm": TIMM,
    "torchvision": (*TORCHVISION, (r"^head\.", "classifier.1.")),
    "lukemelas": (  # the EfficientNet-PyTorch package
        (r"^stem\.conv", "_conv_stem"),
        (r"^stem\.norm", "_bn0"),
        (r"^last\.conv", "_conv_head"),
        (r"^last\.norm", "_bn1"),
        (r"^head\.", "_fc."),
        (r"^stages\.", "_blocks."),
        (r"squeeze\.", "_se_"),
        (r"(expand|depthwise|project)\.conv", r"_\1_conv"),
        (r"expand\.norm", "_bn0"),
        (r"depthwise\.norm", "_bn1"),
        (r"project\.norm", "_bn2"),
    ),
}
REWRITE = {
    "torchvision": name_layers,
    "lukemelas": functools.partial(nest, blocks="_blocks", kernel="_project_conv.weight"),
}

_inception = functools.partial(Weights, mean=INCEPTION_MEAN, std=INCEPTION_STD)
_large = functools.partial(Weights, crop=1.0, options={"norm_epsilon": 1e-3})
WEIGHTS = {  # accuracies: timm's results-imagenet.csv, torchvision's own
    "hf:timm/efficientnet_b0.ra_in1k": Weights("B0", 77.698),
    "hf:timm/efficientnet_b0.ra4_e3600_r224_in1k": _inception("B0", 78.568, crop=0.9),
    "hf:timm/efficientnet_b1.ft_in1k": Weights("B1", 77.592),
    "hf:timm/efficientnet_b1.ra4_e3600_r240_in1k": _inception("B1", 80.404, 240, 0.9),
    "hf:timm/efficientnet_b2.ra_in1k": Weights("B2", 79.324, 256),
    "hf:timm/efficientnet_b3.ra2_in1k": Weights("B3", 81.472, 288),
    "hf:timm/efficientnet_b4.ra2_in1k": Weights("B4", 82.658, 320),
    "hf:timm/efficientnet_b5.sw_in12k_ft_in1k": Weights("B5", 85.894, 448, 1.0),
    **{
        f"hf:timm/tf_efficientnet_b{i}.{tag}": Weights(
            f"B{i}", top1, SIZES[f"B{i}"], crop, options=TENSORFLOW
        )
        for i, crop, *accuracies in (
            (0, 0.875, 76.882, 78.680),
            (1, 0.882, 78.840, 81.388),
            (2, 0.890, 80.074, 82.412),
            (3, 0.904, 81.648, 84.054),
            (4, 0.922, 83.040, 85.156),
            (5, 0.934, 83.696, 86.096),
            (6, 0.942, 84.124, 86.476),
            (7, 0.949, 84.424, 86.850),
        )
        for tag, top1 in zip(("aa_in1k", "ns_jft_in1k"), accuracies, strict=True)
    },
    "efficientnet_b0_rwightman-7f5810bc.pth": Weights("B0", 77.692),
    "efficientnet_b1_rwightman-bac287d4.pth": Weights("B1", 78.642, 240, 240 / 256),
    "efficientnet_b1-c27df63c.pth": Weights("B1", 79.838, 240, 240 / 255, "bilinear"),
    "efficientnet_b2_rwightman-c35c1473.pth": Weights("B2", 80.608, 288, 1.0),
    "efficientnet_b3_rwightman-b3899882.pth": Weights("B3", 82.008, 300, 300 / 320),
    "efficientnet_b4_rwightman-23ab8bcd.pth": Weights("B4", 83.384, 380, 380 / 384),
    "efficientnet_b5_lukemelas-1a07897c.pth": _large("B5", 83.444, size=456),
    "efficientnet_b6_lukemelas-24a108a5.pth": _large("B6", 84.008, size=528),
    "efficientnet_b7_lukemelas-c5b4e57e.pth": _large("B7", 84.122, size=600),
}
