"""The fast CIFAR-10 nets. Jordan 2024 (arXiv:2404.00498), sections 3.1 to 3.3.

A fixed 2x2 convolution that whitens patches of the training images, three groups of convolutions
that start as the identity wherever they can, global max-pooling, and a linear layer without bias.
The author's code, https://github.com/KellerJordan/cifar10-airbench, settles what the paper leaves
open.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice
from vision.models.layers.activations import gelu
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_image_size, check_options

# Our own names, in the layout of PyTorch: weights of finished rows of experiments/.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {"kept": ()}

# widths of the groups, convolutions per group, and BatchNorm's momentum
VARIANTS = {
    "94": ((64, 256, 256), 2, 0.6),
    "95": ((128, 384, 384), 2, 0.6),
    "96": ((128, 384, 512), 3, 0.9),
    "mu": ((4, 8, 8), 2, 0.6),
}
SMALLEST = 9  # pixels; the whitening takes one, and each group halves the side
# "scaling_factor", by which logits start small although the head's kernel does not
LOGIT_SCALE = 1 / 9


def build(variant: str, num_classes: int, *, image_size: int = 32, **options: Any) -> "Airbench":
    """Builds the `Airbench` of a variant: the paper's "94", "95" or "96", or the tiny "mu".

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: 9 or more; the paper's is 32.
        options: those of `Airbench`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    check_image_size("airbench", image_size, SMALLEST)
    widths, depth, momentum = VARIANTS[variant]
    return Airbench(widths, depth, num_classes, momentum, **options)


class Airbench(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    It does not whiten yet: call `initialize_from_data`.

    Args:
        widths: channels of each group; each halves the image.
        depth: convolutions per group: 2, or 3 with a shortcut around the last two.
        num_classes: length of the logits.
        momentum: share of its running averages that BatchNorm keeps in a step.
        rngs: nnx random streams: `params`.
        dtype: compute dtype, float32 or bfloat16. Parameters and statistics are float32, and so is
            the whitening: images are best given in float32 too.
        channels: image channels.
        batch_norm_groups: parts of the batch with separate statistics; see
            `layers.norms.BatchNorm`.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depth: int,
        num_classes: int,
        momentum: float,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        batch_norm_groups: int = 1,
    ):
        check_options(batch_norm_groups=batch_norm_groups)
        self.dtype = dtype
        # It amplifies faint differences up to forty times. On CIFAR-10 the rounding error of
        # bfloat16 images is an eighth of the response along the smallest axes.
        self.whiten = WhiteningConv(channels, dtype=at_least_float32(dtype), rngs=rngs)
        norm = functools.partial(
            BatchNorm,
            groups=batch_norm_groups,
            momentum=momentum,
            epsilon=1e-12,
            use_scale=False,
            rngs=rngs,
        )
        features = self.whiten.out_features
        groups = []
        for width in widths:
            groups.append(Group(features, width, depth, norm, dtype=dtype, rngs=rngs))
            features = width
        self.groups = nnx.List(groups)
        self.head = nnx.Linear(
            features,
            num_classes,
            use_bias=False,
            kernel_init=uniform,
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"whiten": map, "groups.0": map, ...} of images (B, H, W, C).

        Maps are (B, H - 1, W - 1, 8 C) and then (B, h, w, D), each of half the side and with more
        channels, in the compute dtype.
        """
        maps = {"whiten": gelu(self.whiten(images).astype(self.dtype))}
        x = maps["whiten"]
        for i, group in enumerate(self.groups):
            x = group(x)
            maps[f"groups.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32: a ninth of the last map's maximum over the image."""
        # The factor belongs to the logits; before a linear layer without bias it is equivalent.
        return x.max((1, 2)).astype(at_least_float32(self.dtype)) * LOGIT_SCALE

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def initialize_from_data(self, images: jax.Array) -> None:
        """Sets the whitening convolution from images (N, H, W, C), normalized floats."""
        self.whiten.initialize_from_data(images)


class Fixed(nnx.Variable):
    """A variable that is computed once from the data and does not learn."""


