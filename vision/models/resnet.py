"""Residual networks. He et al. 2015 (arXiv:1512.03385): the CIFAR nets of section 4.2, the ImageNet
nets of table 1.

Wider bottlenecks: Wide ResNet, Zagoruyko and Komodakis 2016 (arXiv:1605.07146), section 3.5; and
ResNeXt, whose 3x3 convolutions are grouped, Xie et al. 2016 (arXiv:1611.05431), table 1. (Wide
ResNet's CIFAR nets, whose norms come first, are not here.) Each block's branch may end in a gate:
squeeze-and-excitation or CBAM, see `vision.models.layers.gates`.

The bottleneck's stride is in its 3x3 convolution ("v1.5"), where PyTorch's and NVIDIA's nets have
it. Padding is PyTorch's: half the kernel on each side, also where the stride is 2.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.convolution import ConvNorm, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.gates import CBAM, SqueezeExcite
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_options
from vision.models.weights.published import Weights

VARIANTS = {  # blocks of each stage; whether they are bottlenecks; their widening and cardinality
    **{f"cifar{6 * n + 2}": ((n, n, n), False, 1, 1) for n in (3, 5, 7, 9, 18)},
    "18": ((2, 2, 2, 2), False, 1, 1),
    "34": ((3, 4, 6, 3), False, 1, 1),
    "50": ((3, 4, 6, 3), True, 1, 1),
    "101": ((3, 4, 23, 3), True, 1, 1),
    "152": ((3, 8, 36, 3), True, 1, 1),
    "wide50_2": ((3, 4, 6, 3), True, 2, 1),
    "wide101_2": ((3, 4, 23, 3), True, 2, 1),
    # A ResNeXt's name has the groups and the channels of each in the first stage, 64 of which are a
    # widening of 1.
    "next50_32x4d": ((3, 4, 6, 3), True, 2, 32),
    "next101_32x8d": ((3, 4, 23, 3), True, 4, 32),
    "next101_64x4d": ((3, 4, 23, 3), True, 4, 64),
    "mu": ((1, 1), False, 1, 1),  # for tests
}
# of the first stage, by the variant's name without digits; 64 elsewhere
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

# Of timm's results/results-imagenet.csv. "a1" is arXiv:2110.00476's recipe; "tv" and "tv2" are
# torchvision's V1 and V2, of which V2 has one to three points more at 224 px with a crop of 0.965.
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


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=224,
    channels=3,
    gate=None,
    dropout=0.0,
    stochastic_depth=0.0,
    batch_norm_groups=1,
    zero_init_residual=None,
    remat="none",
):
    """Returns the `ResNet` of a variant: "cifar20", ..., "cifar110", or "18", ..., "next101_64x4d"
    for ImageNet.

    Args:
        image_size: any; the network pools over whatever is left of the image.
        zero_init_residual: None: True for the ImageNet nets, False for CIFAR's, as in their papers.

    For the other arguments see `ResNet`.

    Raises:
        UserError: an unknown variant, or an option's value that cannot be.
    """
    del image_size
    check_choice("model.variant", variant, tuple(VARIANTS))
    depths, bottleneck, widening, cardinality = VARIANTS[variant]
    cifar = variant.startswith("cifar")
    return ResNet(
        depths,
        WIDTHS.get(variant.rstrip("0123456789"), 64),
        num_classes,
        bottleneck=bottleneck,
        cifar=cifar,
        widening=widening,
        cardinality=cardinality,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        gate=gate,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        batch_norm_groups=batch_norm_groups,
        zero_init_residual=not cifar if zero_init_residual is None else zero_init_residual,
        remat=remat,
    )


class ResNet(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both
    float32."""

    def __init__(
        self,
        depths,
        width,
        num_classes,
        *,
        bottleneck,
        cifar,
        rngs,
        widening=1,
        cardinality=1,
        dtype=jnp.float32,
        channels=3,
        gate=None,
        dropout=0.0,
        stochastic_depth=0.0,
        batch_norm_groups=1,
        zero_init_residual=True,
        remat="none",
    ):
        """Creates the network with He's initialization.

        Args:
            depths: blocks of each stage. The first block of each stage but the first halves the
                image.
            width: channels of the first stage; each further stage has twice as many.
            num_classes: length of the logits.
            bottleneck: blocks of 1x1, 3x3 and 1x1 with 4 times the width at their ends, else of two
                3x3.
            cifar: a 3x3 stem, and shortcuts without parameters (the paper's option A). Else a 7x7
                stem with max-pooling, and 1x1 projections where the shape changes (option B).
            rngs: nnx's streams: `params`, and `dropout` where there is any.
            widening, cardinality: of bottlenecks: a factor on the inner channels, and the groups of
                their 3x3.
            dtype: of the computation, float32 or bfloat16. Parameters and statistics are float32.
            channels: of the images.
            gate: at the end of each branch: None, "se" or "cbam"; see `make_gate`.
            dropout: probability, on the embedding.
            stochastic_depth: probability of dropping the last block's branch; linear in depth
                (arXiv:1603.09382).
            batch_norm_groups: parts of the batch that have their own statistics; see
                `norms.BatchNorm`.
            zero_init_residual: start each block as its shortcut: its last scale is 0 (Goyal et al.
                2017, arXiv:1706.02677, section 5.1).
            remat: "none", "dots" or "blocks": what the backward pass computes again; see
                `layers.apply_blocks`.

        Raises:
            UserError: an option's value that cannot be.
        """
        check_options(
            dropout=dropout,
            stochastic_depth=stochastic_depth,
            batch_norm_groups=batch_norm_groups,
            remat=remat,
        )
        norm = functools.partial(BatchNorm, groups=batch_norm_groups, rngs=rngs)
        make = functools.partial(ConvNorm, norm=norm, dtype=dtype, rngs=rngs)
        self.dtype = dtype
        self.cifar = cifar
        self.remat = remat
        self.stem = make(channels, width, 3 if cifar else 7, 1 if cifar else 2, act=jax.nn.relu)
        shape = {
            "bottleneck": bottleneck,
            "widening": widening,
            "cardinality": cardinality,
            "option_a": cifar,
        }
        add_gate = functools.partial(make_gate, gate, norm=norm, dtype=dtype, rngs=rngs)
        rates = iter(linear_rates(stochastic_depth, sum(depths)))
        stages = []
        features = width
        for stage, depth in enumerate(depths):
            stages.append(nnx.List())
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 else 1
                drop = StochasticDepth(next(rates), rngs=rngs)
                block = Block(
                    features,
                    width * 2**stage,
                    stride,
                    drop,
                    make,
                    add_gate,
                    zero_init_residual,
                    **shape,
                )
                features = block.features
                stages[-1].append(block)
        self.stages = nnx.List(stages)
        self.dropout = Dropout(dropout, rngs=rngs)
        # Goyal et al. 2017, section 5.1.
        head_init = nnx.initializers.normal(0.01)
        self.head = nnx.Linear(
            features, num_classes, kernel_init=head_init, dtype=at_least_float32(dtype), rngs=rngs
        )

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def features(self, images):
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C): after max-pooling,
        and after each stage.

        Maps are (B, H / s, W / s, D) in the computation's dtype; s is 4, 4, 8, 16, 32, and of
        CIFAR's nets 1, 1, 2, 4.
        """
        x = self.stem(images.astype(self.dtype))
        maps = {"stem": x if self.cifar else max_pool(x, 3, 2, padding=1)}
        x = maps["stem"]
        for i, blocks in enumerate(self.stages):
            maps[f"stages.{i}"] = x = apply_blocks(blocks, x, self.remat)
        return maps

    def pool(self, x):
        """Returns embeddings (B, D), float32: the mean over the image of the last map (B, H, W, D),
        and dropout."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images):
        """Returns embeddings (B, D), float32: the last features' mean over the image. Images: (B,
        H, W, C)."""
        return self.pool(list(self.features(images).values())[-1])


