"""The fast CIFAR-10 nets. Jordan 2024 (arXiv:2404.00498), sections 3.1 to 3.3.

A fixed 2x2 convolution that whitens patches of the training images, three groups of convolutions
that begin as the identity wherever they can, the maximum over what is left of the image, and a
linear layer without bias. Its author's code, https://github.com/KellerJordan/cifar10-airbench,
settles what the paper leaves open.
"""

import functools

import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.layers.activations import gelu
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import BatchNorm
from vision.models.layers.options import check_options

# widths of the groups, convolutions in each, and how much of its averages BatchNorm keeps in a step
VARIANTS = {
    "94": ((64, 256, 256), 2, 0.6),
    "95": ((128, 384, 384), 2, 0.6),
    "96": ((128, 384, 512), 3, 0.9),
    "mu": ((4, 8, 8), 2, 0.6),
}
SMALLEST = 9  # pixels; the whitening takes one, and each group halves the side
# "scaling_factor", with which logits start small though the head's kernel does not
LOGIT_SCALE = 1 / 9


def build(
    variant, num_classes, *, rngs, dtype=jnp.float32, image_size=32, channels=3, batch_norm_groups=1
):
    """Returns the `Airbench` of a variant: "94", "95" or "96", the paper's, or the tiny "mu".

    Args:
        image_size: 9 or more; the paper's is 32.

    For the other arguments see `Airbench`.

    Raises:
        UserError: an unknown variant, or an option's value that cannot be.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    if image_size < SMALLEST:
        raise UserError(
            f"model 'airbench' takes images of {SMALLEST} px or more, for it halves them thrice: not {image_size}"
        )
    widths, depth, momentum = VARIANTS[variant]
    return Airbench(
        widths,
        depth,
        num_classes,
        momentum=momentum,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        batch_norm_groups=batch_norm_groups,
    )


class Airbench(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both
    float32."""

    def __init__(
        self,
        widths,
        depth,
        num_classes,
        *,
        momentum,
        rngs,
        dtype=jnp.float32,
        channels=3,
        batch_norm_groups=1,
    ):
        """Creates the network. It whitens nothing yet: that takes `initialize_from_data`.

        Args:
            widths: channels of each group; each halves the image.
            depth: convolutions of a group: 2, or 3 with a shortcut around the last two.
            num_classes: length of the logits.
            momentum: share of BatchNorm's averages that a step keeps.
            rngs: nnx's streams: `params`.
            dtype: of the computation, float32 or bfloat16. Parameters and statistics are float32,
                and so is the whitening, for which images are best given in float32 too.
            channels: of the images.
            batch_norm_groups: parts of the batch that have their own statistics; see
                `norms.BatchNorm`.

        Raises:
            UserError: an option's value that cannot be.
        """
        check_options(batch_norm_groups=batch_norm_groups)
        self.dtype = dtype
        # It magnifies faint differences up to forty times. On CIFAR-10 the rounding of bfloat16
        # images makes an eighth of what the smallest axes give.
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

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def features(self, images):
        """Returns {"whiten": map, "groups.0": map, ...} of images (B, H, W, C), in the
        computation's dtype.

        Maps are (B, H - 1, W - 1, 8 C) and then, with half the side and more channels each, (B, h,
        w, D).
        """
        maps = {"whiten": gelu(self.whiten(images).astype(self.dtype))}
        x = maps["whiten"]
        for i, group in enumerate(self.groups):
            maps[f"groups.{i}"] = x = group(x)
        return maps

    def pool(self, x):
        """Returns embeddings (B, D), float32: a ninth of the last map's (B, h, w, D) maximum over
        the image."""
        # The factor is the logits'; before a linear layer without bias it is the same function.
        return x.max((1, 2)).astype(at_least_float32(self.dtype)) * LOGIT_SCALE

    def embed(self, images):
        """Returns embeddings (B, D), float32: a ninth of the features' maximum over the image.
        Images: (B, H, W, C)."""
        return self.pool(list(self.features(images).values())[-1])

    def initialize_from_data(self, images):
        """Sets the whitening convolution from images (N, H, W, C), normalized floats as `embed`
        takes them."""
        self.whiten.initialize_from_data(images)


