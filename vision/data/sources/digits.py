"""`digits`: the 1,797 handwritten digits that scikit-learn brings along, 8 x 8 gray. No download.

The test set of the UCI data set "Optical recognition of handwritten digits": Alpaydin and Kaynak
1998.
"""

import numpy as np

from vision.data.sources._arrays import ArraySource, no_argument, package_table


def open(argument=""):
    """Returns {"all": source} of (8, 8, 1) images, scaled from 0..16 to 0..255, with the classes
    "0" to "9"."""
    no_argument("digits", argument)
    table = package_table("sklearn", "datasets/data/digits.csv.gz")
    if table is None:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True))
    images = np.round(table[:, :-1].astype(np.float64) * (255 / 16)).astype(np.uint8)
    return {
        "all": ArraySource(images.reshape(-1, 8, 8, 1), table[:, -1], map(str, range(10)), "digits")
    }
