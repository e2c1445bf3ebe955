"""What sources in memory share: images as one array, and tables of numbers that an installed
package brings along."""

import importlib.util
from pathlib import Path

import numpy as np

from vision.errors import UserError


class ArraySource:
    """A source over arrays in memory.

    Args:
        images: uint8 (N, H, W, C).
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        kind: what the images are called in messages: "mnist5k" gives "mnist5k[17]".
        findings: see `Source`.
    """

    encoded = False

    def __init__(self, images, labels, classes, kind, findings=()):
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"expected uint8 (N, H, W, C), got {images.dtype} {images.shape} and {len(labels)} labels"
            )
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)
        self.kind = kind
        self.findings = tuple(findings)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}

    def name(self, index):
        return f"{self.kind}[{index}]"

    def file(self, index):
        return None


def package_table(package, path):
    """Returns the gzipped table of numbers at `path` inside an installed package, as uint8; None if
    it is not there.

    Reading the file takes 0.1 s, where the packages' own readers (and importing scikit-learn) take
    more than a second.
    """
    spec = importlib.util.find_spec(package)
    files = [Path(folder) / path for folder in spec.submodule_search_locations] if spec else []
    file = next((f for f in files if f.is_file()), None)
    return np.loadtxt(file, delimiter=",", dtype=np.uint8) if file else None


def no_argument(kind, argument):
    """Raises UserError if a kind that takes no argument was given one."""
    if argument:
        raise UserError(f"{kind} takes no argument: write '{kind}' instead of '{kind}:{argument}'")
