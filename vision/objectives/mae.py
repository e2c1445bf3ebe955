"""Masked autoencoders: a ViT learns without labels by filling in the patches that it did not see.

He et al. 2021 (arXiv:2111.06377), section 3. Of each image the encoder, which is the run's model,
sees a random quarter of the patches. A light decoder, which no later stage needs, predicts the
pixels of the others.

Nearest neighbors and the linear probe say little about it, since what it learns is not linear
(section 4.3 of the paper): it is judged by fine-tuning, with the same `model.pool` and
`model.positions`,

    python -m vision.main --config ... --config.model.pretrained=RUN --config.transfer.new_head=true
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from vision.errors import UserError, check_count, check_range
from vision.models.layers.attention import choose_attention
from vision.models.layers.blocks import apply_blocks
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear
from vision.models.layers.norms import LayerNorm
from vision.models.layers.positions import sincos_2d
from vision.models.vit import Block, ViT, patchify
from vision.objectives.representation import MEASURES, neighbors, online_probe

__all__ = ["MEASURES", "OPTIONS", "Decoder", "MaskedAutoencoder", "build", "validate"]

USES = ()
OPTIONS = {
    "mask_ratio": 0.75,  # share of the patches that the encoder does not see
    "decoder_width": 512,
    "decoder_depth": 8,  # blocks
    "decoder_heads": 16,
    "normalize_patches": True,  # predict each patch's pixels minus their mean, over their deviation
}
EPSILON = 1e-6  # added to a patch's variance, as in the authors' code


class MaskedAutoencoder(nnx.Module):
    """The mean squared error of the pixels of masked patches, and the loss of a linear probe.

    An order is an int (B, N): each image's patches, the visible ones first. The patches after the
    first `visible` are masked.

    Args:
        model: the encoder, a `ViT` without distillation token. Its head is the probe: it learns
            from the labels and what the encoder makes of the visible patches, and gives it no
            gradient.
        visible: number of patches that the encoder sees.
        decoder_width: length of the decoder's tokens, a multiple of `decoder_heads` and of 4.
        decoder_depth: blocks.
        decoder_heads: attention heads per block.
        normalize_patches: see `standardize`.
        rngs: `params` is used.
    """

    def __init__(
        self,
        model: ViT,
        *,
        visible: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        normalize_patches: bool,
        rngs: nnx.Rngs,
    ):
        patch, _, channels, width = model.patches.kernel.shape
        self.model = model
        self.decoder = Decoder(
            width,
            decoder_width,
            decoder_depth,
            decoder_heads,
            model.grid,
            patch * patch * channels,
            dtype=model.dtype,
            remat=model.remat,
            rngs=rngs,
        )
        self.rngs = nnx.Rngs(mask=rngs.params())
        self.patch = patch
        self.visible = visible
        self.normalize_patches = normalize_patches

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss, and {"reconstruction", "accuracy"}: its first part, and the probe's."""
        images = batch["image"]
        order = self.draw(len(images))
        encoded = self.encode(images, order)
        predicted = self.decoder(self.model.norm(encoded), order, self.visible)
        reconstruction = jnp.square(predicted - self.targets(images, order)).mean()
        probe, scalars = online_probe(self.model, self.model.pool(encoded), batch["label"])
        return reconstruction + probe, scalars | {"reconstruction": reconstruction}

    def draw(self, batch: int) -> jax.Array:
        """Returns an order (batch, N), drawn for each image on its own, all equally likely."""
        noise = jax.random.bits(self.rngs.mask(), (batch, self.model.grid**2))
        return noise.argsort(axis=1)

    def encode(self, images: jax.Array, order: jax.Array) -> jax.Array:
        """Returns the last block's tokens (B, M, width): the class token, if any, and visible ones.

        Args:
            images: float (B, H, W, C), normalized.
            order: int (B, N).
        """
        tokens = self.model.tokens(images)
        leading = tokens.shape[1] - order.shape[1]
        seen = _take(tokens[:, leading:], order[:, : self.visible])
        return self.model.encode(jnp.concatenate([tokens[:, :leading], seen], axis=1))

    def targets(self, images: jax.Array, order: jax.Array) -> jax.Array:
        """Returns what the decoder has to predict, (B, masked, patch * patch * C)."""
        masked = _take(patchify(images, self.patch), order[:, self.visible :])
        return standardize(masked)[0] if self.normalize_patches else masked

    def reconstruct(self, images: jax.Array, order: jax.Array) -> jax.Array:
        """Returns images (B, H, W, C) with the predictions in the place of the masked patches.

        Where patches are normalized, the predictions get the mean and the deviation of the true
        ones, which they do not contain.

        Args:
            images: float (B, H, W, C), normalized.
            order: int (B, N).
        """
        encoded = self.encode(images, order)
        predicted = self.decoder(self.model.norm(encoded), order, self.visible)
        patches = patchify(images, self.patch)
        masked = order[:, self.visible :]
        if self.normalize_patches:
            _, mean, deviation = standardize(_take(patches, masked))
            predicted = predicted * deviation + mean
        rows = jnp.arange(len(images))[:, None]
        return unpatchify(patches.at[rows, masked].set(predicted), self.patch)


