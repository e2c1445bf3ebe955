"""The cells of configs/cells_fashion_mnist.py:regularization."""

from configs.cells_fashion_mnist import CELLS
from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/cells_fashion_mnist.py:regularization"
PUBLISHED = {
    "label smoothing 0.1": "+0.2 (ImageNet, arXiv:1512.00567, section 7)",
    "mixup 0.2": "+1.4 (alpha 1, CIFAR-10, PreAct ResNet-18, arXiv:1710.09412, figure 3a)",
    "CutMix 1.0": "+1.0 (CIFAR-10, PyramidNet-200, arXiv:1905.04899, table 7)",
    "RandAugment 2, 9": "+1.2 (CIFAR-10, WRN-28-10, arXiv:1909.13719, table 2)",
}

ROWS = tuple(
    Row(name, CONFIG, {"data.source": "{data}"} | changes, PUBLISHED.get(name, ""))
    for name, changes in CELLS["regularization"].items()
)
