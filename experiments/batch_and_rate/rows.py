"""The cells of configs/cells_fashion_mnist.py:batch_and_rate."""

from configs.cells_fashion_mnist import CELLS
from experiments.run import Row

DATA = "tfds:fashion_mnist"
CONFIG = "configs/cells_fashion_mnist.py:batch_and_rate"

ROWS = tuple(
    Row(name, CONFIG, {"data.source": "{data}"} | changes)
    for name, changes in CELLS["batch_and_rate"].items()
)
