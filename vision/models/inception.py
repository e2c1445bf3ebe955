"""Inception v3. Szegedy et al. 2015 (arXiv:1512.00567), table 1.

Built as TensorFlow, torchvision and timm build it. The blocks are those of figures 5 to 7 and 10;
the auxiliary head is that of figure 8.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import UserError, check_choice
from vision.models.layers.blocks import Dropout, apply_blocks
from vision.models.layers.convolution import Conv, avg_pool, max_pool
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_image_size, check_options
from vision.models.weights.published import INCEPTION_MEAN, INCEPTION_STD, Weights

WIDE = (1, 7)
TALL = (7, 1)
FORK = ((1, 3), (3, 1))  # two convolutions of the same map, side by side


# A block is {branch: its convolutions, (channels, kernel) or (channels, kernel, stride)}.


def _block_a(pooled):
    """Returns the block of figure 5."""
    return {
        "1x1": ((64, 1),),
        "5x5": ((48, 1), (64, 5)),
        "3x3dbl": ((64, 1), (96, 3), (96, 3)),
        "pool": ((pooled, 1),),
    }


def _block_c(inner):
    """Returns the block of figure 6, n = 7."""
    return {
        "1x1": ((192, 1),),
        "7x7": ((inner, 1), (inner, WIDE), (192, TALL)),
        "7x7dbl": ((inner, 1), (inner, TALL), (inner, WIDE), (inner, TALL), (192, WIDE)),
        "pool": ((192, 1),),
    }


BLOCK_B = {"3x3": ((384, 3, 2),), "3x3dbl": ((64, 1), (96, 3), (96, 3, 2))}  # figure 10
BLOCK_D = {
    "3x3": ((192, 1), (320, 3, 2)),
    "7x7x3": ((192, 1), (192, WIDE), (192, TALL), (192, 3, 2)),
}
BLOCK_E = {  # figure 7
    "1x1": ((320, 1),),
    "3x3": ((384, 1), (384, FORK)),
    "3x3dbl": ((448, 1), (384, 3), (384, FORK)),
    "pool": ((192, 1),),
}
STEM = (
    (32, 3, 2, "VALID"),
    (32, 3, 1, "VALID"),
    (64, 3, 1, None),
    (80, 1, 1, None),
    (192, 3, 1, "VALID"),
)
POOLED = (2, 4)  # the stem's convolutions with max-pooling after them
AUXILIARY = (128, 768)

VARIANTS = {  # blocks of each stage; divisor of all channels
    "v3": (
        (
            (_block_a(32), _block_a(64), _block_a(64)),
            (BLOCK_B, _block_c(128), _block_c(160), _block_c(160), _block_c(192)),
            (BLOCK_D, BLOCK_E, BLOCK_E),
        ),
        1,
    ),
    "mu": (((_block_a(32),), (BLOCK_B, _block_c(128)), (BLOCK_D, BLOCK_E)), 32),  # for tests
}
SIZES = {"v3": 299}
# the last map has one pixel; the input of the auxiliary head's last convolution has 5
SMALLEST = 75
SMALLEST_AUXILIARY = 299
PAPER_TOP1 = {"v3": 78.8}  # the abstract, and table 3: one crop of 299 px

NAMES = {
    "timm": (  # torchvision's too
        *(
            (rf"^stem\.{i}\.", f"Conv2d_{x}.")
            for i, x in enumerate(("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"))
        ),
        *(
            (rf"^stages\.{i}\.{j}\.branches\.", f"Mixed_{i + 5}{letter}.branch")
            for i, letters in enumerate(("bcd", "abcde", "abc"))
            for j, letter in enumerate(letters)
        ),
        (r"branchpool\.0\.", "branch_pool."),
        (r"branch1x1\.0\.", "branch1x1."),
        (r"Mixed_6a\.branch3x3\.0\.", "Mixed_6a.branch3x3."),
        *((rf"(branch\w+)\.{i}\.wide\.", rf"\1_{i + 1}a.") for i in (1, 2)),
        *((rf"(branch\w+)\.{i}\.tall\.", rf"\1_{i + 1}b.") for i in (1, 2)),
        *((rf"(branch\w+)\.{i}\.", rf"\1_{i + 1}.") for i in range(5)),
        (r"\.norm\.", ".bn."),
        (r"^auxiliary\.layers\.", "AuxLogits.conv"),
        (r"^auxiliary\.head", "AuxLogits.fc"),
        (r"^head", "fc"),
    )
}
IGNORED = r"^AuxLogits\."  # missing in a model without the auxiliary head
HEADS = ("head.", "auxiliary.head.")  # initialized anew for other classes

_half = functools.partial(Weights, "v3", size=299, mean=INCEPTION_MEAN, std=INCEPTION_STD)
WEIGHTS = {  # accuracies: timm's results-imagenet.csv, torchvision's own
    "hf:timm/inception_v3.tv_in1k": _half(77.434),
    "hf:timm/inception_v3.tf_in1k": _half(77.862),
    "hf:timm/inception_v3.tf_adv_in1k": _half(77.592),
    "hf:timm/inception_v3.gluon_in1k": Weights("v3", 78.806, size=299),
    # torchvision normalizes by ImageNet's mean and deviation, then turns that into 0.5 and 0.5
    # inside the model (its `transform_input`): the weights themselves take images normalized by 0.5
    # and 0.5.
    "inception_v3_google-0cc3c7bd.pth": _half(77.294, crop=299 / 342, interpolation="bilinear"),
}


def build(variant: str, num_classes: int, *, image_size: int = 299, **options: Any) -> "Inception":
    """Builds the `Inception` of a variant: "v3".

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: 75 px or more, with the auxiliary head 299 or more.
        options: those of `Inception`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    if options.get("auxiliary"):
        check_image_size("inception with its auxiliary head", image_size, SMALLEST_AUXILIARY)
    check_image_size("inception", image_size, SMALLEST)
    stages, divisor = VARIANTS[variant]
    return Inception(stages, num_classes, divisor, **options)


