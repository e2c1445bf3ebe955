"""ConvNeXt. Liu et al. 2022 (arXiv:2201.03545), section 3 and table 9.

Blocks of a 7x7 depthwise convolution and an MLP, with LayerNorm eps 1e-6 and layer scale (Touvron
et al. 2021, arXiv:2103.17239). Initialization follows the authors' code: normal with deviation
0.02, biases 0.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.convolution import Conv
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import LayerNorm
from vision.models.layers.options import check_image_size, check_options
from vision.models.layers.transformer import Mlp
from vision.models.weights.published import Weights
from vision.models.weights.transformers import from_convnext

VARIANTS = {  # width of the first stage, doubled by each further one; blocks of each stage
    "mu": (4, (1, 1, 1, 1)),  # for tests
    "T": (96, (3, 3, 9, 3)),
    "S": (96, (3, 3, 27, 3)),
    "B": (128, (3, 3, 27, 3)),
    "L": (192, (3, 3, 27, 3)),
}
PAPER_TOP1 = {"T": 82.1, "S": 83.1, "B": 83.8, "L": 84.3}  # table 1: ImageNet-1k at 224 px
WEIGHTS = {  # top-1 as timm lists it, results/results-imagenet.csv
    "hf:timm/convnext_tiny.fb_in1k": Weights("T", 82.066),
    "hf:timm/convnext_tiny.in12k_ft_in1k": Weights("T", 84.192, crop=0.95),
    "hf:timm/convnext_small.fb_in1k": Weights("S", 83.144),
    "hf:timm/convnext_small.in12k_ft_in1k": Weights("S", 85.164, crop=0.95),
    "hf:timm/convnext_base.fb_in1k": Weights("B", 83.838),
    "hf:timm/convnext_base.fb_in22k_ft_in1k": Weights("B", 85.814),
    "hf:timm/convnext_large.fb_in1k": Weights("L", 84.304),
    "hf:timm/convnext_large.fb_in22k_ft_in1k": Weights("L", 86.612),
}


def build(variant: str, num_classes: int, *, image_size: int = 224, **options: Any) -> "ConvNeXt":
    """Builds the `ConvNeXt` of a variant: "T", "S", "B" or "L".

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: 32 px or more; the remainder by 4 and then by 2 is cut off on the far side.
        options: those of `ConvNeXt`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    width, depths = VARIANTS[variant]
    check_image_size("convnext", image_size, 4 * 2 ** (len(depths) - 1))
    return ConvNeXt(width, depths, num_classes, **options)