class Fixed(nnx.Variable):
    """What is computed once from the data and does not learn."""


class WhiteningConv(nnx.Conv):
    """A 2x2 convolution without padding, (B, H, W, C) -> (B, H - 1, W - 1, 8 C); only its bias
    learns.

    Its filters are the principal axes of the images' patches, each divided by the standard
    deviation along it, and their negatives, so that the nonlinearity after it loses nothing. Page
    2018, https://myrtle.ai/learn/ how-to-train-your-resnet; section 3.2 of Jordan 2024.
    """

    def __init__(self, channels, *, dtype, rngs):
        size = 4 * channels  # numbers in a patch
        super().__init__(channels, 2 * size, (2, 2), padding="VALID", dtype=dtype, rngs=rngs)
        self.kernel = Fixed(_both_signs(jnp.eye(size), channels))

    def initialize_from_data(self, images, epsilon=5e-4):
        """Sets the kernel from all patches of images (N, H, W, C).

        Args:
            images: floats, normalized. The computation is in float32 at least.
            epsilon: added to the variances, so that an axis along which patches hardly differ is
                not blown up.
        """
        x = images.astype(at_least_float32(images.dtype))
        corners = (x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:])
        patches = jnp.concatenate(corners, -1).reshape(-1, 4 * x.shape[-1])
        # The mean is not subtracted: of normalized images it is near 0, and a convolution could not
        # subtract it.
        moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
        variances, axes = jnp.linalg.eigh(moments)
        # largest first
        axes = axes[:, ::-1]
        variances = variances[::-1]
        # Rounding may bring a variance of 0 below it.
        filters = axes / jnp.sqrt(jnp.maximum(variances, 0) + epsilon)
        self.kernel[...] = _both_signs(filters, x.shape[-1]).astype(self.kernel.dtype)


class Group(nnx.Module):
    """Convolutions, each with BatchNorm and GELU, on x (B, H, W, C) -> (B, H // 2, W // 2,
    features).

    The first is followed by max-pooling, before its norm. With three, the last two have a shortcut
    around them.

    Args:
        features_in: C.
        features: channels of the result.
        depth: 2 or 3.
        norm: makes a norm of so many channels.
        dtype: of the computation.
        rngs: nnx's streams: `params`.
    """

    def __init__(self, features_in, features, depth, norm, *, dtype, rngs):
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

    def __call__(self, x):
        x = gelu(self.norm1(halve(self.conv1(x))))
        y = gelu(self.norm2(self.conv2(x)))
        return y if self.depth == 2 else gelu(x + self.norm3(self.conv3(y)))


def halve(x):
    """Returns the largest of each 2x2 pixels: (B, H, W, C) -> (B, H // 2, W // 2, C).

    By two maxima, whose gradient, forward and back, takes a tenth of the time of `nnx.max_pool`'s
    on a CPU.
    """
    _, height, width, _ = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


# Within ± 1 / sqrt(inputs of a filter), PyTorch's default, as the paper's code has it.
uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def partial_identity(key, shape, dtype=jnp.float32):
    """Initializes a kernel (H, W, I, O): filter i copies channel i, for as many as there are;
    others are `uniform`."""
    height, width, inputs, outputs = shape
    copies = jnp.arange(min(inputs, outputs))
    identity = jnp.zeros(shape, dtype).at[height // 2, width // 2, copies, copies].set(1)
    return jnp.where(jnp.arange(outputs) < inputs, identity, uniform(key, shape, dtype))


def _both_signs(filters, channels):
    """Returns the kernel (2, 2, C, 8 C) of filters (4 C, 4 C), one a column, and of their
    negatives."""
    return jnp.concatenate([filters, -filters], 1).reshape(2, 2, channels, -1)
