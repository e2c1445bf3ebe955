"""Mobile networks whose name says every number, to search among: see `layers.variants`.

The blocks of MobileNetV2 and V3 (Sandler et al. 2018, arXiv:1801.04381; Howard et al. 2019,
arXiv:1905.02244) in the space of MnasNet and Once-for-All (Tan et al. 2018, arXiv:1807.11626,
figure 5; Cai et al. 2019, arXiv:1908.09791, section 3): depth, width, kernel, expansion,
squeeze-and-excitation, and the resolution, by strides and by the size that images are resized to.
A stage's first block never adds its input, since its width may be any.

A variant may name a space, as in "k3.5.7". The model is then its largest network, whose weights the
objective `supernet` trains for all of them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.gates import SqueezeExcite
from vision.models.layers.inverted_residual import InvertedResidual, conv_norms, round_width
from vision.models.layers.options import check_options
from vision.models.layers.variants import Choice, Space, parse, spell, stages_of

VARIANTS = {
    # MobileNetV2, and V3 small with one activation and the last layers of V2, for images of about
    # 32 pixels: the strides of the stem and of the first stage are 1.
    "v2": "c32-w16e1-w24d2e6-w32d3e6s2-w64d4e6s2-w96d3e6-w160d3e6s2-w320e6-h1280",
    "v3": "c16-w16e1se1-w24d2e4s2-w40d3k5e6s2se1-w48d2k5e3se1-w96d3k5e6s2se1-h576",
    "mu": "c8s2-w8e2-w16d2k5e2s2se1-h32",  # for tests
}
ACTIVATIONS = {"hard_swish": jax.nn.hard_swish, "relu": jax.nn.relu}


def build(variant: str, num_classes: int, **options: Any) -> "MobileSpace":
    """Builds the `MobileSpace` of a variant.

    Args:
        variant: one of `VARIANTS`, or the name of a network or a space: see `layers.variants`.
        num_classes: length of the logits.
        options: those of `MobileSpace`.

    Raises:
        UserError: the variant is unknown or no such name, or an option's value is invalid.
    """
    named = space(variant)
    return MobileSpace(named.largest(), num_classes, variant=spell(named.axes), **options)


def space(variant: str) -> Space:
    """Returns the networks that a variant names; raises `UserError` as `build` does."""
    if "-" not in variant:
        hint = ", or the name of a network, such as c16-w16e3-w24d2k5e4s2-h128"
        check_choice("model.variant", variant, tuple(VARIANTS), hint)
    return parse(VARIANTS.get(variant, variant))


class MobileSpace(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, width) -> logits (B, num_classes), float32.

    Args:
        choice: the network.
        num_classes: length of the logits.
        variant: name of the space that the network is the largest of.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype up to the pooling, float32 or bfloat16. Parameters and statistics are
            float32.
        channels: image channels.
        act: activation of all blocks, "hard_swish" or "relu".
        dropout: probability, on the embedding.
        stochastic_depth: probability of dropping the last block's branch; linear in depth
            (arXiv:1603.09382).
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.
        padding, norm_epsilon: see `layers.inverted_residual.conv_norms`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Initialized like `mobilenet`.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        choice: Choice,
        num_classes: int,
        variant: str,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        act: str = "hard_swish",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        batch_norm_groups: int = 1,
        padding: str = "symmetric",
        norm_epsilon: float = 1e-5,
        remat: str = "none",
    ):
        check_choice("model.options.act", act, tuple(ACTIVATIONS))
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
        self.variant = variant
        self.resolution = choice.get("r", 0)
        self.dtype = dtype
        self.remat = remat
        activation = ACTIVATIONS[act]
        features = choice["c"]
        self.stem = make(channels, features, 3, choice["c.s"], act=activation)
        rows = list(stages_of(choice))
        rates = iter(linear_rates(stochastic_depth, sum(row["d"] for row in rows)))
        self.stages: nnx.List[nnx.List[nnx.Module]] = nnx.List()
        for row in rows:
            blocks: nnx.List[nnx.Module] = nnx.List()
            for place in range(row["d"]):
                rate = next(rates)
                expanded = row["e"] * features
                block = InvertedResidual(
                    features,
                    row["w"],
                    row["k"],
                    1 if place else row["s"],
                    expanded=expanded,
                    squeeze=squeeze(expanded, round_width(expanded / 4)) if row["se"] else None,
                    act=activation,
                    drop=StochasticDepth(rate, rngs=rngs) if place else None,
                    make=make,
                )
                blocks.append(block)
                features = row["w"]
            self.stages.append(blocks)
        self.stages.append(nnx.List([make(features, choice["h"], 1, act=activation)]))
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(
            choice["h"],
            num_classes,
            kernel_init=nnx.initializers.normal(0.01),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def resize(self, images: jax.Array) -> jax.Array:
        """Returns images (B, H, W, C) at the network's resolution, linearly and with antialias."""
        side = self.resolution
        if not side or images.shape[1:3] == (side, side):
            return images
        rows, columns = (jnp.asarray(_weights(n, side), images.dtype) for n in images.shape[1:3])
        return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, images)

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C)."""
        x = self.stem(self.resize(images).astype(self.dtype))
        maps = {"stem": x}
        for i, blocks in enumerate(self.stages):
            x = apply_blocks(blocks, x, self.remat)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, width), float32: the last map's mean."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, width), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))


@functools.cache
def _weights(length: int, side: int) -> np.ndarray:
    """Returns the matrix (side, length) that resizes an axis, as `jax.image.resize` does.

    In NumPy: an exporter of the model replaces JAX's own functions.
    """
    scale = length / side
    centers = (np.arange(side) + 0.5) * scale - 0.5
    distances = np.abs(centers[:, None] - np.arange(length)) / max(scale, 1.0)
    triangles = np.maximum(0.0, 1.0 - distances)
    return (triangles / triangles.sum(1, keepdims=True)).astype(np.float32)
