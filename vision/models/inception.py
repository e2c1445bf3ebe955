"""Inception v3. Szegedy et al. 2015 (arXiv:1512.00567), table 1, as TensorFlow, torchvision and
timm build it.

The blocks are those of figures 5 to 7 and 10; the auxiliary head is that of figure 8.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

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


def _a(pooled):
    """Figure 5. A block is {branch: its convolutions (channels, kernel) or (channels, kernel,
    stride)}."""
    return {
        "1x1": ((64, 1),),
        "5x5": ((48, 1), (64, 5)),
        "3x3dbl": ((64, 1), (96, 3), (96, 3)),
        "pool": ((pooled, 1),),
    }


def _c(inner):
    """Figure 6, n = 7."""
    return {
        "1x1": ((192, 1),),
        "7x7": ((inner, 1), (inner, WIDE), (192, TALL)),
        "7x7dbl": ((inner, 1), (inner, TALL), (inner, WIDE), (inner, TALL), (192, WIDE)),
        "pool": ((192, 1),),
    }


B = {"3x3": ((384, 3, 2),), "3x3dbl": ((64, 1), (96, 3), (96, 3, 2))}  # figure 10
D = {"3x3": ((192, 1), (320, 3, 2)), "7x7x3": ((192, 1), (192, WIDE), (192, TALL), (192, 3, 2))}
E = {  # figure 7
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
POOLED = (2, 4)  # the stem's convolutions that max-pooling follows
AUXILIARY = (128, 768)

VARIANTS = {  # blocks of each stage; what all channels are divided by
    "v3": (((_a(32), _a(64), _a(64)), (B, _c(128), _c(160), _c(160), _c(192)), (D, E, E)), 1),
    "mu": (((_a(32),), (B, _c(128)), (D, E)), 32),  # for tests
}
SIZES = {"v3": 299}
# the last map has one pixel; what the auxiliary head's convolution sees has 5
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
IGNORED = r"^AuxLogits\."  # of a model without the auxiliary head
HEADS = ("head.", "auxiliary.head.")  # what starts anew for other classes

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


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=299,
    channels=3,
    auxiliary=False,
    dropout=0.5,
    batch_norm_groups=1,
    remat="none",
):
    """Returns the `Inception` of a variant: "v3".

    Args:
        image_size: 75 px or more, with the auxiliary head 299 or more.

    For the other arguments see `Inception`.

    Raises:
        UserError: an unknown variant, images that are too small, or an option's value that cannot
            be.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    if auxiliary:
        check_image_size("inception with its auxiliary head", image_size, SMALLEST_AUXILIARY)
    check_image_size("inception", image_size, SMALLEST)
    stages, divisor = VARIANTS[variant]
    return Inception(
        stages,
        num_classes,
        divisor=divisor,
        auxiliary=auxiliary,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        dropout=dropout,
        batch_norm_groups=batch_norm_groups,
        remat=remat,
    )


