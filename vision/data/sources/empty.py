"""Classes without images, by their names: `empty:cat,dog + folder:new`.

A training that goes on from a run whose images are gone has the run's classes still. In a name,
write %2C for a comma, as in `?classes=`.
"""

import numpy as np

from vision.data.classes import decode
from vision.data.findings import Finding
from vision.errors import UserError


class EmptySource:
    """Classes without images.

    Args:
        classes: the class names.
    """

    def __init__(self, classes: list[str]):
        self.classes = tuple(classes)
        self.encoded = False
        self.findings: tuple[Finding, ...] = ()
        self.labels = np.zeros(0, np.int32)

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> dict:
        raise IndexError(index)

    def name(self, index: int) -> str:
        raise IndexError(index)

    def file(self, index: int) -> bytes | None:
        raise IndexError(index)


def open(argument: str) -> dict[str, EmptySource]:
    """Returns a source with the classes of a list such as "cat,dog", and no images.

    Raises:
        UserError: a name is empty, or occurs twice.
    """
    classes = [decode(name) for name in argument.split(",")]
    if not all(classes) or len(set(classes)) < len(classes):
        raise UserError(f"empty:{argument} must list different class names, such as empty:cat,dog")
    return {"all": EmptySource(classes)}