class Block(nnx.Module):
    """A residual block on x (B, H, W, C): basic, or bottleneck; the result has `features` channels.

    Args:
        features_in: C.
        width: channels of its 3x3 convolutions, before widening.
        stride: of its first 3x3 convolution.
        drop: the branch's `StochasticDepth`.
        make: `ConvNorm` with what all of the network's have in common.
        add_gate: makes what comes last in the branch, of so many channels: a module, or None.
        bottleneck, widening, cardinality, zero_init_residual: see `ResNet`.
        option_a: shortcuts without parameters.
    """

    def __init__(
        self,
        features_in,
        width,
        stride,
        drop,
        make,
        add_gate,
        zero_init_residual,
        *,
        bottleneck,
        widening,
        cardinality,
        option_a,
    ):
        self.features = 4 * width if bottleneck else width
        inner = widening * width
        first = functools.partial(make, act=jax.nn.relu)
        last = functools.partial(make, zero_scale=zero_init_residual)
        if bottleneck:
            middle = (
                first(features_in, inner, 1),
                first(inner, inner, 3, stride, groups=cardinality),
            )
            layers = [*middle, last(inner, self.features, 1)]
        else:
            layers = [first(features_in, width, 3, stride), last(width, width, 3)]
        self.layers = nnx.List(layers)
        self.gate = add_gate(self.features)
        self.drop = drop
        self.stride = stride
        changes = stride != 1 or features_in != self.features
        self.projection = (
            make(features_in, self.features, 1, stride) if changes and not option_a else None
        )

    def __call__(self, x):
        y = x
        for layer in self.layers:
            y = layer(y)
        if self.gate is not None:
            y = self.gate(y)
        return jax.nn.relu(self.shortcut(x, y.shape[-1]) + self.drop(y))

    def shortcut(self, x, features):
        """Returns x in the shape of the branch's result, which has `features` channels."""
        if self.projection is not None:
            return self.projection(x)
        missing = features - x.shape[-1]
        # The paper's option A: take every other pixel, and zeros for the further channels.
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, missing)))


def make_gate(name, features, *, norm, dtype, rngs):
    """Returns a gate of so many channels, whose inner width is a sixteenth of them, or None.

    Args:
        name: None; "se", squeeze-and-excitation, with the width rounded to a multiple of 8 as timm
            has it; or "cbam".
        features: channels.
        norm: makes CBAM's norm.
        dtype: of the computation.
        rngs: nnx's streams: `params`.

    Raises:
        UserError: another name.
    """
    if name is None:
        return None
    check_choice("model.gate", name, GATES)
    if name == "se":
        return SqueezeExcite(
            features, max(8, (features // 16 + 4) // 8 * 8), dtype=dtype, rngs=rngs
        )
    return CBAM(features, max(1, features // 16), norm=norm, dtype=dtype, rngs=rngs)
