"""The cells of configs/cells_fashion_mnist.py:optimizers."""

from configs.cells_fashion_mnist import CELLS
from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/cells_fashion_mnist.py:optimizers"

ROWS = tuple(
    Row(name, CONFIG, {"data.source": "{data}"} | changes)
    for name, changes in CELLS["optimizers"].items()
)
