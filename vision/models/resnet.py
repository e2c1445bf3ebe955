"""Residual networks. He et al. 2015 (arXiv:1512.03385), section 4.2 (CIFAR), table 1 (ImageNet).

Wider bottlenecks: Wide ResNet, Zagoruyko and Komodakis 2016 (arXiv:1605.07146), section 3.5; and
ResNeXt, whose 3x3 convolutions are grouped, Xie et al. 2016 (arXiv:1611.05431), table 1. (Wide
ResNet's CIFAR nets, whose norms come first, are in `vision.models.wide_resnet`.) Each block's
branch may end in a gate: squeeze-and-excitation or CBAM, see `vision.models.layers.gates`.

"18_cifar" and the like are the ImageNet nets with a stem for small images, on which papers about
learning without labels measure: SimCLR, Chen et al. 2020 (arXiv:2002.05709), appendix B.9.

The bottleneck's stride is in its 3x3 convolution ("v1.5"), as in PyTorch's and NVIDIA's nets.
Padding is PyTorch's: half the kernel on each side, also where the stride is 2.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.convolution import ConvNorm, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.gates import CBAM, SqueezeExcite
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_options
from vision.models.weights.published import Weights
from vision.models.weights.transformers import from_resnet

VARIANTS = {  # blocks of each stage; whether they are bottlenecks; their widening and cardinality
    **{f"cifar{6 * n + 2}": ((n, n, n), False, 1, 1) for n in (3, 5, 7, 9, 18)},
    "18": ((2, 2, 2, 2), False, 1, 1),
    "34": ((3, 4, 6, 3), False, 1, 1),
    "50": ((3, 4, 6, 3), True, 1, 1),
    "101": ((3, 4, 23, 3), True, 1, 1),
    "152": ((3, 8, 36, 3), True, 1, 1),
    "wide50_2": ((3, 4, 6, 3), True, 2, 1),
    "wide101_2": ((3, 4, 23, 3), True, 2, 1),
    # A ResNeXt's name has the number of groups and the channels of each in the first stage; 64
    # channels in all are a widening of 1.
    "next50_32x4d": ((3, 4, 6, 3), True, 2, 32),
    "next101_32x8d": ((3, 4, 23, 3), True, 4, 32),
    "next101_64x4d": ((3, 4, 23, 3), True, 4, 64),
    "mu": ((1, 1), False, 1, 1),  # for tests
}
VARIANTS |= {f"{name}_cifar": VARIANTS[name] for name in ("18", "34", "50")}
# width of the first stage, by the variant's name without digits; 64 for all others
WIDTHS = {"cifar": 16, "mu": 8}
GATES = ("se", "cbam")

# ImageNet, one crop of 224 px. Goyal et al. 2017 (arXiv:1706.02677), table 1; Xie et al. 2016,
# tables 3 and 4; Zagoruyko and Komodakis 2016, table 8.
PAPER_TOP1 = {
    "50": 76.4,
    "101": 78.0,
    "wide50_2": 78.1,
    "next50_32x4d": 77.8,
    "next101_64x4d": 79.6,
}

NAMES = {
    "timm": (
        (r"^stem\.conv", "conv1"),
        (r"^stem\.norm", "bn1"),
        *((rf"^stages\.{i}\.", f"layer{i + 1}.") for i in range(4)),
        *((rf"layers\.{i}\.conv", f"conv{i + 1}") for i in range(3)),
        *((rf"layers\.{i}\.norm", f"bn{i + 1}") for i in range(3)),
        (r"gate\.", "se."),
        (r"reduce\.", "fc1."),
        (r"expand\.", "fc2."),
        (r"spatial\.conv\.norm", "spatial.conv.bn"),
        (r"projection\.conv", "downsample.0"),
        (r"projection\.norm", "downsample.1"),
        (r"^head", "fc"),
    )
}
NAMES["transformers"] = NAMES["timm"]
REWRITE = {"transformers": from_resnet}

# From timm's results/results-imagenet.csv. "a1" is the recipe of arXiv:2110.00476; "tv" and "tv2"
# are torchvision's V1 and V2. V2 gains one to three points at 224 px with a crop of 0.965.
_a1 = functools.partial(Weights, crop=0.95)
_tv = functools.partial(Weights, interpolation="bilinear")
_tv2 = functools.partial(_tv, size=176)
_SE = {"gate": "se"}
WEIGHTS = {
    "hf:timm/resnet18.a1_in1k": _a1("18", 71.504),
    "hf:timm/resnet18.tv_in1k": _tv("18", 69.752),
    "hf:timm/resnet34.a1_in1k": _a1("34", 76.420),
    "hf:timm/resnet34.tv_in1k": _tv("34", 73.298),
    "hf:timm/resnet50.a1_in1k": _a1("50", 80.382),
    "hf:timm/resnet50.tv_in1k": _tv("50", 76.156),
    "hf:timm/resnet50.tv2_in1k": _tv2("50", 79.434),
    "hf:timm/resnet101.a1_in1k": _a1("101", 81.494),
    "hf:timm/resnet101.tv_in1k": _tv("101", 77.404),
    "hf:timm/resnet101.tv2_in1k": _tv2("101", 79.908),
    "hf:timm/resnet152.a1_in1k": _a1("152", 81.998),
    "hf:timm/resnet152.tv_in1k": _tv("152", 78.330),
    "hf:timm/resnet152.tv2_in1k": _tv2("152", 80.222),
    "hf:timm/wide_resnet50_2.racm_in1k": Weights("wide50_2", 81.466),
    "hf:timm/wide_resnet50_2.tv_in1k": _tv("wide50_2", 78.486),
    "hf:timm/wide_resnet50_2.tv2_in1k": _tv2("wide50_2", 80.442),
    "hf:timm/wide_resnet101_2.tv_in1k": _tv("wide101_2", 78.862),
    "hf:timm/wide_resnet101_2.tv2_in1k": _tv2("wide101_2", 80.494),
    "hf:timm/resnext50_32x4d.a1h_in1k": _a1("next50_32x4d", 81.140),
    "hf:timm/resnext50_32x4d.tv_in1k": _tv("next50_32x4d", 77.632),
    "hf:timm/resnext50_32x4d.tv2_in1k": _tv2("next50_32x4d", 79.384),
    "hf:timm/resnext101_32x8d.tv_in1k": _tv("next101_32x8d", 79.308),
    "hf:timm/resnext101_32x8d.tv2_in1k": _tv2("next101_32x8d", 81.990),
    "hf:timm/resnext101_64x4d.c1_in1k": _a1("next101_64x4d", 82.446),
    "hf:timm/resnext101_64x4d.tv_in1k": _tv("next101_64x4d", 82.978),
    "hf:timm/seresnet50.a1_in1k": _a1("50", 80.012, options=_SE),
    "hf:timm/seresnet50.ra2_in1k": Weights("50", 80.260, options=_SE),
    "hf:timm/seresnext50_32x4d.racm_in1k": Weights("next50_32x4d", 81.268, options=_SE),
}


def build(variant: str, num_classes: int, **options: Any) -> "ResNet":
    """Builds the `ResNet` of a variant: "cifar20", ..., "18", ..., "next101_64x4d".

    Images may have any size. Variants with "cifar" in their names have the stem for small images.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        options: those of `ResNet`; zero_init_residual is by default False for He et al.'s CIFAR
            nets and True for the others, "18_cifar" among them, as in their papers' code.

    Raises:
        UserError: an unknown variant, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    depths, bottleneck, widening, cardinality = VARIANTS[variant]
    width = WIDTHS.get(variant.rstrip("0123456789"), 64)
    cifar = "cifar" in variant
    option_a = variant.startswith("cifar")
    options = {"zero_init_residual": not option_a} | options
    layout = (bottleneck, cifar, option_a, widening, cardinality)
    return ResNet(depths, width, num_classes, *layout, **options)


