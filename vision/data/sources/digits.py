"""`digits`: the 1,797 handwritten digits, 8 x 8 gray, from scikit-learn. No download.

The test set of the UCI dataset "Optical recognition of handwritten digits": Alpaydin and Kaynak
1998.
"""

import numpy as np

from vision.data.sources import Source
from vision.data.sources._arrays import ArraySource, no_argument, package_table


def open(argument: str = "") -> dict[str, Source]:
    """Returns {"all": source} of (8, 8, 1) images with the classes "0" to "9".

    Pixels are scaled from 0..16 to 0..255.
    """
    no_argument("digits", argument)
    table = package_table("sklearn", "datasets/data/digits.csv.gz")
    if table is None:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    images = np.round(table[:, :-1].astype(np.float64) * (255 / 16)).astype(np.uint8)
    images = images.reshape(-1, 8, 8, 1)
    return {"all": ArraySource(images, table[:, -1], map(str, range(10)), "digits")}