class Decoder(nnx.Module):
    """Predicts the pixels of masked patches from the encoded visible ones.

    Args:
        in_features: width of the encoder's tokens.
        width: length of the decoder's own tokens.
        depth: number of blocks.
        heads: attention heads per block.
        grid: patches along a side of the image.
        pixels: values in a patch.
        dtype: compute dtype.
        remat: see `vision.models.layers.blocks.apply_blocks`.
        rngs: `params` is used.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        depth: int,
        heads: int,
        grid: int,
        pixels: int,
        *,
        dtype: DTypeLike,
        remat: str,
        rngs: nnx.Rngs,
    ):
        xavier = nnx.initializers.xavier_uniform()
        attention = choose_attention("auto", grid**2 + 1, width // heads, dtype)
        self.embed = Linear(in_features, width, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.mask_token = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, 1, width)))
        self.blocks = nnx.List(
            [Block(width, heads, 0.0, 0.0, attention, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.norm = LayerNorm(width, rngs=rngs)
        self.pixels = Linear(width, pixels, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.grid = grid
        self.dtype = dtype
        self.remat = remat

    def __call__(self, encoded: jax.Array, order: jax.Array, visible: int) -> jax.Array:
        """Returns the masked patches (B, N - visible, pixels), at least float32, in their order.

        The blocks do not depend on the order of their tokens, so these stay in the drawn one:
        nothing has to be put back into its place.

        Args:
            encoded: normalized tokens (B, M, in_features): leading ones, then `visible` patches.
            order: int (B, N).
            visible: number of visible patches.
        """
        x = self.embed(encoded.astype(self.dtype))
        masked = order.shape[1] - visible
        leading = x.shape[1] - visible
        mask_tokens = jnp.broadcast_to(
            self.mask_token[...].astype(self.dtype), (len(x), masked, x.shape[-1])
        )
        positions = jnp.asarray(sincos_2d(self.grid, x.shape[-1]), self.dtype)[order]
        positions = jnp.pad(positions, ((0, 0), (leading, 0), (0, 0)))
        x = jnp.concatenate([x, mask_tokens], axis=1) + positions
        x = apply_blocks(self.blocks, x, self.remat)
        return self.pixels(self.norm(x[:, -masked:])).astype(at_least_float32(self.dtype))


def standardize(patches: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (standardized patches, mean, deviation) of patches (..., pixels), each by its own.

    The target that the paper calls normalized pixels (section 3, "Reconstruction target"). The
    variance divides by the number of pixels minus 1, as in the authors' code. A patch whose pixels
    are all equal becomes 0.
    """
    mean = patches.mean(-1, keepdims=True)
    deviation = jnp.sqrt(patches.var(-1, ddof=1, keepdims=True) + EPSILON)
    return (patches - mean) / deviation, mean, deviation


def unpatchify(patches: jax.Array, patch: int) -> jax.Array:
    """Returns square images (B, H, W, C) from their patches (B, N, patch * patch * C).

    The inverse of `vision.models.vit.patchify`.
    """
    batch, count, pixels = patches.shape
    grid = round(count**0.5)
    x = patches.reshape(batch, grid, grid, patch, patch, pixels // patch**2)
    return x.swapaxes(2, 3).reshape(batch, grid * patch, grid * patch, -1)


def _take(rows: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns rows (B, M, D) of (B, N, D), given by indices (B, M)."""
    return jnp.take_along_axis(rows, indices[:, :, None], axis=1)


validate = neighbors


def build(c: ConfigDict, model: Any, *, rngs: nnx.Rngs) -> MaskedAutoencoder:
    """Builds `MaskedAutoencoder` from `config.objective`.

    Raises:
        UserError: the model is not a plain ViT, or an option does not fit it.
    """
    if not isinstance(model, ViT) or model.distillation_token is not None:
        raise UserError(
            f"objective.name = '{c.name}' leaves patches out of the network: it needs "
            "model.name=vit, without model.distilled or transfer.cache_embeddings"
        )
    options = c.options
    prefix = "objective.options"
    width = options.decoder_width
    heads = options.decoder_heads
    check_count(f"{prefix}.decoder_depth", options.decoder_depth, 1, 1000)
    check_count(f"{prefix}.decoder_heads", heads, 1, 1000)
    check_range(
        f"{prefix}.decoder_width",
        width,
        width > 0 and width % heads == 0 and width % 4 == 0,
        f"a positive multiple of 4 and of decoder_heads, {heads}",
    )
    pixels = model.patches.kernel[..., 0].size
    if options.normalize_patches and pixels == 1:
        raise UserError(
            f"{prefix}.normalize_patches needs patches of more than one value: choose a larger "
            "patch in model.variant, or set it to false"
        )
    return MaskedAutoencoder(
        model,
        visible=_count_visible(options.mask_ratio, model.grid**2),
        decoder_width=width,
        decoder_depth=options.decoder_depth,
        decoder_heads=heads,
        normalize_patches=options.normalize_patches,
        rngs=rngs,
    )


def _count_visible(mask_ratio: float, patches: int) -> int:
    """Returns how many patches the encoder sees."""
    key = "objective.options.mask_ratio"
    check_range(key, mask_ratio, 0 < mask_ratio < 1, "in (0, 1)")
    visible = round((1 - mask_ratio) * patches)
    if not 0 < visible < patches:
        raise UserError(
            f"{key} = {mask_ratio} masks {patches - visible} of {patches} patches: at least one "
            "must be masked and one visible"
        )
    return visible