class Inception(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        stages: the blocks of each stage, as in `VARIANTS`.
        num_classes: length of the logits.
        divisor: divides all channels.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        auxiliary: builds the auxiliary head, for `auxiliary_logits`. Weights must then have it,
            with the same number of classes.
        dropout: probability, on the embedding.
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    The paper does not give dropout, which is torchvision's, nor the initialization and the norms'
    epsilon, which are those of its authors' TensorFlow code: kernels normal with deviation 0.1, in
    the auxiliary head 0.01 (its last convolution) and 0.001 (dense), truncated at twice the
    deviation; 1e-3.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Mapping[str, Sequence]]],
        num_classes: int,
        divisor: int = 1,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        auxiliary: bool = False,
        dropout: float = 0.5,
        batch_norm_groups: int = 1,
        remat: str = "none",
    ):
        check_options(dropout=dropout, batch_norm_groups=batch_norm_groups, remat=remat)
        norm = functools.partial(BatchNorm, groups=batch_norm_groups, epsilon=1e-3, rngs=rngs)
        make_layer = functools.partial(Layer, norm=norm, dtype=dtype, rngs=rngs)
        dense = functools.partial(nnx.Linear, dtype=at_least_float32(dtype), rngs=rngs)
        self.dtype = dtype
        self.remat = remat
        self.stem: nnx.List[Layer] = nnx.List()
        features = channels
        for stem_width, kernel, stride, padding in STEM:
            width = stem_width // divisor
            self.stem.append(make_layer(features, width, kernel, stride, padding=padding))
            features = width
        self.stages: nnx.List[nnx.List[Mixed]] = nnx.List()
        widths = []
        for blocks in stages:
            self.stages.append(nnx.List())
            for branches in blocks:
                block = Mixed(features, branches, divisor, make_layer)
                self.stages[-1].append(block)
                features = block.features
            widths.append(features)
        inner_widths = [width // divisor for width in AUXILIARY]
        self.auxiliary = (
            Auxiliary(widths[1], inner_widths, num_classes, make_layer, dense)
            if auxiliary
            else None
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = dense(features, num_classes, kernel_init=nnx.initializers.truncated_normal(0.1))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C).

        For images of 299 px their sides are 35, 35, 17 and 8 pixels.
        """
        x = images.astype(self.dtype)
        for i, layer in enumerate(self.stem):
            x = layer(x)
            x = max_pool(x, 3, 2) if i in POOLED else x
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

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def auxiliary_logits(self, features: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the auxiliary head's logits (B, num_classes), float32. Training only.

        Args:
            features: the result of `features`.

        Raises:
            UserError: the model has no auxiliary head.
        """
        if self.auxiliary is None:
            raise UserError(
                "the model has no auxiliary head: build it with the option auxiliary=True"
            )
        return self.auxiliary(features["stages.1"])


class Layer(nnx.Module):
    """Convolution without bias, norm, ReLU: (B, H, W, C) -> (B, H / stride, W / stride, features).

    Args:
        deviation: standard deviation of the initial kernel.

    The other arguments are those of `layers.convolution.ConvNorm`.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel: int | Sequence[int],
        stride: int = 1,
        *,
        padding: str | None = None,
        deviation: float = 0.1,
        norm: Callable[[int], nnx.Module],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.truncated_normal(deviation)
        self.conv = Conv(
            features_in,
            features,
            kernel,
            stride,
            padding=padding,
            kernel_init=init,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = norm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class Mixed(nnx.Module):
    """Parallel branches on x (B, H, W, C), concatenated; the result has `features` channels.

    A block with a stride has max-pooling without a convolution as its last branch.

    Args:
        features_in: C.
        branches: {name: ((channels, kernel) or (channels, kernel, stride), ...)}; "pool" starts
            with average pooling.
        divisor: divides the channels.
        make_layer: `Layer` with the arguments that all of the network's have in common.
    """

    def __init__(
        self,
        features_in: int,
        branches: Mapping[str, Sequence],
        divisor: int,
        make_layer: Callable[..., Layer],
    ):
        self.names = tuple(branches)
        self.branches: nnx.Dict[nnx.List[Layer | Fork]] = nnx.Dict()
        self.features = 0
        self.shrinks = any(len(layer) == 3 for layers in branches.values() for layer in layers)
        for name, layers in branches.items():
            self.branches[name] = nnx.List()
            features = features_in
            for channels, kernel, *stride in layers:
                width = channels // divisor
                layer: Layer | Fork
                if kernel == FORK:
                    layer = Fork(features, width, make_layer)
                    features = 2 * width
                else:
                    padding = "VALID" if stride else None
                    layer = make_layer(features, width, kernel, *stride, padding=padding)
                    features = width
                self.branches[name].append(layer)
            self.features += features
        self.features += features_in if self.shrinks else 0

    def __call__(self, x: jax.Array) -> jax.Array:
        results = []
        for name in self.names:
            y = avg_pool(x, 3, 1, padding=1) if name == "pool" else x
            for layer in self.branches[name]:
                y = layer(y)
            results.append(y)
        if self.shrinks:
            results.append(max_pool(x, 3, 2))
        return jnp.concatenate(results, -1)


class Fork(nnx.Module):
    """A 1x3 and a 3x1 convolution of x, concatenated: (B, H, W, C) -> (B, H, W, 2 features)."""

    def __init__(self, features_in: int, features: int, make_layer: Callable[..., Layer]):
        self.wide, self.tall = (make_layer(features_in, features, kernel) for kernel in FORK)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self.wide(x), self.tall(x)], -1)


class Auxiliary(nnx.Module):
    """Logits (B, num_classes), float32, of a map (B, H, W, C) of 17 px or more.

    Args:
        features_in: C.
        widths: channels of its 1x1 and its 5x5 convolution.
        num_classes: length of the logits.
        make_layer, dense: `Layer` and `nnx.Linear`, with the arguments that all of the network's
            have in common.
    """

    def __init__(
        self,
        features_in: int,
        widths: Sequence[int],
        num_classes: int,
        make_layer: Callable[..., Layer],
        dense: Callable[..., nnx.Linear],
    ):
        first, last = widths
        self.layers = nnx.List(
            [
                make_layer(features_in, first, 1),
                make_layer(first, last, 5, padding="VALID", deviation=0.01),
            ]
        )
        self.head = dense(last, num_classes, kernel_init=nnx.initializers.truncated_normal(0.001))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = avg_pool(x, 5, 3)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((1, 2), dtype=self.head.dtype))
