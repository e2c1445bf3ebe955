"""What sources in memory share: images as one array, and tables that installed packages contain."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vision.data.findings import Finding
from vision.errors import UserError


class ArraySource:
    """A source over arrays in memory.

    Args:
        images: uint8 (N, H, W, C).
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        kind: prefix of the images' names: "mnist5k" gives "mnist5k[17]".
        findings: see `Source`.
    """

    encoded = False

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: Iterable[str],
        kind: str,
        findings: Iterable[Finding] = (),
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"expected uint8 (N, H, W, C), got {images.dtype} {images.shape} "
                f"and {len(labels)} labels"
            )
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.classes = tuple(classes)
        self.kind = kind
        self.findings = tuple(findings)
        self.fields: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return f"{self.kind}[{index}]"

    def column_names(self) -> list[str]:
        """Returns the names of the fields that `column_values` reads, one value for each image."""
        return [name for name, values in self.fields.items() if values.size == len(self)]

    def column_values(self, name: str) -> list:
        """Returns the values of a field, one for each image."""
        return self.fields[name].ravel().tolist()

    def file(self, index: int) -> bytes | None:
        return None


def package_table(package: str, path: str) -> np.ndarray | None:
    """Returns the gzipped table of numbers at `path` inside an installed package, as uint8.

    Returns None if it is not there. Reading the file takes 0.1 s, whereas the packages' own readers
    (and importing scikit-learn) take more than a second.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    file = next((f for f in (Path(folder) / path for folder in folders) if f.is_file()), None)
    return np.loadtxt(file, delimiter=",", dtype=np.uint8) if file else None


def no_argument(kind: str, argument: str) -> None:
    """Raises `UserError` if a kind that takes no argument was given one."""
    if argument:
        raise UserError(f"{kind} takes no argument: write '{kind}' instead of '{kind}:{argument}'")
