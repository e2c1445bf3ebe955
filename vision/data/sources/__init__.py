"""Where images come from: one file a kind, found by its name.

A new kind is a new file here with `open(argument) -> {split: Source}`; `open_splits("KIND:ARGUMENT")` then finds it.
Files whose name starts with an underscore are no kinds. Nothing here imports JAX: Grain's workers import these files,
and have to start fast.
"""

import importlib
import pkgutil
from typing import Protocol

import numpy as np

from vision.errors import check_choice


class Source(Protocol):
    """Labeled images with random access: Grain's protocol, and what the stages around training need to know.

    A source is picklable, for Grain sends it to its workers, and may be read from several threads at once.
    """

    classes: tuple[str, ...]  # the name of each label
    labels: np.ndarray  # (N,) int32, known without decoding any image
    encoded: bool  # True where an image has to be decoded from a file before use

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, index: int) -> dict:
        """Returns {"image": uint8 (H, W, C), "label": int} with C = 1 or 3, each image at its own size.

        Raises:
            UnreadableImage: the file is empty, cut short or no image.
        """

    def name(self, index: int) -> str:
        """Returns what a person finds the image by: a file, or "mnist5k[17]"."""


def kinds():
    """Returns the names of all kinds, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def open_splits(spec):
    """Opens the source that `spec` names.

    Args:
        spec: "KIND" or "KIND:ARGUMENT", such as "mnist5k", "folder:photos" or "tfds:cifar10".

    Returns:
        {"all": source} where the source has no splits of its own, else a dict with some of "train", "val", "test".

    Raises:
        UserError: the kind is unknown, or it cannot open the argument.
    """
    kind, _, argument = spec.partition(":")
    check_choice("data.source", kind, kinds(), ", as KIND or KIND:ARGUMENT")
    return importlib.import_module(f"{__name__}.{kind}").open(argument)