class Inception(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both
    float32.

    Args:
        stages: of each stage its blocks, as in `VARIANTS`.
        num_classes: length of the logits.
        divisor: of all channels.
        auxiliary: builds the auxiliary head, for `auxiliary_logits`. Weights must then have it,
            with as many classes.
        rngs: nnx's streams: `params`, and `dropout` where there is any.
        dtype: of the computation, float32 or bfloat16. Parameters and statistics are float32.
        channels: of the images.
        dropout: probability, on the embedding.
        batch_norm_groups: parts of the batch that have their own statistics; see
            `norms.BatchNorm`.
        remat: "none", "dots" or "blocks": what the backward pass computes again; see
            `layers.apply_blocks`.

    The paper is silent on dropout, which is torchvision's, and on the initialization and the norms'
    epsilon, which are its authors' TensorFlow code's: kernels normal with deviation 0.1, of the
    auxiliary head 0.01 (its last convolution) and 0.001 (dense), cut at twice the deviation; 1e-3.

    Raises:
        UserError: an option's value that cannot be.
    """

    def __init__(
        self,
        stages,
        num_classes,
        *,
        divisor=1,
        auxiliary=False,
        rngs,
        dtype=jnp.float32,
        channels=3,
        dropout=0.5,
        batch_norm_groups=1,
        remat="none",
    ):
        check_options(dropout=dropout, batch_norm_groups=batch_norm_groups, remat=remat)
        norm = functools.partial(BatchNorm, groups=batch_norm_groups, epsilon=1e-3, rngs=rngs)
        make = functools.partial(Layer, norm=norm, dtype=dtype, rngs=rngs)
        dense = functools.partial(nnx.Linear, dtype=at_least_float32(dtype), rngs=rngs)
        self.dtype = dtype
        self.remat = remat
        self.stem = nnx.List()
        features = channels
        for width, kernel, stride, padding in STEM:
            self.stem.append(make(features, width // divisor, kernel, stride, padding=padding))
            features = width // divisor
        self.stages = nnx.List()
        widths = []
        for blocks in stages:
            self.stages.append(nnx.List())
            for branches in blocks:
                self.stages[-1].append(Mixed(features, branches, divisor, make))
                features = self.stages[-1][-1].features
            widths.append(features)
        inner = [width // divisor for width in AUXILIARY]
        self.auxiliary = (
            Auxiliary(widths[1], inner, num_classes, make, dense) if auxiliary else None
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.head = dense(features, num_classes, kernel_init=nnx.initializers.truncated_normal(0.1))

    def features(self, images):
        """Returns {"stem": ..., "stages.0": ..., ...}, maps (B, H, W, C), of images (B, H, W, C).

        Of 299 px they have 35, 35, 17 and 8 pixels.
        """
        x = images.astype(self.dtype)
        for i, layer in enumerate(self.stem):
            x = layer(x)
            x = max_pool(x, 3, 2) if i in POOLED else x
        maps = {"stem": x}
        for i, blocks in enumerate(self.stages):
            maps[f"stages.{i}"] = x = apply_blocks(blocks, x, self.remat)
        return maps

    def pool(self, x):
        """Returns embeddings (B, D), float32: the mean over the image of the last map (B, H, W, D),
        and dropout."""
        return self.dropout(x.mean((1, 2), dtype=at_least_float32(self.dtype)))

    def embed(self, images):
        """Returns embeddings (B, D), float32, of images (B, H, W, C)."""
        *_, last = self.features(images).values()
        return self.pool(last)

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def auxiliary_logits(self, features):
        """Returns the auxiliary head's logits (B, num_classes), float32, of what `features`
        returns. Training only.

        Raises:
            UserError: the model was built without.
        """
        if self.auxiliary is None:
            raise UserError(
                "the model has no auxiliary head: build it with the option auxiliary=True"
            )
        return self.auxiliary(features["stages.1"])


class Layer(nnx.Module):
    """Convolution without bias, batch norm, ReLU: (B, H, W, C) -> (B, H / stride, W / stride,
    features).

    Args:
        deviation: of the kernel at the beginning.

    The other arguments are those of `convolution.ConvNorm`.
    """

    def __init__(
        self,
        features_in,
        features,
        kernel,
        stride=1,
        *,
        padding=None,
        deviation=0.1,
        norm,
        dtype,
        rngs,
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

    def __call__(self, x):
        return jax.nn.relu(self.norm(self.conv(x)))


class Mixed(nnx.Module):
    """Branches side by side on x (B, H, W, C); the result has `features` channels.

    A block with a stride pools x by maxima for a last branch, without a convolution.

    Args:
        features_in: C.
        branches: {name: ((channels, kernel) or (channels, kernel, stride), ...)}; "pool" begins
            with a mean.
        divisor: of the channels.
        make: `Layer` with what all of the network's have in common.
    """

    def __init__(self, features_in, branches, divisor, make):
        self.names = tuple(branches)
        self.branches = nnx.Dict()
        self.features = 0
        self.shrinks = any(len(layer) == 3 for layers in branches.values() for layer in layers)
        for name, layers in branches.items():
            self.branches[name] = nnx.List()
            features = features_in
            for width, kernel, *stride in layers:
                if kernel == FORK:
                    layer = Fork(features, width // divisor, make)
                else:  # no padding where there is a stride
                    layer = make(
                        features,
                        width // divisor,
                        kernel,
                        *stride,
                        padding="VALID" if stride else None,
                    )
                self.branches[name].append(layer)
                features = width // divisor * (2 if kernel == FORK else 1)
            self.features += features
        self.features += features_in if self.shrinks else 0

    def __call__(self, x):
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
    """A 1x3 and a 3x1 convolution of x (B, H, W, C), one after the other in the channels: (B, H, W,
    2 features)."""

    def __init__(self, features_in, features, make):
        self.wide, self.tall = (make(features_in, features, kernel) for kernel in FORK)

    def __call__(self, x):
        return jnp.concatenate([self.wide(x), self.tall(x)], -1)


class Auxiliary(nnx.Module):
    """Logits (B, num_classes), float32, of a map (B, H, W, C) of 17 px or more.

    Args:
        features_in: C.
        widths: channels of its 1x1 and its 5x5 convolution.
        num_classes: length of the logits.
        make: `Layer`, and `dense` `nnx.Linear`, with what all of the network's have in common.
    """

    def __init__(self, features_in, widths, num_classes, make, dense):
        first, last = widths
        self.layers = nnx.List(
            [make(features_in, first, 1), make(first, last, 5, padding="VALID", deviation=0.01)]
        )
        self.head = dense(last, num_classes, kernel_init=nnx.initializers.truncated_normal(0.001))

    def __call__(self, x):
        x = avg_pool(x, 5, 3)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((1, 2), dtype=self.head.dtype))