class ResNet(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        depths: blocks of each stage. The first block of each stage but the first halves the image.
        width: channels of the first stage; each further stage has twice as many.
        num_classes: length of the logits.
        bottleneck: blocks of 1x1, 3x3 and 1x1 with 4 times the width at their ends, else of two
            3x3.
        cifar: the stem for small images, a 3x3 convolution of stride 1. Else a 7x7 convolution of
            stride 2 and max-pooling.
        option_a: shortcuts without parameters (the paper's option A). Else 1x1 projections where
            the shape changes (option B).
        widening: factor on the inner channels of bottlenecks.
        cardinality: groups of the 3x3 convolution of bottlenecks.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        gate: at the end of each branch: None, "se" or "cbam"; see `make_gate`.
        dropout: probability, on the embedding.
        stochastic_depth: probability of dropping the last block's branch; linear in depth
            (arXiv:1603.09382).
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        zero_init_residual: start each block as its shortcut: its last scale is 0 (Goyal et al.
            2017, arXiv:1706.02677, section 5.1).
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Convolutions are initialized as in He et al. 2015 (arXiv:1502.01852).

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        depths: Sequence[int],
        width: int,
        num_classes: int,
        bottleneck: bool,
        cifar: bool,
        option_a: bool = False,
        widening: int = 1,
        cardinality: int = 1,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        gate: str | None = None,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        batch_norm_groups: int = 1,
        zero_init_residual: bool = True,
        remat: str = "none",
    ):
        check_options(
            dropout=dropout,
            stochastic_depth=stochastic_depth,
            batch_norm_groups=batch_norm_groups,
            remat=remat,
        )
        norm = functools.partial(BatchNorm, groups=batch_norm_groups, rngs=rngs)
        conv_norm = functools.partial(ConvNorm, norm=norm, dtype=dtype, rngs=rngs)
        self.dtype = dtype
        self.cifar = cifar
        self.remat = remat
        kernel, stride = (3, 1) if cifar else (7, 2)
        self.stem = conv_norm(channels, width, kernel, stride, act=jax.nn.relu)
        make_block = functools.partial(
            Block,
            bottleneck=bottleneck,
            widening=widening,
            cardinality=cardinality,
            option_a=option_a,
            zero_init_residual=zero_init_residual,
            conv_norm=conv_norm,
            add_gate=functools.partial(make_gate, gate, norm=norm, dtype=dtype, rngs=rngs),
        )
        rates = iter(linear_rates(stochastic_depth, sum(depths)))
        stages: list[nnx.List[Block]] = []
        features = width
        for stage, depth in enumerate(depths):
            stages.append(nnx.List())
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 else 1
                drop = StochasticDepth(next(rates), rngs=rngs)
                block = make_block(features, width * 2**stage, stride, drop)
                features = block.features
                stages[-1].append(block)
        self.stages = nnx.List(stages)
        self.dropout = Dropout(dropout, rngs=rngs)
        # Goyal et al. 2017, section 5.1.
        head_init = nnx.initializers.normal(0.01)
        self.head = nnx.Linear(
            features, num_classes, kernel_init=head_init, dtype=at_least_float32(dtype), rngs=rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C).

        Maps are (B, H / s, W / s, D) in the compute dtype, the stem's after max-pooling; s is 4, 4,
        8, 16, 32, with the stem for small images 1, 1, 2, 4, and 8 if there is a fourth stage.
        """
        x = self.stem(images.astype(self.dtype))
        if not self.cifar:
            x = max_pool(x, 3, 2, padding=1)
        maps = {"stem": x}
        for i, blocks in enumerate(self.stages):
            x = apply_blocks(blocks, x, self.remat)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32: the last map's mean over the image, with dropout."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)


class Block(nnx.Module):
    """A residual block on x (B, H, W, C): basic, or bottleneck; the result has `features` channels.

    Args:
        features_in: C.
        width: channels of its 3x3 convolutions, before widening.
        stride: stride of its first 3x3 convolution.
        drop: the branch's `StochasticDepth`.
        conv_norm: `ConvNorm` with the arguments that all of the network's have in common.
        add_gate: makes the end of the branch for a given number of channels: a module, or None.
        bottleneck, widening, cardinality, zero_init_residual: see `ResNet`.
        option_a: shortcuts without parameters.
    """

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        drop: StochasticDepth,
        *,
        conv_norm: Callable[..., ConvNorm],
        add_gate: Callable[[int], nnx.Module | None],
        zero_init_residual: bool,
        bottleneck: bool,
        widening: int,
        cardinality: int,
        option_a: bool,
    ):
        self.features = 4 * width if bottleneck else width
        first = functools.partial(conv_norm, act=jax.nn.relu)
        last = functools.partial(conv_norm, zero_scale=zero_init_residual)
        if bottleneck:
            inner = widening * width
            layers = [
                first(features_in, inner, 1),
                first(inner, inner, 3, stride, groups=cardinality),
                last(inner, self.features, 1),
            ]
        else:
            layers = [first(features_in, width, 3, stride), last(width, width, 3)]
        self.layers = nnx.List(layers)
        self.gate = add_gate(self.features)
        self.drop = drop
        self.stride = stride
        changes_shape = stride != 1 or features_in != self.features
        self.projection = (
            conv_norm(features_in, self.features, 1, stride)
            if changes_shape and not option_a
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.layers:
            y = layer(y)
        if self.gate is not None:
            y = self.gate(y)
        return jax.nn.relu(self.shortcut(x, y.shape[-1]) + self.drop(y))

    def shortcut(self, x: jax.Array, features: int) -> jax.Array:
        """Returns x in the shape of the branch's result, which has `features` channels."""
        if self.projection is not None:
            return self.projection(x)
        missing = features - x.shape[-1]
        # The paper's option A: every other pixel, and zeros for the additional channels.
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, missing)))


def make_gate(
    name: str | None,
    features: int,
    *,
    norm: Callable[[int], nnx.Module],
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module | None:
    """Returns a gate with `features` channels and an inner width of a sixteenth of them, or None.

    Args:
        name: None; "se", squeeze-and-excitation, with the width rounded to a multiple of 8 as in
            timm; or "cbam".
        features: channels.
        norm: makes CBAM's norm.
        dtype: compute dtype.
        rngs: nnx random streams: `params`.

    Raises:
        UserError: an unknown name.
    """
    if name is None:
        return None
    check_choice("model.gate", name, GATES)
    if name == "se":
        squeezed = max(8, (features // 16 + 4) // 8 * 8)
        return SqueezeExcite(features, squeezed, dtype=dtype, rngs=rngs)
    return CBAM(features, max(1, features // 16), norm=norm, dtype=dtype, rngs=rngs)