class ConvNeXt(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        width: channels of the first stage; each further stage has twice as many, and half the
            image's side.
        depths: blocks of each stage.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32.
        channels: image channels.
        dropout: probability, on the embedding.
        stochastic_depth: probability of dropping the last block's branch; linear in depth. The
            paper's table 5 has 0.1, 0.4, 0.5, 0.5 for T, S, B, L.
        layer_scale: initial factor on every branch.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        layer_scale: float = 1e-6,
        remat: str = "none",
    ):
        check_options(dropout=dropout, stochastic_depth=stochastic_depth, remat=remat)
        self.dtype = dtype
        self.remat = remat
        self.stem = Stem(channels, width, dtype=dtype, rngs=rngs)
        rates = iter(linear_rates(stochastic_depth, sum(depths)))
        stages = []
        for i, depth in enumerate(depths):
            stage_rates = [next(rates) for _ in range(depth)]
            stages.append(
                Stage(
                    width * 2**i, stage_rates, layer_scale, downsample=i > 0, dtype=dtype, rngs=rngs
                )
            )
        self.stages = nnx.List(stages)
        features = width * 2 ** (len(depths) - 1)
        self.norm = LayerNorm(features, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(
            features,
            num_classes,
            kernel_init=nnx.initializers.normal(0.02),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C).

        Maps are (B, H / 4, W / 4, width), and half as large after each further stage.
        """
        x = self.stem(images.astype(self.dtype))
        maps = {"stem": x}
        for i, stage in enumerate(self.stages):
            x = stage(x, self.remat)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32: the last map's mean over the image, normalized."""
        return self.dropout(self.norm(x.mean((1, 2), dtype=at_least_float32(self.dtype))))


def patchify(
    features_in: int, features: int, side: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> Conv:
    """Returns a convolution whose stride is its kernel's side."""
    init = nnx.initializers.normal(0.02)
    return Conv(
        features_in,
        features,
        side,
        side,
        padding="VALID",
        bias=True,
        kernel_init=init,
        dtype=dtype,
        rngs=rngs,
    )


class Stem(nnx.Module):
    """Patches of 4x4 pixels, normalized: (B, H, W, C) -> (B, H / 4, W / 4, features)."""

    def __init__(self, channels: int, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = patchify(channels, features, 4, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Downsample(nnx.Module):
    """Halves the image and doubles the channels: (B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""

    def __init__(self, features_in: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = LayerNorm(features_in, rngs=rngs)
        self.conv = patchify(features_in, 2 * features_in, 2, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))


class Stage(nnx.Module):
    """Blocks of one width, after a `Downsample` in all stages but the first.

    Args:
        width: channels of the result.
        rates: stochastic depth of each block.
        layer_scale: see `ConvNeXt`.
        downsample: whether the input has half the channels and twice the side.
        dtype: compute dtype.
        rngs: nnx random streams.
    """

    def __init__(
        self,
        width: int,
        rates: Sequence[float],
        layer_scale: float,
        *,
        downsample: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.downsample = Downsample(width // 2, dtype=dtype, rngs=rngs) if downsample else None
        block = functools.partial(Block, width, layer_scale, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([block(rate) for rate in rates])

    def __call__(self, x: jax.Array, remat: str = "none") -> jax.Array:
        x = x if self.downsample is None else self.downsample(x)
        return apply_blocks(self.blocks, x, remat)


class Block(nnx.Module):
    """Residual block on x (B, H, W, width): depthwise convolution, norm, MLP, layer scale.

    The paper's figure 4.
    """

    def __init__(
        self,
        width: int,
        layer_scale: float,
        stochastic_depth: float,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.normal(0.02)
        self.conv = Conv(
            width, width, 7, groups=width, bias=True, kernel_init=init, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(width, rngs=rngs)
        inits = {"kernel_init": init, "bias_init": nnx.initializers.zeros_init()}
        self.mlp = Mlp(width, 4 * width, 0.0, **inits, dtype=dtype, rngs=rngs)
        self.layer_scale = nnx.Param(jnp.full(width, layer_scale, jnp.float32))
        self.drop = StochasticDepth(stochastic_depth, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.mlp(self.norm(self.conv(x)))
        return x + self.drop(y * self.layer_scale[...].astype(y.dtype))


NAMES = {
    "timm": (
        (r"^stem\.conv", "stem.0"),
        (r"^stem\.norm", "stem.1"),
        (r"downsample\.norm", "downsample.0"),
        (r"downsample\.conv", "downsample.1"),
        (r"^norm", "head.norm"),
        (r"^head\.(kernel|bias)", r"head.fc.\1"),
        (r"conv\.(kernel|bias)", r"conv_dw.\1"),
        (r"mlp\.hidden", "mlp.fc1"),
        (r"mlp\.out", "mlp.fc2"),
        (r"layer_scale", "gamma"),
    ),
    "torchvision": (
        (r"^stem\.conv", "features.0.0"),
        (r"^stem\.norm", "features.0.1"),
        (r"^norm", "classifier.0"),
        (r"^head", "classifier.2"),
        (r"^stages\.(\d)\.downsample\.norm", lambda m: f"features.{2 * int(m[1])}.0"),
        (r"^stages\.(\d)\.downsample\.conv", lambda m: f"features.{2 * int(m[1])}.1"),
        (r"^stages\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}"),
        (r"\.conv\.", ".block.0."),
        (r"\.norm\.", ".block.2."),
        (r"mlp\.hidden", "block.3"),
        (r"mlp\.out", "block.5"),
    ),
}
NAMES["transformers"] = NAMES["timm"]
REWRITE = {"transformers": from_convnext}
# torchvision's layer scales are (C, 1, 1)
ADAPT = {r"layer_scale$": lambda array, shape: array.reshape(shape)}
