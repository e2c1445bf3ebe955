"""The block of the mobile networks: MBConv, a wide depthwise convolution between two narrow ends.

Sandler et al. 2018 (arXiv:1801.04381), figure 3; with squeeze-and-excitation after the depthwise
convolution as in Tan et al. 2019 (arXiv:1807.11626), figure 7.
"""

import functools
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import check_choice, check_range
from vision.models.layers.convolution import ConvNorm
from vision.models.layers.norms import BatchNorm

PADDINGS = ("symmetric", "same")
# Options of weights that were trained in TensorFlow.
TENSORFLOW = {"padding": "same", "norm_epsilon": 1e-3}


class InvertedResidual(nnx.Module):
    """Widens x (B, H, W, C), filters and weights each channel, narrows; adds x if the shape stays.

    Args:
        features_in: number of input channels C.
        features: number of output channels.
        kernel, stride: those of the depthwise convolution.
        expanded: number of channels of the depthwise convolution; if C, no convolution widens x.
        squeeze: the `SqueezeExcite` of the expanded channels, or None.
        act: activation after all convolutions except the last.
        drop: `StochasticDepth` of the branch, used only if x is added; None: x is never added.
        make: `ConvNorm` with the network's common arguments; see `conv_norms`.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel: int,
        stride: int,
        *,
        expanded: int,
        squeeze: nnx.Module | None = None,
        act: Callable[[jax.Array], jax.Array],
        drop: nnx.Module | None,
        make: Callable[..., ConvNorm],
    ):
        # In one assignment: nnx refuses a module for an attribute that was None before.
        self.expand = make(features_in, expanded, 1, act=act) if expanded != features_in else None
        self.depthwise = make(expanded, expanded, kernel, stride, groups=expanded, act=act)
        self.squeeze = squeeze
        self.project = make(expanded, features, 1)
        self.drop = drop if stride == 1 and features == features_in else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return y if self.drop is None else x + self.drop(y)


def conv_norms(
    *,
    padding: str,
    norm_epsilon: float,
    batch_norm_groups: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> Callable[..., ConvNorm]:
    """Returns `ConvNorm` with a network's common arguments.

    Args:
        padding: "symmetric" for half the kernel on each side, as in PyTorch; "same" for
            TensorFlow's.
        norm_epsilon: added to the variances; 1e-3 in TensorFlow's networks.
        batch_norm_groups: `groups` of `BatchNorm`.
        dtype, rngs: see `Conv`.

    Raises:
        UserError: the padding is unknown, or the epsilon is not above 0.
    """
    check_choice("model.padding", padding, PADDINGS)
    check_range("model.norm_epsilon", norm_epsilon, norm_epsilon > 0, "above 0, such as 1e-5")
    norm = functools.partial(BatchNorm, groups=batch_norm_groups, epsilon=norm_epsilon, rngs=rngs)
    return functools.partial(
        ConvNorm, norm=norm, padding="SAME" if padding == "same" else None, dtype=dtype, rngs=rngs
    )


def round_width(width: float) -> int:
    """Returns the multiple of 8 nearest to `width` channels: at least 8, and at least 90 % of it.

    As TensorFlow's networks round: `round_filters` of tensorflow/tpu's efficientnet,
    `_make_divisible` of MobileNet.
    """
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


# Names in timm and torchvision, for `NAMES` of models that have `stem`, `stages` of blocks, and
# `last`.
TIMM = (
    (r"^stem\.conv", "conv_stem"),
    (r"^stem\.norm", "bn1"),
    (r"^last\.conv", "conv_head"),
    (r"^last\.norm", "bn2"),
    (r"^head\.", "classifier."),
    (r"^stages\.", "blocks."),
    # The first stage's blocks do not widen: there the norms have other numbers and the convolutions
    # other names.
    (r"^(blocks\.0\.\d+)\.depthwise\.norm", r"\1.bn1"),
    (r"^(blocks\.0\.\d+)\.project\.norm", r"\1.bn2"),
    (r"^(blocks\.0\.\d+)\.project\.conv", r"\1.conv_pw"),
    (r"squeeze\.", "se.conv_"),
    (r"expand\.conv", "conv_pw"),
    (r"expand\.norm", "bn1"),
    (r"depthwise\.conv", "conv_dw"),
    (r"depthwise\.norm", "bn2"),
    (r"project\.conv", "conv_pwl"),
    (r"project\.norm", "bn3"),
)
TORCHVISION = (  # after `name_layers`
    (r"squeeze\.reduce", "squeeze.fc1"),
    (r"squeeze\.expand", "squeeze.fc2"),
    (r"\.conv\.", ".0."),
    (r"\.norm\.", ".1."),
)


def name_layers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names the layers that torchvision numbers: "features.3.block.2.x" is "stages.2.project.x".

    The number of a layer within a block depends on which layers the block has; that of the last
    convolution on the number of blocks or stages.

    Args:
        arrays: {torchvision's name: array}.

    Returns:
        {name: array}: names begin with "stem", "stages" and "last" instead of "features".
    """
    end = max(int(match[1]) for name in arrays if (match := re.match(r"features\.(\d+)\.", name)))
    named = {}
    for name, array in arrays.items():
        name = re.sub(r"^features\.0\.", "stem.", name)
        name = re.sub(rf"^features\.{end}\.", "last.", name)
        if match := re.fullmatch(r"features\.(\d+)(.*)\.block\.(\d+)\.(.*)", name):
            feature, place, layer, inner_name = match.groups()
            # Only a depthwise kernel is larger than one pixel.
            widens = arrays[f"features.{feature}{place}.block.0.0.weight"].shape[2] == 1
            third = "squeeze" if inner_name.startswith("fc") else "project"
            layer_names = ("expand", "depthwise", third, "project")
            layer_name = layer_names[int(layer) + (not widens)]
            name = f"stages.{int(feature) - 1}{place}.{layer_name}.{inner_name}"
        named[name] = array
    return named


def nest(arrays: Mapping[str, np.ndarray], blocks: str, kernel: str) -> dict[str, np.ndarray]:
    """Splits a file's flat list of blocks into stages: "BLOCKS.7.x" becomes "BLOCKS.3.1.x".

    A stage begins where the number of channels changes, as in every network of this kind.

    Args:
        arrays: {name: array} of the file, kernels (outputs, inputs, height, width).
        blocks: name of the list.
        kernel: name within a block of its last kernel.

    Returns:
        {name: array}.
    """
    widths = {}
    for name, array in arrays.items():
        if match := re.fullmatch(rf"{blocks}\.(\d+)\.{re.escape(kernel)}", name):
            widths[int(match[1])] = len(array)
    places = {}
    stage = -1
    width = None
    for number in sorted(widths):
        if widths[number] != width:
            stage += 1
            place = 0
            width = widths[number]
        places[str(number)] = f"{blocks}.{stage}.{place}."
        place += 1
    return {
        re.sub(rf"^{blocks}\.(\d+)\.", lambda m: places[m[1]], name): array
        for name, array in arrays.items()
    }
