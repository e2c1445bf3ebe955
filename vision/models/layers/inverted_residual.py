"""The block of the mobile networks: MBConv, a wide depthwise convolution between two narrow ends.

Sandler et al. 2018 (arXiv:1801.04381), figure 3; with squeeze-and-excitation after the depthwise
convolution as in Tan et al. 2019 (arXiv:1807.11626), figure 7.
"""

import functools
import re

from flax import nnx

from vision.errors import check_choice, check_range
from vision.models.layers.convolution import ConvNorm
from vision.models.layers.norms import BatchNorm

PADDINGS = ("symmetric", "same")
# the options that weights trained in TensorFlow go with
TENSORFLOW = {"padding": "same", "norm_epsilon": 1e-3}


class InvertedResidual(nnx.Module):
    """Widens x (B, H, W, C), filters each channel, weighs the channels, narrows; adds x where the
    shape stays.

    Args:
        features_in: C.
        features: channels of the result.
        kernel, stride: of the depthwise convolution.
        expanded: channels of the depthwise convolution; where C, there is no convolution that
            widens.
        squeeze: the `SqueezeExcite` of the expanded channels, or None.
        act: after all convolutions but the last.
        drop: the branch's `StochasticDepth`; it acts where x is added.
        make: `ConvNorm` with what all of the network's have in common; see `conv_norms`.
    """

    def __init__(
        self, features_in, features, kernel, stride, *, expanded, squeeze=None, act, drop, make
    ):
        self.expand = make(features_in, expanded, 1, act=act) if expanded != features_in else None
        self.depthwise = make(expanded, expanded, kernel, stride, groups=expanded, act=act)
        self.squeeze = squeeze
        self.project = make(expanded, features, 1)
        self.drop = drop if stride == 1 and features == features_in else None

    def __call__(self, x):
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return y if self.drop is None else x + self.drop(y)


def conv_norms(*, padding, norm_epsilon, batch_norm_groups, dtype, rngs):
    """Returns `ConvNorm` with a network's common arguments.

    Args:
        padding: "symmetric": half the kernel on each side, as in PyTorch. "same": TensorFlow's.
        norm_epsilon: added to the variances; 1e-3 in TensorFlow's networks.
        batch_norm_groups: see `norms.BatchNorm`.
        dtype, rngs: see `Conv`.

    Raises:
        UserError: an unknown padding, or an epsilon that is not above 0.
    """
    check_choice("model.padding", padding, PADDINGS)
    check_range("model.norm_epsilon", norm_epsilon, norm_epsilon > 0, "above 0, such as 1e-5")
    norm = functools.partial(BatchNorm, groups=batch_norm_groups, epsilon=norm_epsilon, rngs=rngs)
    return functools.partial(
        ConvNorm, norm=norm, padding="SAME" if padding == "same" else None, dtype=dtype, rngs=rngs
    )


def round_width(width):
    """Returns the multiple of 8 nearest to a number of channels: at least 8, and not below 90 % of
    it.

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
    # The first stage's blocks do not widen: they number the norms and name the convolutions
    # otherwise.
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


def name_layers(arrays):
    """Gives the layers that torchvision numbers a name: "features.3.block.2.x" becomes
    "stages.2.project.x".

    The number of a layer in a block depends on which layers the block has; that of the last
    convolution on how many blocks or stages there are.

    Args:
        arrays: {name: array} of the file.

    Returns:
        {name: array}: names begin with "stem", "stages" and "last" instead of "features".
    """
    end = max(int(match[1]) for name in arrays if (match := re.match(r"features\.(\d+)\.", name)))
    result = {}
    for name, array in arrays.items():
        name = re.sub(rf"^features\.{end}\.", "last.", re.sub(r"^features\.0\.", "stem.", name))
        if match := re.fullmatch(r"features\.(\d+)(.*)\.block\.(\d+)\.(.*)", name):
            first, place, layer, rest = match.groups()
            # Only a depthwise kernel is larger than a pixel.
            widens = arrays[f"features.{first}{place}.block.0.0.weight"].shape[2] == 1
            kind = (
                "expand",
                "depthwise",
                "squeeze" if rest.startswith("fc") else "project",
                "project",
            )
            name = f"stages.{int(first) - 1}{place}.{kind[int(layer) + (not widens)]}.{rest}"
        result[name] = array
    return result


def nest(arrays, blocks, kernel):
    """Gives blocks that a file has in one list a stage and a place in it: "BLOCKS.7.x" becomes
    "BLOCKS.3.1.x".

    A stage begins where the number of channels changes, as it does in every network of this kind.

    Args:
        arrays: {name: array} of the file, kernels (outputs, inputs, height, width).
        blocks: the list's name.
        kernel: the name in a block of its last kernel.

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
            stage = stage + 1
            place = 0
            width = widths[number]
        places[str(number)] = f"{blocks}.{stage}.{place}."
        place += 1
    return {
        re.sub(rf"^{blocks}\.(\d+)\.", lambda m: places[m[1]], name): array
        for name, array in arrays.items()
    }
