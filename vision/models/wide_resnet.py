"""Wide residual networks for CIFAR. Zagoruyko and Komodakis 2016 (arXiv:1605.07146), table 1.

Their norms come first (He et al. 2016, arXiv:1603.05027): BatchNorm, activation, convolution. The
authors' code, https://github.com/szagoruyko/wide-residual-networks, settles what the paper leaves
open: where the shape changes, the shortcut, a 1x1 convolution, also begins with the block's first
norm and activation. FixMatch's code (https://github.com/google-research/fixmatch) differs: its
shortcut does so in the first stage only.

Padding is PyTorch's: half the kernel on each side, also where the stride is 2.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice, check_range
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.convolution import Conv
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_options

# depth, which counts all convolutions (the stem and three projections, too), and widening factor
VARIANTS = {
    "16-8": (16, 8),
    "28-2": (28, 2),
    "28-10": (28, 10),
    "40-2": (40, 2),
    "mu": (10, 1),  # for tests
}
# channels of the stem; those of the stages are 1, 2 and 4 times as many, times the widening
WIDTH = 16
TINY_WIDTH = 4

NAMES = {
    # https://github.com/xternalz/WideResNet-pytorch, whose names FixMatch's ports to PyTorch keep
    "pytorch": (
        (r"^stem\.", "conv1."),
        *((rf"^stages\.{i}\.", f"block{i + 1}.layer.") for i in range(3)),
        (r"norm(\d)\.", r"bn\1."),
        (r"projection\.", "convShortcut."),
        (r"^norm\.", "bn1."),
        (r"^head\.", "fc."),
    )
}


def build(variant: str, num_classes: int, **options: Any) -> "WideResNet":
    """Builds the `WideResNet` of a variant: "28-10" is 28 layers deep and 10 times as wide.

    Images may have any size; the paper's are 32 px.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        options: those of `WideResNet`.

    Raises:
        UserError: an unknown variant, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    depth, widening = VARIANTS[variant]
    width = TINY_WIDTH if variant == "mu" else WIDTH
    return WideResNet((depth - 4) // 6, widening, num_classes, width, **options)


class WideResNet(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        blocks: blocks of each of the three stages; the second and third begin by halving the image.
        widening: factor on the channels of all stages.
        num_classes: length of the logits.
        width: channels of the stem, and of the first stage before widening.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        dropout: probability, between the two convolutions of each block; the paper's section 2.4
            has 0.3 for CIFAR.
        stochastic_depth: probability of dropping the last block's branch; linear in depth
            (arXiv:1603.09382).
        leak: slope of the activation for negative numbers: 0 for ReLU as in the paper, 0.1 in
            FixMatch's code.
        batch_norm_momentum: share of its running averages that BatchNorm keeps in a step; 0.999 in
            FixMatch's code.
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Convolutions are initialized as in He et al. 2015 (arXiv:1502.01852).

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        blocks: int,
        widening: int,
        num_classes: int,
        width: int = WIDTH,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        leak: float = 0.0,
        batch_norm_momentum: float = 0.9,
        batch_norm_groups: int = 1,
        remat: str = "none",
    ):
        check_options(
            dropout=dropout,
            stochastic_depth=stochastic_depth,
            batch_norm_groups=batch_norm_groups,
            remat=remat,
        )
        _check(leak, batch_norm_momentum)
        norm = functools.partial(
            BatchNorm, groups=batch_norm_groups, momentum=batch_norm_momentum, rngs=rngs
        )
        self.dtype = dtype
        self.remat = remat
        self.stem = Conv(channels, width, 3, dtype=dtype, rngs=rngs)
        make_block = functools.partial(
            Block, dropout=dropout, leak=leak, norm=norm, dtype=dtype, rngs=rngs
        )
        rates = iter(linear_rates(stochastic_depth, 3 * blocks))
        features = width
        stages: list[nnx.List[Block]] = []
        for stage in range(3):
            stages.append(nnx.List())
            for i in range(blocks):
                stride = 2 if i == 0 and stage > 0 else 1
                drop = StochasticDepth(next(rates), rngs=rngs)
                block = make_block(features, widening * width * 2**stage, stride, drop)
                features = block.features
                stages[-1].append(block)
        self.stages = nnx.List(stages)
        self.norm = norm(features)
        self.leak = leak
        self.head = nnx.Linear(
            features, num_classes, kernel_init=uniform, dtype=at_least_float32(dtype), rngs=rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ..., "last": map} of images (B, H, W, C).

        Maps are (B, H / s, W / s, D) in the compute dtype; s is 1, 1, 2, 4 and 4. The last is the
        third stage's after the final norm and activation.
        """
        x = self.stem(images.astype(self.dtype))
        maps = {"stem": x}
        for i, blocks in enumerate(self.stages):
            x = apply_blocks(blocks, x, self.remat)
            maps[f"stages.{i}"] = x
        return maps | {"last": activate(self.norm(x), self.leak)}

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32: the last map's mean over the image."""
        return x.mean((1, 2), dtype=at_least_float32(self.dtype))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        return self.pool(self.features(images)["last"])


class Block(nnx.Module):
    """A block of two 3x3 convolutions on x (B, H, W, C): the paper's figure 1, (c) and (d).

    The result has `features` channels.

    Args:
        features_in: C.
        features: channels of the result.
        stride: stride of the first convolution.
        drop: the branch's `StochasticDepth`.
        dropout: probability, between the convolutions.
        leak: slope of the activation for negative numbers.
        norm: makes a norm of a given number of channels.
        dtype: compute dtype.
        rngs: nnx random streams: `params` and `dropout`.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        stride: int,
        drop: StochasticDepth,
        *,
        dropout: float,
        leak: float,
        norm: Callable[[int], nnx.Module],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(Conv, dtype=dtype, rngs=rngs)
        self.features = features
        self.leak = leak
        self.norm1 = norm(features_in)
        self.conv1 = conv(features_in, features, 3, stride)
        self.norm2 = norm(features)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.conv2 = conv(features, features, 3)
        self.drop = drop
        changes_shape = stride != 1 or features_in != features
        self.projection = conv(features_in, features, 1, stride) if changes_shape else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = activate(self.norm1(x), self.leak)
        shortcut = x if self.projection is None else self.projection(y)
        y = activate(self.norm2(self.conv1(y)), self.leak)
        return shortcut + self.drop(self.conv2(self.dropout(y)))


def activate(x: jax.Array, leak: float) -> jax.Array:
    """Returns ReLU(x), or leaky ReLU with the slope `leak` for negative numbers if it is not 0."""
    return jax.nn.leaky_relu(x, leak) if leak else jax.nn.relu(x)


# Within ± 1 / sqrt(inputs), as Torch initializes the authors' head.
uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _check(leak, momentum):
    """Raises `UserError` for options that only these nets have."""
    check_range("model.options.leak", leak, 0 <= leak < 1, "in [0, 1)")
    name = "model.options.batch_norm_momentum"
    check_range(name, momentum, 0 <= momentum < 1, "in [0, 1)")