class WhiteningConv(nnx.Conv):
    """A 2x2 convolution without padding, (B, H, W, C) -> (B, H - 1, W - 1, 8 C); its bias learns.

    Its filters are the principal axes of the images' patches, each divided by the standard
    deviation along it, and their negatives, so that the nonlinearity after it loses nothing. Page
    2018, https://myrtle.ai/learn/how-to-train-your-resnet; section 3.2 of Jordan 2024.
    """

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        patch_size = 4 * channels  # values in a patch
        super().__init__(channels, 2 * patch_size, (2, 2), padding="VALID", dtype=dtype, rngs=rngs)
        # In nnx.Conv it is a parameter, which learns.
        self.kernel = Fixed(_both_signs(jnp.eye(patch_size), channels))  # type: ignore[assignment]

    def initialize_from_data(self, images: jax.Array, epsilon: float = 5e-4) -> None:
        """Sets the kernel from all patches of images (N, H, W, C).

        Args:
            images: floats, normalized. The computation is in float32 at least.
            epsilon: added to the variances, so that an axis along which patches hardly differ is
                not amplified without bound.
        """
        x = images.astype(at_least_float32(images.dtype))
        corners = (x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:])
        patches = jnp.concatenate(corners, -1).reshape(-1, 4 * x.shape[-1])
        # The mean is not subtracted: for normalized images it is near 0, and a convolution could
        # not subtract it.
        moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
        variances, axes = jnp.linalg.eigh(moments)
        # largest first
        axes = axes[:, ::-1]
        variances = variances[::-1]
        # Rounding may make a variance of 0 negative.
        filters = axes / jnp.sqrt(jnp.maximum(variances, 0) + epsilon)
        self.kernel[...] = _both_signs(filters, x.shape[-1]).astype(self.kernel.dtype)


class Group(nnx.Module):
    """Convolutions with BatchNorm and GELU: (B, H, W, C) -> (B, H // 2, W // 2, features).

    The first is followed by max-pooling, before its norm. With three, the last two have a shortcut
    around them.

    Args:
        features_in: C.
        features: channels of the result.
        depth: 2 or 3.
        norm: makes a norm of a given number of channels.
        dtype: compute dtype.
        rngs: nnx random streams: `params`.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        depth: int,
        norm: Callable[[int], nnx.Module],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(
            nnx.Conv,
            kernel_size=(3, 3),
            use_bias=False,
            kernel_init=partial_identity,
            dtype=dtype,
            rngs=rngs,
        )
        self.conv1 = conv(features_in, features)
        self.norm1 = norm(features)
        self.conv2 = conv(features, features)
        self.norm2 = norm(features)
        if depth == 3:
            self.conv3 = conv(features, features)
            self.norm3 = norm(features)
        self.depth = depth

    def __call__(self, x: jax.Array) -> jax.Array:
        x = gelu(self.norm1(halve(self.conv1(x))))
        y = gelu(self.norm2(self.conv2(x)))
        return y if self.depth == 2 else gelu(x + self.norm3(self.conv3(y)))


def halve(x: jax.Array) -> jax.Array:
    """Returns the maximum of each 2x2 pixels: (B, H, W, C) -> (B, H // 2, W // 2, C).

    Computed as two maxima: on a CPU, forward and gradient together take a tenth of the time of
    `nnx.max_pool`'s.
    """
    _, height, width, _ = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


# Within ± 1 / sqrt(inputs of a filter): PyTorch's default, which the paper's code uses.
uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def partial_identity(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Initializes a kernel (H, W, I, O): filter i copies channel i, those beyond are `uniform`."""
    height, width, inputs, outputs = shape
    copies = jnp.arange(min(inputs, outputs))
    identity = jnp.zeros(shape, dtype).at[height // 2, width // 2, copies, copies].set(1)
    return jnp.where(jnp.arange(outputs) < inputs, identity, uniform(key, shape, dtype))


def _both_signs(filters, channels):
    """Returns the kernel (2, 2, C, 8 C) of filters (4 C, 4 C), in columns, and their negatives."""
    return jnp.concatenate([filters, -filters], 1).reshape(2, 2, channels, -1)
